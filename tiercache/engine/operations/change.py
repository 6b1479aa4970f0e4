"""Changes: the steps around every write or delete of a key or a group, so that no older value survives in this process.

    begin()   1. L1 drops the entries; 2. the fences of reads and loads in progress break
              ── the caller queues the write in the same step: no await in between ──
    done()    3. the same a second time; loads that wait for the lease look again; a delete that Valkey did not
                 acknowledge becomes a pending invalidation; 4. the other face of the cache does the same

The second drop closes this race: a read that starts after ``begin`` reaches Valkey before the write does, finds the
older value there and fills L1 with it. A change of a group first waits for queued writes and looks for the keys of the
group, so more such reads fit in between; the second drop covers them in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from ...errors import PASSING
from ..entries.entry import Group
from ..memory.fences import Fence
from ..runtime.runtime import Runtime

__all__ = ["Change", "GroupChange", "KeyChange"]

T = TypeVar("T")


class Change(Struct, eq=False):
    """One change, from the first drop to the second."""

    runtime: Runtime

    def begin(self) -> int:
        """Drop the entries and break the fences; return how many entries L1 had.

        The caller queues the write of a key before its next await.
        """
        raise NotImplementedError

    def done(self, outcome: object) -> None:
        """Drop again, in the step in which Valkey's answer to the write is known.

        Args:
            outcome: The result of the write, or its error.
        """
        raise NotImplementedError


class KeyChange(Change, eq=False):
    """A change of one key.

    Attributes:
        groups: The groups of the key.
        is_repeated: Whether the change must be repeated until Valkey acknowledges it. Until then this process does
            not read the key from Valkey. True for deletes; a store that fails is the caller's to repeat.
        fence: The fence of the key, from ``begin`` to ``done``.
    """

    key: str
    groups: tuple[Group, ...] = ()
    is_repeated: bool = False
    fence: Fence | None = None

    def begin(self) -> int:
        # Or else an entry would count that the other face has removed.
        self.runtime.l1.settle()
        count = self.runtime.l1.drop(self.key)
        self.fence = self.runtime.fences.open_for_write(self.key, self.groups)
        return count

    def done(self, outcome: object) -> None:
        runtime, fence = self.runtime, self.fence
        assert fence is not None
        runtime.fences.written(fence)
        runtime.l1.drop(self.key)
        runtime.l2.leases.wake(self.key)
        if self.is_repeated or not isinstance(outcome, Exception):
            runtime.l2.pending.note((self.key,), outcome)
        # Last: a read of the other face that begins before this step drops its value, and one that begins later finds
        # the pending invalidation.
        runtime.face.hand_over_key(self.key)


class GroupChange(Change, eq=False):
    """A change of the entries of a group.

    Attributes:
        overtakes: The group of the calls whose reads and loads in progress store nothing any more, or None for
            ``group`` itself.
        repeat: Does the change again until Valkey acknowledges it, or None if the caller must repeat it.
        covers_everything: Whether any key may belong to the group, as with a tag: then this process reads no key from
            Valkey until the change is acknowledged.
    """

    group: Group
    overtakes: Group | None = None
    repeat: Callable[[], Awaitable[object]] | None = None
    covers_everything: bool = False

    def begin(self) -> int:
        return self._drop()

    def done(self, outcome: object) -> None:
        self._drop()
        pending, overtaken = self.runtime.l2.pending, self.overtakes or self.group
        if not isinstance(outcome, BaseException):
            pending.acknowledge_group(overtaken)
        elif isinstance(outcome, PASSING) and self.repeat is not None:
            pending.note_group(overtaken, self.repeat, covers_everything=self.covers_everything)
        self.runtime.face.hand_over_group(self.group, self.overtakes)

    async def run(self, write: Callable[[], Awaitable[T]]) -> T:
        """Begin, await ``write``, which queues the writes, and finish with its outcome; return its result."""
        self.begin()
        try:
            result = await write()
        except BaseException as error:
            self.done(error)
            raise
        self.done(result)
        return result

    def _drop(self) -> int:
        self.runtime.fences.break_group(self.overtakes or self.group)
        return self.runtime.l1.drop_group(self.group)
