"""The history of a run: events, with the moments at which they began and ended.

All moments are ``time.monotonic()``, one clock for all processes of a machine on Linux and macOS. A version is the
database's counter of a key: a higher version is newer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, TypeAlias

from msgspec import Struct

__all__ = [
    "FOREIGN",
    "Change",
    "Event",
    "Failure",
    "Fault",
    "History",
    "Joined",
    "Load",
    "Read",
    "Restart",
    "Sample",
]

# The replica of a change that software other than tiercache made.
FOREIGN: Final = "foreign"


class Read(Struct, frozen=True, tag=True):
    """One answer of a cache to one caller.

    Attributes:
        began: The moment right before the call.
        version: The returned version, or None if the cache returned no value.
        source: The source that the cache reports, or None if the method reports none.
        method: The tier and the method.
        tag: The tag that the call gave and that the found entry has from ``ended`` on, or None.
        entry: The number of the load that made the entry; 0 for keys whose entries have no number.
    """

    replica: str
    key: str
    began: float
    ended: float
    version: int | None
    source: str | None
    method: str
    tag: str | None = None
    entry: int = 0


class Change(Struct, frozen=True, tag=True):
    """An invalidation of one key, or an explicit store.

    Attributes:
        replica: The replica that made the change, or ``FOREIGN``.
        version: The new version in the database, raised before the call of the cache.
        method: The tier and the method.
        stored: Whether the call stored ``version``. An invalidation only removes older versions.
        acked: The moment right after the call returned, or None if the call raised. For a write-behind store: the
            moment right after ``flush_writes`` returned, or None if the store did not reach Valkey.
        queued: The moment right after a write-behind store returned, or None for every other change.
        tag: The change covers only the entries that have this tag; None: it covers every entry.
    """

    replica: str
    key: str
    version: int
    method: str
    began: float
    acked: float | None
    stored: bool = False
    queued: float | None = None
    tag: str | None = None

    @property
    def seen_from(self) -> float | None:
        """The moment from which the replica that made the change sees it, or None if the change promises nothing."""
        return self.acked if self.queued is None else self.queued


class Joined(Struct, frozen=True, tag=True):
    """A replica has joined the run.

    Attributes:
        tracking: Its kind of tracking; with "off", Valkey does not report the changes of other software.
    """

    replica: str
    began: float
    tracking: str


class Load(Struct, frozen=True, tag=True):
    """One call of a loader: it read ``version`` from the database at ``began`` and returned at ``ended``."""

    replica: str
    key: str
    began: float
    ended: float
    version: int


class Sample(Struct, frozen=True, tag=True):
    """The version in Valkey, read without cache and proxy. ``began`` is the moment before the read was sent.

    Attributes:
        entry: As for Read.
    """

    key: str
    began: float
    version: int | None
    entry: int = 0


class Restart(Struct, frozen=True, tag=True):
    """A restart: Valkey was down from ``began`` until ``ended``. ``forgot``: whether Valkey lost its data."""

    began: float
    ended: float
    forgot: bool


class Fault(Struct, frozen=True, tag=True):
    """A fault began or ended."""

    began: float
    text: str


class Failure(Struct, frozen=True, tag=True):
    """A call raised another error than L2UnavailableError."""

    replica: str
    key: str
    began: float
    text: str


Event: TypeAlias = Read | Change | Load | Sample | Restart | Fault | Failure | Joined


class History:
    """The events of a run, by kind and key.

    Attributes:
        reads, loads, samples: In the order of ``add``.
        changes: By key, in the order of ``add``.
        untracked: The replicas to which Valkey does not report the changes of other software.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.reads: list[Read] = []
        self.loads: list[Load] = []
        self.samples: list[Sample] = []
        self.restarts: list[Restart] = []
        self.faults: list[Fault] = []
        self.failures: list[Failure] = []
        self.joined: list[Joined] = []
        self.untracked: set[str] = set()
        self.changes: defaultdict[str, list[Change]] = defaultdict(list)
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Add an event."""
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
            case Joined():
                self.joined.append(event)
                if event.tracking == "off":
                    self.untracked.add(event.replica)

    @property
    def change_count(self) -> int:
        """The number of changes, with unacknowledged changes."""
        return sum(map(len, self.changes.values()))

    @property
    def unanswered_count(self) -> int:
        """The number of unacknowledged changes."""
        return sum(change.acked is None for changes in self.changes.values() for change in changes)
