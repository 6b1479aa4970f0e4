"""The goals: ratios within one run that tiercache must reach, and the figures of a run beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.results import SUBJECT, Case, Ratio, Results
from benchmarks.works.groups import L1_ENTRIES, UNRELATED
from benchmarks.works.stampede import LOADER_SECONDS

RIVAL = "betterdb"
HANDMADE = "handmade"
FLOOR = "floor"
SDK = "sdk"

_TITLES = {RIVAL: "betterdb-agent-cache", HANDMADE: "OrderedDict + sha256(json)", FLOOR: "a bare PUBLISH"}
_SIZES = {"short": "short", "chat": "8 KB chat", "context": "100 KB context"}
_SPEED_GOALS = (  # work, variant, peer, times as fast
    ("l1-hit", "short-1", RIVAL, 150),
    ("l1-hit", "chat-1", RIVAL, 40),
    ("l1-hit", "context-1", RIVAL, 300),
    ("l1-hit", "short-1", HANDMADE, 3.5),
    ("l1-hit", "chat-1", HANDMADE, 7),
    ("l1-hit", "context-1", HANDMADE, 100),
    ("l2-hit", "short-1", RIVAL, 6),
    ("l2-hit", "chat-1", RIVAL, 8),
    ("l2-hit", "context-1", RIVAL, 20),
    ("l2-hit", "short-100", RIVAL, 9),
    ("l2-hit", "chat-100", RIVAL, 9),
    ("miss-store", "short", RIVAL, 2.5),
)
_BATCH_GOALS = (("short", 10), ("chat", 6))
_GROUPS = {
    "session-all": "`session.get_all`",
    "destroy-thread": "`destroy_thread`",
    "invalidate-tool": "`invalidate_by_tool`",
    "invalidate-model": "`invalidate_by_model`",
}
_LEAST_MS = 0.001
_WORKS = {"l1-hit": "L1 hit", "l2-hit": "L2 hit", "miss-store": "miss + store"}


@dataclass(frozen=True)
class Goal:
    """One goal: a figure and its limit.

    The limit is a lower one, or an upper one with ``is_most``.
    """

    title: str
    against: str
    limit: float
    figure: Ratio
    unit: str = "x"
    is_most: bool = False
    cpu: Ratio | None = None
    """The same ratio by CPU time of the client, for the reader; only ``figure`` decides whether the goal is met."""

    @property
    def is_met(self) -> bool:
        """Whether the figure is within the limit."""
        return self.figure.value <= self.limit if self.is_most else self.figure.value >= self.limit


def goals(results: Results) -> list[Goal]:
    """Return the goals for which the run has figures."""
    parts = (_speeds, _batches, _stampedes, _groups, _others, _wrapped)
    return [goal for part in parts for goal in part(results)]


def _speeds(results: Results) -> Iterator[Goal]:
    for work, variant, peer, limit in _SPEED_GOALS:
        ratio = results.speed(work, variant, peer)
        if ratio:
            size, _, callers = variant.partition("-")
            many = f", {callers} callers" if callers not in ("", "1") else ""
            title, against = f"{_WORKS[work]}, {_SIZES[size]}{many}", f"{_TITLES[peer]}, times as fast"
            # With one caller the server shares the core, so the wall time of both peers includes its time.
            by_cpu = work == "l2-hit" and callers == "1"
            yield Goal(title, against, limit, ratio, cpu=results.speed(work, variant, peer, "cpu") if by_cpu else None)


def _batches(results: Results) -> Iterator[Goal]:
    for subject, how in ((SUBJECT, "awaited"), ("tiercache_behind", "write-behind")):
        for size, limit in _BATCH_GOALS:
            ratio = results.ratio(Case("store-batch", size, RIVAL), Case("store-batch", size, subject))
            if ratio:
                title = f"1,000 stores at once, {_SIZES[size]}, {how}"
                yield Goal(title, f"{_TITLES[RIVAL]}, times as fast", limit, ratio)


def _stampedes(results: Results) -> Iterator[Goal]:
    for work, where in (("stampede", "one process"), ("stampede-processes", "eight processes")):
        case = Case(work, "1000", SUBJECT)
        calls = results.note(case, "loader_calls")
        if calls is not None:
            title = f"1,000 identical misses, {where}"
            yield Goal(title, "loader calls", 1, Ratio(calls, calls, calls), " call", is_most=True)
            if work == "stampede":
                times = [wall / LOADER_SECONDS for each in results.rounds[case] for wall in each.wall]
                yield Goal(title, "time of the loader", 1.15, Ratio.of(times), is_most=True)


def _groups(results: Results) -> Iterator[Goal]:
    few, many = (str(count) for count in (UNRELATED[0], UNRELATED[-1]))
    for work, title in _GROUPS.items():
        growth = results.ratio(Case(work, many, SUBJECT), Case(work, few, SUBJECT))
        if growth:
            yield Goal(f"{title}, 1,000,000 unrelated keys", "the same with 1,000", 2, growth, is_most=True)
        ratio = results.speed(work, many, RIVAL)
        if ratio:
            against = f"{_TITLES[RIVAL]}, times as fast"
            yield Goal(f"{title}, 1,000,000 unrelated keys", against, 1_000, ratio)


def _others(results: Results) -> Iterator[Goal]:
    few, many = (str(count) for count in (L1_ENTRIES[0], L1_ENTRIES[-1]))
    drop = results.ratio(Case("drop-l1", many, SUBJECT), Case("drop-l1", few, SUBJECT))
    if drop:
        yield Goal("invalidate by model, 100,000 entries in L1", "the same with 1,000", 2, drop, is_most=True)
    length = results.ratio(Case("l1-hit", "context-1", SUBJECT), Case("l1-hit", "short-1", SUBJECT))
    if length:
        yield Goal("L1 hit, 100 KB of unchanged context", "a short request", 3, length, is_most=True)
    decorated = results.ratio(Case("decorated-hit", "function", SUBJECT), Case("decorated-hit", "key", SUBJECT))
    if decorated:
        yield Goal("L1 hit of a decorated function", "`kv.get_or_load` with its key", 1.3, decorated, is_most=True)
    delivery = results.ratio(Case("invalidation", "p99", SUBJECT), Case("invalidation", "p99", FLOOR))
    if delivery:
        yield Goal("invalidation in eight replicas, p99", _TITLES[FLOOR], 2, delivery, is_most=True)
    for variant, kind in (("values", "key and value"), ("answers", "answer of a short request")):
        memory = results.median(Case("memory", variant, SUBJECT))
        if memory is not None:
            title = f"process memory per L1 entry, {kind}"
            yield Goal(title, "beyond key and value", 600, Ratio(memory, memory, memory), " B", is_most=True)


def _wrapped(results: Results) -> Iterator[Goal]:
    for form, title in (("whole", "a whole chat"), ("stream", "a stream of 36 events")):
        cost = results.ratio(Case("wrapped-hit", f"l1-{form}", SUBJECT), Case("wrapped-hit", f"l1-{form}", SDK), "cpu")
        if cost:
            yield Goal(f"wrapped client, L1 hit of {title}", "the bare SDK, CPU time", 1.3, cost, is_most=True)
    ours, bare = (results.rounds.get(Case("wrapped-first-part", "first", peer), []) for peer in (SUBJECT, SDK))
    added = [median(one.wall) - median(other.wall) for one, other in zip(ours, bare, strict=True)]
    if added:
        yield _delay("wrapped client, first part of a streamed miss", "more than the bare SDK", 1, added)
    behind = [median(each.wall) for each in results.rounds.get(Case("wrapped-follow", "delay", SUBJECT), [])]
    if behind:
        title = "wrapped client, a part of a stream, three other processes"
        yield _delay(title, "behind the process that makes the request", 100, behind)


def _delay(title: str, against: str, limit: float, seconds: list[float]) -> Goal:
    figure = Ratio.of(max(each * 1000, _LEAST_MS) for each in seconds)
    return Goal(title, against, limit, figure, " ms", is_most=True)
