"""The Markdown tables of a run: the throughput of fleets, and the cost of a change by the number of followers."""

from benchmarks.fleet import changes, throughput
from benchmarks.fleet.plan import PEERS, TRACKING
from benchmarks.peers import peer_class
from benchmarks.results import SUBJECT, Case, Results
from benchmarks.tables import digits, duration, notes, peer_title, table

_CLOCKS = {
    "wall": "operations a second",
    "cpu": "operations a CPU second of the clients",
    "server": "CPU of the server, an operation",
}
_TITLES = {"load": "load", "store": "store", "invalidate": "invalidation"}
FLOOR_TITLE = "floor: DEL and 3 messages"


def markdown(results: Results) -> str:
    """Return all tables of a run."""
    parts = (throughput_tables(results), change_tables(results), notes(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def throughput_tables(results: Results) -> str:
    """Return a table for each figure: one row per fleet, one column per cache."""
    peers = [peer for peer in PEERS if any(case.peer == peer for case in _cases(results, throughput.WORK))]
    fleets = sorted({scale_of(case) for case in _cases(results, throughput.WORK)})
    titles = [f"**{peer_title(peer)}**" if peer == SUBJECT else f"{peer_title(peer)}{_mark(peer)}" for peer in peers]
    parts = [
        table(
            (title, *titles),
            [(_fleet(*fleet), *(_throughput(results, *fleet, peer, clock) for peer in peers)) for fleet in fleets],
        )
        for clock, title in _CLOCKS.items()
    ]
    return "\n\n".join(parts) if fleets else ""


def change_tables(results: Results) -> str:
    """Return the CPU time of the server and of all clients: one row per change and way of tracking."""
    counts = follower_counts(results)
    heads = [f"{count} follow" + "s" * (count == 1) for count in counts]
    rows = [
        (f'{_TITLES[change]}, `"{tracking}"`', [changes.case_of(change, tracking, count) for count in counts])
        for change in changes.CHANGES
        for tracking in trackings(results)
    ]
    rows.append((FLOOR_TITLE, [changes.floor_case(count) for count in counts]))
    parts = [
        table((title, *heads), [(name, *(_time(results, case, clock) for case in cases)) for name, cases in rows])
        for clock, title in (("server", "CPU of the server"), ("cpu", "CPU of all clients"))
    ]
    return "\n\n".join(parts) if counts else ""


def trackings(results: Results) -> list[str]:
    """Return the ways of tracking that were measured, in the order of the package."""
    found = {case.variant.rpartition("-")[0] for case in _cases(results, "fleet-load")}
    return [*(each for each in TRACKING if each in found), *sorted(found.difference(TRACKING))]


def follower_counts(results: Results) -> list[int]:
    """Return the numbers of followers that were measured."""
    return sorted({int(case.variant.rpartition("-")[2]) for case in _cases(results, "fleet-load")})


def scale_of(case: Case) -> tuple[int, int]:
    """Return the processes of a case of the throughput, and the callers of each process."""
    processes, _, callers = case.variant.partition("x")
    return int(processes), int(callers)


def _cases(results: Results, work: str) -> list[Case]:
    return [case for case in results.rounds if case.work == work]


def _mark(peer: str) -> str:
    try:
        return " [1]" if peer_class(peer).note else ""
    except ImportError:
        return ""


def _fleet(processes: int, callers: int) -> str:
    return f"{processes} process{'es' * (processes > 1)}, {callers} caller{'s' * (callers > 1)} each"


def _throughput(results: Results, processes: int, callers: int, peer: str, clock: str) -> str:
    median = results.median(throughput.case_of(processes, callers, peer), clock)
    if median is None:
        return "-"
    text = duration(median) if clock == "server" else f"{1 / median:,.0f}"
    if peer == SUBJECT:
        return f"**{text}**"
    ratio = results.speed(throughput.WORK, f"{processes}x{callers}", peer, clock)
    return f"{text} ({digits(ratio.value)}x)" if ratio else text


def _time(results: Results, case: Case, clock: str) -> str:
    median = results.median(case, clock)
    return "-" if median is None else duration(median)
