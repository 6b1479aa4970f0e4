"""What happened in a run, as events with the moments at which they began and ended.

All moments are ``time.monotonic()``, one clock for all processes of a machine on Linux and macOS. A version is what
the origin counted for a key: the higher the newer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from msgspec import Struct

__all__ = ["Change", "Event", "Failure", "Fault", "History", "Load", "Read", "Restart", "Sample"]


class Read(Struct, frozen=True, tag=True):
    """One answer of a cache to one caller.

    Attributes:
        began: Taken right before the call.
        version: What it returned, None for nothing.
        source: Where the cache says that it came from.
        way: The method.
    """

    replica: str
    key: str
    began: float
    ended: float
    version: int | None
    source: str | None
    way: str


class Change(Struct, frozen=True, tag=True):
    """One key's part in an invalidation, or an explicit store.

    Attributes:
        version: The origin's, which was raised to it before the cache was told.
        stored: It put ``version`` into the cache; otherwise it only removed what is older.
        acked: Taken right after the call returned; None where it raised.
    """

    replica: str
    key: str
    version: int
    way: str
    began: float
    acked: float | None
    stored: bool = False


class Load(Struct, frozen=True, tag=True):
    """One loader's work: it read ``version`` from the origin when it began, and returned it when it ended."""

    replica: str
    key: str
    began: float
    ended: float
    version: int


class Sample(Struct, frozen=True, tag=True):
    """What Valkey held, read past caches and proxy; ``began`` was taken before the read was sent."""

    key: str
    began: float
    version: int | None


class Restart(Struct, frozen=True, tag=True):
    """Valkey was gone from ``began`` until ``ended``; ``forgot``: and lost what it held."""

    began: float
    ended: float
    forgot: bool


class Fault(Struct, frozen=True, tag=True):
    """Something was made to go wrong, or right again."""

    began: float
    text: str


class Failure(Struct, frozen=True, tag=True):
    """A call raised what it must not raise."""

    replica: str
    key: str
    began: float
    text: str


Event: TypeAlias = Read | Change | Load | Sample | Restart | Fault | Failure


class History:
    """The events of a run, by kind and key.

    Attributes:
        reads, loads, samples: In the order in which they were handed in.
        changes: By key, likewise.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.reads: list[Read] = []
        self.loads: list[Load] = []
        self.samples: list[Sample] = []
        self.restarts: list[Restart] = []
        self.faults: list[Fault] = []
        self.failures: list[Failure] = []
        self.changes: defaultdict[str, list[Change]] = defaultdict(list)
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case Read():
                self.reads.append(event)
            case Load():
                self.loads.append(event)
            case Sample():
                self.samples.append(event)
            case Change():
                self.changes[event.key].append(event)
            case Restart():
                self.restarts.append(event)
            case Fault():
                self.faults.append(event)
            case Failure():
                self.failures.append(event)

    @property
    def change_count(self) -> int:
        """How many changes there were, acknowledged or not."""
        return sum(map(len, self.changes.values()))

    @property
    def unanswered_count(self) -> int:
        """How many changes were not acknowledged."""
        return sum(change.acked is None for changes in self.changes.values() for change in changes)
