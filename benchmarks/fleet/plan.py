"""The plan of a run: the sizes of the fleets, the number of calls, and the ways of tracking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args, get_type_hints

from tiercache import CoherenceOptions

T = TypeVar("T")

PEERS = ("tiercache", "betterdb", "handmade")
PARTS = ("throughput", "followers")
# "auto" is one of the others.
TRACKING: tuple[str, ...] = tuple(
    kind for kind in get_args(get_type_hints(CoherenceOptions)["tracking"]) if kind != "auto"
)
"""Each value of ``CoherenceOptions(tracking=...)`` that the package offers."""


@dataclass(frozen=True)
class Plan:
    """The cases to measure, and how.

    Args:
        processes: Sizes of the fleets whose throughput is measured.
        callers: Numbers of concurrent callers of each process.
        stored: Entries that Valkey holds before a fleet starts. Each process reads each entry at most once.
        values: Values of each throughput in a round.
        seconds: Seconds of calls for one value, or less where a process has read its share of the stored entries.
        followers: Numbers of caches that follow the changes of another cache.
        changes: Changes of each kind for one value.
        rest_seconds: Seconds during which the server's own CPU time is measured, while the fleet rests.
    """

    rounds: int = 3
    parts: tuple[str, ...] = PARTS
    peers: tuple[str, ...] = PEERS
    processes: tuple[int, ...] = (1, 2, 4)
    callers: tuple[int, ...] = (1, 16, 64)
    stored: int = 20_000
    values: int = 3
    seconds: float = 0.3
    followers: tuple[int, ...] = (1, 8, 32, 96)
    tracking: tuple[str, ...] = TRACKING
    changes: int = 400
    rest_seconds: float = 1.0


FULL = Plan()
QUICK = Plan(
    rounds=2,
    processes=(1, 4),
    callers=(1, 16),
    stored=8_000,
    values=2,
    seconds=0.2,
    followers=(1, 32),
    changes=150,
    rest_seconds=0.5,
)


def turned(items: Sequence[T], number: int) -> list[T]:
    """Return the items from another first one in each round, so that no item is always the first."""
    first = number % len(items)
    return [*items[first:], *items[:first]]
