"""The null object for L2: a cache of process memory alone has it where other caches have a Valkey.

Writes are answered at once, no store is queued, no invalidation is pending, and no other process waits for a lease.
Tiers of such a cache have no leases (``TierRules.lease``), so no load asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..entries.entry import Entry, Group
from ..level2.announcement import Announcement
from ..level2.queued_write import OnDone
from ..level2.writes import Write, WriteSet
from ..memory.fences import Fence

__all__ = ["NO_L2", "NoL2"]


class _InstantWrites:
    """The write pipe without a store: each write takes effect in the step in which it is queued."""

    is_half_full: Final = False
    queued_count: Final = 0

    def is_writing(self, key: str) -> bool:
        return False

    def is_changing(self, key: str) -> bool:
        return False

    def has_room(self, size_bytes: int, *, is_behind: bool = False) -> bool:
        return True

    async def wait_room(self, size_bytes: int, *, is_behind: bool = False) -> None:
        return None

    async def submit(self, write: Write, on_done: OnDone | None = None) -> Any:
        outcome = _outcome_of(write)
        if on_done is not None:
            on_done(outcome)
        return outcome

    async def write_all(self, writes: Sequence[tuple[Write, OnDone]]) -> list[int]:
        for write, on_done in writes:
            on_done(_outcome_of(write))
        return [_outcome_of(write) for write, _ in writes]

    def store_behind(self, write: WriteSet, on_done: OnDone) -> None:
        on_done(_outcome_of(write))

    def fill(self, write: Write, on_done: OnDone) -> bool:
        on_done(_outcome_of(write))
        return True

    def post(self, write: Write, on_done: OnDone | None = None) -> None:
        if on_done is not None:
            on_done(_outcome_of(write))

    async def flush(self) -> None:
        return None


def _outcome_of(write: Write) -> int:
    # A SET touches its key. A DEL finds nothing: only L1 had the key, and the caller counts that.
    return 1 if isinstance(write, WriteSet) else 0


class _NothingBehind:
    """Write-behind without a queue: every store is done when it returns."""

    def __bool__(self) -> bool:
        return False

    def add(self, entry: Entry, fence: Fence) -> None:
        return None

    def answered(self, fence: Fence) -> bool:
        return True

    async def find(self, key: str) -> Entry | None:
        return None


class _NothingPending:
    """The pending invalidations without a store: none, because L1 acknowledges at once."""

    def __bool__(self) -> bool:
        return False

    def covers(self, key: str, groups: Sequence[Group]) -> bool:
        return False

    def note(self, keys: Sequence[str], outcome: object) -> None:
        return None

    def remove(self, key: str, error: Exception) -> None:
        return None

    def delete(self, key: str, on_done: OnDone) -> None:
        on_done(0)

    def note_group(self, group: Group, repeat: Callable[[], Any], *, covers_everything: bool = False) -> None:
        return None

    def acknowledge_group(self, group: Group) -> None:
        return None


class _NoWaiters:
    """The leases without other processes: no load waits for one."""

    def wake(self, key: str) -> None:
        return None


class NoL2:
    """The L2 of a cache of process memory alone. Attributes as for ``L2``, as far as operations use them."""

    level2: Final = None
    is_tracking: Final = False
    is_registering: Final = False
    tracking: Final = "off"

    def __init__(self) -> None:
        self.pipe = _InstantWrites()
        self.behind = _NothingBehind()
        self.pending = _NothingPending()
        self.leases = _NoWaiters()

    def announce(self, announcement: Announcement) -> None:
        """Publish to no other process: there is none."""

    async def drain(self, timeout: float) -> None:
        """Return at once: nothing is queued."""


NO_L2: Final = NoL2()
