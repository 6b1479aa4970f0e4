"""Turns a measured suite into figures to compare, and these into the Markdown that the README shows.

Every figure is the median of all values of all rounds. A ratio is the median, over the rounds, of the quotient of two
medians of the same round, whose values were measured within seconds of each other; its range is the lowest and the
highest of these quotients.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pyperf

from benchmarks.peers import PEERS, Work
from benchmarks.plan import Case
from benchmarks.requests import SIZES, Size

SUBJECT = "tiercache"
RIVAL = "betterdb"
WORK_TITLES = {
    Work.L1_HIT: "L1 hit",
    Work.L2_HIT: "L2 hit",
    Work.MISS_STORE: "miss + store",
    Work.STAMPEDE: "1,000 identical misses",
}
GOALS = {("short", Work.L1_HIT): 40.0, ("short", Work.L2_HIT): 2.0}
"""How many times as fast as betterdb-agent-cache tiercache has to be at least."""


@dataclass(frozen=True)
class Figure:
    """One case: seconds by round, and the loader calls of a stampede."""

    case: Case
    rounds: tuple[tuple[float, ...], ...]
    loader_calls: int | None

    @property
    def median(self) -> float:
        return statistics.median(self._values())

    @property
    def spread(self) -> float:
        """Median absolute deviation, as a fraction of the median."""
        return statistics.median(abs(value - self.median) for value in self._values()) / self.median

    def _values(self) -> list[float]:
        return [value for values in self.rounds for value in values]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one case is as another."""

    value: float
    low: float
    high: float
    other: str

    def __str__(self) -> str:
        return f"{_digits(self.value)}x ({_digits(self.low)}-{_digits(self.high)})"


class Figures:
    """All cases of one suite."""

    def __init__(self, suite: pyperf.BenchmarkSuite) -> None:
        self._by_name = {bench.get_name(): _figure(bench) for bench in suite}
        self.machine = _machine(suite)

    def get(self, size: str, work: Work, peer: str) -> Figure | None:
        return self._by_name.get(Case(size, work, peer).name)

    def peers(self, size: str) -> list[str]:
        return [peer for peer in PEERS if any(self.get(size, work, peer) for work in Work)]

    def works(self, size: str) -> list[Work]:
        return [work for work in Work if any(self.get(size, work, peer) for peer in PEERS)]

    def sizes(self) -> list[Size]:
        return [size for size in SIZES.values() if self.works(size.name)]

    def ratio(self, size: str, work: Work, other: str) -> Ratio | None:
        """How many times as fast as ``other`` tiercache is."""
        subject, figure = self.get(size, work, SUBJECT), self.get(size, work, other)
        if subject is None or figure is None:
            return None
        by_round = [
            statistics.median(theirs) / statistics.median(ours)
            for ours, theirs in zip(subject.rounds, figure.rounds, strict=True)
        ]
        return Ratio(statistics.median(by_round), min(by_round), max(by_round), other)

    def best_peer(self, size: str, work: Work) -> Ratio | None:
        """The ratio to the fastest cache but tiercache, of those that use the level that the work is about."""
        peers = [peer for peer, info in PEERS.items() if info.is_cache and peer != SUBJECT and _note(work, peer) == ""]
        ratios = [ratio for peer in peers if (ratio := self.ratio(size, work, peer)) is not None]
        return min(ratios, key=lambda ratio: ratio.value, default=None)


def goals(figures: Figures) -> Iterator[tuple[bool, str]]:
    """Whether each goal that was measured is reached, and in words."""
    for (size, work), goal in GOALS.items():
        ratio = figures.ratio(size, work, RIVAL)
        if ratio is not None:
            measured = f"{WORK_TITLES[work]}, {size}: {ratio} as fast as {PEERS[RIVAL].title}"
            yield ratio.value >= goal, f"{measured}, at least {goal:g}x wanted"
    for size in SIZES:
        stampede = figures.get(size, Work.STAMPEDE, SUBJECT)
        if stampede is not None:
            measured = f"{WORK_TITLES[Work.STAMPEDE]}: loader called {stampede.loader_calls} x"
            yield stampede.loader_calls == 1, f"{measured}, 1 x wanted"


def markdown(figures: Figures) -> str:
    """Tables of medians and of ratios, and what they were measured on."""
    parts = [part for size in figures.sizes() for part in (_medians(figures, size), _ratios(figures, size))]
    return "\n\n".join([*parts, *_notes(figures)]) + "\n"


def duration(seconds: float) -> str:
    """A duration with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds * 1e9)} ns"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _figure(bench: pyperf.Benchmark) -> Figure:
    rounds = tuple(run.values for run in bench.get_runs() if run.values)
    return Figure(Case.named(bench.get_name()), rounds, bench.get_metadata().get("loader_calls"))


def _machine(suite: pyperf.BenchmarkSuite) -> dict[str, str]:
    metadata = suite.get_benchmarks()[0].get_metadata()
    return {key: str(value) for key, value in metadata.items()}


def _medians(figures: Figures, size: Size) -> str:
    works = figures.works(size.name)
    lines = [
        f"**{size.title[0].upper()}{size.title[1:]}**, median ± median deviation",
        "",
        "| | " + " | ".join(WORK_TITLES[work] for work in works) + " |",
        "|---|" + "--:|" * len(works),
    ]
    for peer in figures.peers(size.name):
        cells = [_cell(figures.get(size.name, work, peer), work, peer) for work in works]
        lines.append(f"| {_strong(PEERS[peer].title, peer)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: Figure | None, work: Work, peer: str) -> str:
    if figure is None:
        return "-"
    text = f"{duration(figure.median)} ± {figure.spread:.0%}"
    text += _note(work, peer)
    if figure.loader_calls is not None:
        text += f", {figure.loader_calls:,} load" + "s" * (figure.loader_calls != 1)
    return _strong(text, peer)


def _note(work: Work, peer: str) -> str:
    """The mark of a figure that stands for less or other work than its neighbours."""
    info = PEERS[peer]
    if work is Work.L1_HIT:
        return "" if info.has_l1 else " [1]"
    return "" if info.has_l2 else " [2]"


def _strong(text: str, peer: str) -> str:
    return f"**{text}**" if peer == SUBJECT else text


def _ratios(figures: Figures, size: Size) -> str:
    lines = [f"| tiercache is | as fast as {PEERS[RIVAL].title} | as fast as the best peer |"]
    lines.append("|---|--:|--:|")
    for work in figures.works(size.name):
        rival, best = figures.ratio(size.name, work, RIVAL), figures.best_peer(size.name, work)
        cells = [str(rival or "-"), f"{best}, {PEERS[best.other].title}" if best else "-"]
        lines.append(f"| {WORK_TITLES[work]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _notes(figures: Figures) -> list[str]:
    machine = figures.machine
    python = f"{machine.get('python_implementation', 'Python')} {machine.get('python_version', '')}"
    processor = f"{machine.get('cpu_model_name', 'unknown processor')}, {machine.get('cpu_count', '?')} cores"
    return [
        "A ratio is the median over the rounds, each of which gives a quotient of two medians; in brackets the lowest "
        "and the highest. "
        "One caller, except for the 1,000 identical misses on a loader that takes 50 ms. "
        f"{machine.get('requests', '')} {machine.get('cores', '')} "
        '"miss + store" is the lookup that misses and the store, until Valkey has acknowledged it. '
        "The floor is no cache: a dict lookup, a bare GET and SET by valkey-py, a task that all await.",
        "[1] No memory level: its hit reads Valkey and writes its statistics there. "
        "[2] Memory only: it neither asks Valkey nor fills it, and is not compared here.",
        f"{python}; {processor}; {machine.get('versions', '')}.",
    ]
