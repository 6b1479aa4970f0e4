"""The checks over the measures of a soak: the most that each may grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median_high, median_low
from typing import Final

from .keys import KeysLeft
from .protocol import Ended, Problem, Rest
from .run import Outcome

__all__ = [
    "MOST_ELEMENTS",
    "MOST_GROWN_BYTES",
    "MOST_GROWN_DESCRIPTORS",
    "MOST_GROWN_TASKS",
    "check_end",
    "growth",
    "largest_sizes",
]

# The part of the load in which memory and containers fill up to their bounds.
_WARM_UP: Final = 0.4
# Growth after the warm-up that a process may show.
MOST_GROWN_BYTES: Final = 16 * 1024 * 1024
MOST_GROWN_TASKS: Final = 3
# The pool opens connections when many calls need one at the same time, and keeps them.
MOST_GROWN_DESCRIPTORS: Final = 32
# Every container of the package has a lower bound than this.
MOST_ELEMENTS: Final = 12_000


def check_end(outcome: Outcome) -> list[Problem]:
    """Return the broken promises that show only in the measures."""
    problems: list[Problem] = []
    for number, (rests, ended) in enumerate(zip(outcome.rests, outcome.ended, strict=True)):
        problems += [Problem(kind, f"process {number}: {text}") for kind, text in _found(rests, ended)]
    if outcome.keys is not None and outcome.keys.others:
        problems.append(Problem("keys", _keys_text(outcome.keys)))
    return problems


def growth(rests: Sequence[Rest], value: Callable[[Rest], float]) -> float:
    """Return by how much ``value`` grows after the warm-up: the median of the last third minus that of the first.

    Of two medians the ones that are closer to each other count, so that one high measure is no growth.
    """
    after = [value(rest) for rest in rests if rest.seconds >= _WARM_UP * rests[-1].seconds]
    third = max(1, len(after) // 3)
    return median_low(after[-third:]) - median_high(after[:third]) if len(after) > 1 else 0.0


def largest_sizes(outcome: Outcome) -> dict[str, int]:
    """Return the largest size that each container had in any process at rest, the largest first."""
    sizes: dict[str, int] = {}
    for rests in outcome.rests:
        for rest in rests:
            for name, size in rest.sizes.items():
                sizes[name] = max(size, sizes.get(name, 0))
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))


def _found(rests: Sequence[Rest], ended: Ended) -> Iterator[tuple[str, str]]:
    grown = growth(rests, lambda rest: rest.rss_bytes)
    if grown > MOST_GROWN_BYTES:
        yield "memory", f"resident memory has grown by {grown / 2**20:.1f} MiB after the warm-up"
    tasks = growth(rests, lambda rest: rest.tasks)
    if tasks > MOST_GROWN_TASKS:
        yield "tasks", f"{tasks:g} more tasks after the warm-up, although the load rests"
    descriptors = growth(rests, lambda rest: rest.descriptors)
    if descriptors > MOST_GROWN_DESCRIPTORS:
        yield "descriptors", f"{descriptors:g} more file descriptors after the warm-up, although the load rests"
    for name, size in rests[-1].sizes.items():
        if size > MOST_ELEMENTS:
            yield "containers", f"{name} has {size} elements"
    if ended.left_tasks:
        yield "close", f"{len(ended.left_tasks)} tasks are left after aclose: {', '.join(ended.left_tasks[:5])}"
    if ended.left_descriptors > 0:
        yield "close", f"{ended.left_descriptors} file descriptors are left after aclose"


def _keys_text(keys: KeysLeft) -> str:
    kinds = ", ".join(f"{count} {kind}:..." for kind, count in keys.others.most_common(8))
    return f"{keys.others.total()} keys are left {keys.seconds:.0f} s after the end: {kinds}"
