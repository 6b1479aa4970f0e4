"""The report of a soak: the section of the documentation, as Markdown."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from ...version import __version__
from . import checks
from .faults import text_of
from .protocol import Rest
from .run import Outcome

__all__ = ["CHECKS", "report_of"]

# By kind of problem: the promise, and its bound.
CHECKS: Final[dict[str, str]] = {
    "key": "a value belongs to its key, byte for byte",
    "own": "no read is older than a change that its own process had completed",
    "bound": "no read is older than a change that any process had completed `max_staleness` earlier",
    "error": "a lookup or a load raises only the exception of its loader; a change also the errors of Valkey",
    "hang": "every call ends within 45 s",
    "uncaught": "no uncaught exception, no log line above WARNING",
    "stderr": "nothing on standard error",
    "memory": f"resident memory grows by at most {checks.MOST_GROWN_BYTES // 2**20} MiB after the warm-up",
    "tasks": f"at rest, at most {checks.MOST_GROWN_TASKS} more tasks after the warm-up",
    "descriptors": f"at rest, at most {checks.MOST_GROWN_DESCRIPTORS} more file descriptors after the warm-up",
    "containers": f"no container of a cache has more than {checks.MOST_ELEMENTS:,} elements",
    "rest": "flights, fences, leases, pending invalidations, queued writes and waiters: none when the load has ended",
    "close": "no task and no file descriptor is left after `aclose`",
    "keys": "after the last lifetime Valkey keeps no key of an entry, an index or a thread",
}
_SHOWN_PROBLEMS: Final = 20
_SHOWN_SIZES: Final = 8


def report_of(outcome: Outcome) -> str:
    """Return the report."""
    parts = [
        "## A soak",
        _introduction(outcome),
        _table(("check", "measured", "violations"), _check_rows(outcome)),
        _table(("fault", "times"), _fault_rows(outcome)),
        _table(("calls", "count"), _call_rows(outcome)),
        *_problems(outcome),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(outcome: Outcome) -> str:
    settings, ended = outcome.settings, outcome.ended
    calls = sum(sum(each.calls.values()) for each in ended)
    verdict = _count(len(outcome.problems), "violation", "violations") if outcome.problems else "no violation"
    return (
        f"    {settings.command}\n\n"
        f"{_count(settings.processes, 'process', 'processes')} used one Valkey through a proxy for "
        f"{outcome.seconds / 60:.1f} minutes, while {len(outcome.faults)} faults happened one after the other: "
        f"**{verdict}** in {calls:,} calls. tiercache {__version__}, Python {platform.python_version()}, "
        f"Valkey {outcome.server}, on {platform.system()}."
    )


def _check_rows(outcome: Outcome) -> Iterator[tuple[str, str, int]]:
    counts = Counter(problem.kind for problem in outcome.problems)
    measured = _measured(outcome)
    for kind, text in CHECKS.items():
        yield text, measured.get(kind, ""), counts[kind]


def _measured(outcome: Outcome) -> dict[str, str]:
    """Return a short text of the measures by kind of check."""
    ended, rests = outcome.ended, [rests for rests in outcome.rests if rests]
    if not ended or not rests:
        return {}
    checked = f"{sum(each.checked for each in ended):,} values"
    largest = list(checks.largest_sizes(outcome).items())[:_SHOWN_SIZES]
    memory = [checks.growth(each, lambda rest: rest.rss_bytes) / 2**20 for each in rests]
    texts = {
        "key": checked,
        "own": checked,
        "bound": checked,
        "error": f"{sum(sum(each.raised.values()) for each in ended):,} permitted errors",
        "hang": f"{sum(each.cancelled for each in ended):,} calls were cancelled by their callers",
        "uncaught": f"{sum(each.warnings for each in ended):,} warnings",
        "memory": f"{min(memory):+.1f} to {max(memory):+.1f} MiB; {_range(rests, _mebibytes)} MiB at the end",
        "tasks": f"{_range(rests, lambda rest: rest.tasks)} tasks at the end",
        "descriptors": f"{_range(rests, lambda rest: rest.descriptors)} at the end",
        "containers": ", ".join(f"`{name}` {size:,}" for name, size in largest),
        "keys": "not checked",
    }
    if outcome.keys is not None:
        kept = ", ".join(f"`{key}`" for key in outcome.keys.permitted)
        texts["keys"] = (
            f"{_count(len(outcome.keys.permitted), 'key', 'keys')} after {outcome.keys.seconds:.0f} s: {kept}"
        )
    return texts


def _fault_rows(outcome: Outcome) -> list[tuple[str, int]]:
    counts = Counter(name for _, name in outcome.faults)
    return sorted((text_of(name), count) for name, count in counts.items())


def _call_rows(outcome: Outcome) -> list[tuple[str, int]]:
    calls: Counter[str] = Counter()
    raised: Counter[str] = Counter()
    for each in outcome.ended:
        calls.update(each.calls)
        raised.update(each.raised)
    return [*calls.most_common(), *((f"raised {name}", count) for name, count in raised.most_common())]


def _problems(outcome: Outcome) -> list[str]:
    if not outcome.problems:
        return []
    shown = [outcome.shown(problem) for problem in outcome.problems[:_SHOWN_PROBLEMS]]
    if left := len(outcome.problems) - len(shown):
        shown.append(f"... and {left} more")
    return ["The violations:", "\n\n".join(_indented(text) for text in shown)]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the last column holds numbers."""
    marks = [*("---" for _ in heads[:-1]), "--:"]
    lines = [heads, marks, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _range(rests: Sequence[Sequence[Rest]], value: Callable[[Rest], int]) -> str:
    values = [value(each[-1]) for each in rests]
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _mebibytes(rest: Rest) -> int:
    return rest.rss_bytes // 2**20


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
