"""Faces: the async face and the sync face of one cache in one process, and the changes that they hand to each other.

Each face has its own event loop, runtime and L1, as if it were a process of its own. Both receive the announcements of
all processes. An announcement takes some milliseconds, and the promise "you see your own changes" holds for the whole
process: after a change by one face has returned, no read of the other face may return the older value.

::

    changing face (its thread)                        other face (its thread)
      Valkey has answered the change
      1. append the change to the other face's queue
      2. let the other face's next lookup in L1 settle first
      3. return to the caller                           a lookup settles: it applies the queued changes, and then looks

The changing face waits for no thread: the loop of the other face may be blocked, by this very call for example. A
lookup without queued changes costs nothing more than in a cache with one face (``L1.settle_first``).

The order of the steps matters. A settling lookup takes step 2 back before it looks at the queue. So a change that it
does not find is followed by a step 2 that it cannot take back.

A read or load that began before the change may still fill L1 after the changing face has returned. There are two cases:

1. The change was applied before the fill: it has broken the fence.
2. The change is still queued. A fill does not settle, so the next lookup settles, and drops the value.

Three other things of a face concern the reads of the other face, which looks at them from its own thread:

1. Pending invalidations: the other face does not read these keys from Valkey either.
2. Queued writes of loaded values, and of stores behind: Valkey does not have them yet. The value is in L1.
3. Bars of changes in progress: the other face stores nothing under them either.

Each of these looks is one step of the interpreter in a dictionary, and needs no lock.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ...portal.blocked_loops import is_blocked
from ..entries.entry import Entry, Group, is_member
from ..level2.announcement import Announcement
from ..memory.fences import Fence, Fences
from ..memory.flights import WaitNode
from ..memory.l1 import L1
from ..memory.pins import PinTable
from .l2 import L2
from .no_l2 import NoL2

__all__ = ["Face"]

# Changes that wait for a face. Beyond this number the face drops all of its L1.
_MAX_QUEUED: Final = 1000
# Seconds between two looks at the stores behind of the other face, while this face opens.
_LOOK_SECONDS: Final = 0.005

# In the queue: any key may have been changed.
_EVERYTHING: Final = Announcement()


class FaceRuntime(Protocol):
    """A runtime, as far as the other face looks at it. Attributes as for ``Runtime``."""

    loop: asyncio.AbstractEventLoop
    pid: int
    l1: L1
    l2: L2 | NoL2
    fences: Fences


class Face:
    """One face of a cache: its L1, and the way to the other face. A cache with one face has no other face.

    Args:
        runtime_of: Returns the current runtime of this face, of any loop, or None.

    Attributes:
        l1: The process memory of this face.
        pins: The pins as this face knows them.
    """

    def __init__(self, l1: L1, pins: PinTable, runtime_of: Callable[[], FaceRuntime | None]) -> None:
        self.l1 = l1
        self.pins = pins
        self._runtime_of = runtime_of
        self._other: Face | None = None
        self._queue: deque[Announcement] = deque()

    def pair(self, other: Face) -> None:
        """Make this face and ``other`` the two faces of one cache."""
        self._other, other._other = other, self

    # Changes of this face

    def hand_over_key(self, key: str) -> None:
        """Let the other face drop ``key`` before its next lookup. Call it once Valkey has answered the change."""
        if self._other is not None:
            self._other._receive(Announcement(keys=(key,)))

    def hand_over_group(self, group: Group, overtaken: Group | None) -> None:
        """Let the other face drop ``group`` before its next lookup, and stop its loads of the group ``overtaken``."""
        if self._other is not None:
            self._other._receive(Announcement(groups=(group,), overtaken=() if overtaken is None else (overtaken,)))

    def clear_other(self) -> int:
        """Let the other face drop all of its L1 before its next lookup; return how many entries it has."""
        if self._other is None:
            return 0
        count = self._other.l1.entry_count
        self._other._receive(_EVERYTHING)
        return count

    # Changes of the other face

    def drop_groups(self, groups: Sequence[Group]) -> None:
        """Let this face drop ``groups`` before its next lookup. Any thread may call this."""
        self._receive(Announcement(groups=tuple(groups)))

    def _receive(self, change: Announcement) -> None:
        """Queue a change of the other face, in the thread of that face, or a change of the settings."""
        if len(self._queue) >= _MAX_QUEUED:
            change = _EVERYTHING
        # A last change that covers every key covers this one too, unless it is first, and may be half applied.
        if not (change is _EVERYTHING and self._ends_with_everything()):
            self._queue.append(change)
        self.l1.settle_first(self._settle)

    def _ends_with_everything(self) -> bool:
        try:
            # In this order: a queue that has two changes now had its last one behind another.
            return self._queue[-1] is _EVERYTHING and len(self._queue) > 1
        except IndexError:
            return False

    def _settle(self) -> None:
        """Apply the queued changes, in the thread of this face."""
        if self._is_wrong_thread():
            # This lookup will raise WrongLoopError. The next lookup settles.
            self.l1.settle_first(self._settle)
            return
        try:
            while self._queue:
                # Removed once it is applied: the other face looks for changes that are not applied yet.
                self._apply(self._queue[0])
                self._queue.popleft()
        except BaseException:
            # A KeyboardInterrupt, for example. The next lookup applies the change again.
            self.l1.settle_first(self._settle)
            raise

    def _is_wrong_thread(self) -> bool:
        runtime = _usable(self._runtime_of())
        if runtime is None:
            return False
        try:
            return asyncio.get_running_loop() is not runtime.loop
        except RuntimeError:
            return True

    def _apply(self, change: Announcement) -> None:
        runtime = _usable(self._runtime_of())
        l2 = None if runtime is None else runtime.l2
        if isinstance(l2, L2) and change is not _EVERYTHING:
            l2.coherence.follow(change)
        elif change is _EVERYTHING or runtime is None:
            # Before ``open`` there is no entry.
            self.l1.clear()
            if runtime is not None:
                runtime.fences.doubt_all()
        else:
            # Without a Valkey there is no other face: the settings have disabled the groups. L1 has the only copies.
            for group in change.groups:
                runtime.fences.break_group(group)
                self.l1.drop_group(group)

    def _has_queued(self, key: str, entry: Entry) -> bool:
        """Return whether a queued change covers ``key``, whose value is ``entry``. Any thread may call this."""
        return any(
            change is _EVERYTHING
            or key in change.keys
            or any(is_member(key, entry.groups, group) for group in change.groups)
            for change in self._queue.copy()
        )

    # Looks at the other face

    @property
    def _other_runtime(self) -> FaceRuntime | None:
        """The runtime of the other face, or None if the other face is not in use in this process."""
        return None if self._other is None else _usable(self._other._runtime_of())

    @property
    def is_alone(self) -> bool:
        """Whether the other face is not in use."""
        return self._other_runtime is None

    def is_pending_elsewhere(self, key: str, groups: Sequence[Group]) -> bool:
        """Return whether a pending invalidation of the other face covers ``key``, so that it must not be read."""
        runtime = self._other_runtime
        return runtime is not None and runtime.l2.pending.covers(key, groups)

    def is_writing_elsewhere(self, key: str) -> bool:
        """Return whether the other face writes ``key``, so that Valkey may hold an older value."""
        runtime = self._other_runtime
        return runtime is not None and runtime.l2.pipe.is_writing(key)

    def queued_elsewhere(self, key: str, now: float) -> Entry | None:
        """Return the value of ``key`` that the other face has queued for Valkey and serves itself, or None."""
        runtime, other = self._other_runtime, self._other
        if runtime is None or other is None or not runtime.l2.pipe.is_writing(key):
            return None
        entry = runtime.l1.glance(key)
        if entry is None or now >= entry.deadline or not runtime.l1.trusts(entry.began, now):
            return None
        # After the look at L1: a change of this face that the other face has not applied may be a change of the key.
        return None if other._has_queued(key, entry) else entry

    def load_elsewhere(self, key: str, placeholder: bytes | None) -> WaitNode | None:
        """Return the load of the other face that holds ``placeholder`` under ``key``, or None if there is none."""
        runtime = self._other_runtime
        l2 = None if runtime is None else runtime.l2
        return l2.leases.load_of(key, placeholder) if isinstance(l2, L2) else None

    @property
    def is_other_blocked(self) -> bool:
        """Whether a call of this face blocks the event loop of the other face, whose loads then cannot go on."""
        runtime = self._other_runtime
        return runtime is not None and is_blocked(runtime.loop)

    def is_barred_elsewhere(self, fence: Fence) -> bool:
        """Return whether a change in progress by the other face bars the key of ``fence``."""
        runtime = self._other_runtime
        return runtime is not None and runtime.fences.bars(fence)

    async def wait_for_stores_behind(self, timeout: float) -> bool:
        """Wait for the stores behind of the other face; return False if some are left after ``timeout`` seconds.

        The other face stores nothing behind from the moment at which this face has a runtime.
        """
        give_up_at = asyncio.get_running_loop().time() + timeout
        while (runtime := self._other_runtime) is not None and runtime.l2.behind:
            if asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True


def _usable(runtime: FaceRuntime | None) -> FaceRuntime | None:
    """Return ``runtime``, or None if its loop is closed or it belongs to the parent of this process."""
    if runtime is None or runtime.loop.is_closed() or runtime.pid != os.getpid():
        return None
    return runtime
