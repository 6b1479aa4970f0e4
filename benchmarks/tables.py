"""The Markdown tables of a run: goals, medians with ratios by work, and the machine they were measured on."""

from collections.abc import Iterable

from benchmarks.goals import Goal, goals
from benchmarks.peers import PEERS, peer_class
from benchmarks.results import SUBJECT, Case, Ratio, Results
from benchmarks.works import WORKS, Variant, Work

_CPU_WORKS = ("l2-hit", "store-batch")


def markdown(results: Results) -> str:
    """Return all tables of a run."""
    parts = [goal_table(results), *(work_tables(results, work) for work in WORKS.values()), notes(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def goal_table(results: Results) -> str:
    """Return the goals with the figures of the run, and whether each goal is met."""
    rows = [
        (
            goal.title,
            goal.against,
            _limit(goal),
            _reached(goal),
            "yes" if goal.is_met else "**no**",
            ratio_text(goal.cpu) if goal.cpu else "",
        )
        for goal in goals(results)
    ]
    head = ("work", "against", "goal", "median (rounds)", "met", "by CPU time of the client, no goal")
    return table(head, rows) if rows else ""


def work_tables(results: Results, work: Work) -> str:
    """Return a table for each group of variants of ``work``: one row per peer, one column per variant."""
    variants = [variant for variant in work.variants() if results.peers(work.name, variant.name)]
    if not variants:
        return ""
    parts = [f"### {work.title}", f"{work.explained[0].upper()}{work.explained[1:]}." if work.explained else ""]
    for name in dict.fromkeys(variant.table for variant in variants):
        columns = [variant for variant in variants if variant.table == name]
        parts.append(_medians(results, work, columns, "wall", name))
        if work.name in _CPU_WORKS and any(variant.callers > 1 for variant in columns):
            parts.append(_medians(results, work, columns, "cpu", f"{name}, CPU time of the client"))
    return "\n\n".join(part for part in parts if part)


def ratio_table(
    results: Results, rows: Iterable[tuple[str, str, str]], peers: Iterable[str], *, is_inverse: bool = False
) -> str:
    """Return how many times as fast as each peer tiercache is.

    Args:
        rows: Title, work and variant of each row.
        is_inverse: Show how many times as long tiercache takes.
    """
    peers = list(peers)
    lines = []
    for title, work, variant in rows:
        median = results.median(Case(work, variant, SUBJECT))
        if median is not None:
            cases = [(Case(work, variant, peer), Case(work, variant, SUBJECT)) for peer in peers]
            ratios = [results.ratio(*reversed(pair)) if is_inverse else results.ratio(*pair) for pair in cases]
            lines.append((title, duration(median), *(ratio_text(ratio) if ratio else "-" for ratio in ratios)))
    return table(("work", "tiercache", *(peer_title(peer) for peer in peers)), lines)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; the columns after the first are aligned right."""
    lines = [head, ("---", *("--:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes(results: Results) -> str:
    """Return the machine, the versions, and the peers that were left out."""
    machine = results.machine
    python = f"{machine.get('python_implementation', 'Python')} {machine.get('python_version', '')}".split(" (")[0]
    pinned = "With one caller, client and Valkey share one core; with more, each has its own. "
    lines = [
        f"{_rounds(machine)}, {machine.get('date', '')}. "
        + (pinned if machine.get("pinned") == "yes" else "Nothing was pinned to a core. ")
        + f"{python}, {machine.get('loop', '')}; {machine.get('cpu_model_name', 'unknown processor')}, "
        f"{machine.get('cpu_count', '?')} cores; {machine.get('versions', '')}."
    ]
    remarks = [peer_class(name) for name in PEERS if any(case.peer == name for case in results.rounds)]
    lines += [f"[1] {peer.title} {peer.note}." for peer in remarks if peer.note]
    lines += [f"Not measured: {name} ({reason})." for name, reason in results.missing.items()]
    lines += [f"Left out: {name} ({reason})." for name, reason in results.failed.items()]
    return "\n\n".join(lines)


def _rounds(machine: dict[str, str]) -> str:
    runs, stopped = int(machine.get("runs", 1)), int(machine.get("stopped", 0))
    rounds = machine.get("rounds", "?")
    text = f"{rounds} round{'s' * (rounds != '1')}" + (f" of {runs} runs taken together" if runs > 1 else "")
    return text + (f" ({stopped} stopped before the end)" if stopped else "")


def duration(seconds: float) -> str:
    """Return a duration with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{digits(seconds * factor)} {unit}"
    return f"{digits(seconds * 1e9)} ns"


def digits(value: float) -> str:
    """Return ``value`` with three digits, or all digits of its integer part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio_text(ratio: Ratio) -> str:
    """Return a ratio with its range: ``5.1x (4.9-5.2)``."""
    return f"{digits(ratio.value)}x ({digits(ratio.low)}-{digits(ratio.high)})"


def peer_title(name: str) -> str:
    """Return the title of a peer, or its name if its library is not installed."""
    try:
        return peer_class(name).title
    except ImportError:
        return name


def _medians(results: Results, work: Work, variants: list[Variant], clock: str, head: str) -> str:
    measured = {peer for variant in variants for peer in results.peers(work.name, variant.name)}
    rows = [
        (
            f"**{peer_title(peer)}**" if peer == SUBJECT else peer_title(peer),
            *(_cell(results, work, variant, peer, clock) for variant in variants),
        )
        for peer in PEERS
        if peer in measured
    ]
    return table((head, *(variant.column for variant in variants)), rows)


def _cell(results: Results, work: Work, variant: Variant, peer: str, clock: str) -> str:
    case = Case(work.name, variant.name, peer)
    median = results.median(case, clock)
    if median is None:
        return "-"
    text = f"{median:,.0f} B" if work.unit == "byte" and clock == "wall" else duration(median)
    if peer == SUBJECT:
        text = f"**{text}**"
    elif ratio := results.speed(work.name, variant.name, peer, clock):
        text += f" ({digits(ratio.value)}x)"
    if variant.use == "l1" and "l1" not in peer_class(peer).levels:
        text += " [1]"
    calls = results.note(case, "loader_calls")
    return text if calls is None else f"{text}, {calls:,.0f} load" + "s" * (calls != 1)


def _limit(goal: Goal) -> str:
    return f"{'at most' if goal.is_most else 'at least'} {goal.limit:,g}{goal.unit}"


def _reached(goal: Goal) -> str:
    if goal.unit == "x":
        return ratio_text(goal.figure)
    return f"{digits(goal.figure.value)}{goal.unit}"
