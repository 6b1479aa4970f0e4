"""Loads whose value arrives in parts: callers follow the recording while it is made, and it is stored when complete.

The steps are those of ``engine.operations.load``. A caller that waits gets the recording as soon as it has begun
(``Flight.show``), and stays a waiter of the flight until it has read the recording or leaves. There are two cases:

1. This process has the lease, or needs none: the function of the load makes the recording and shows it. If another
   process asks for the lease, this process shares the recording with it (``live``).
2. Another process has the lease and shares its recording: this load makes a copy of that recording as it arrives, and
   then reads the stored value, so that L1 has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

from ..engine.call import Call, Loaded
from ..engine.entries.lookup import Lookup
from ..engine.operations.lease_search import LeaseSearch
from ..engine.operations.load import Load
from ..engine.operations.tagging import Tagging
from ..engine.runtime.l2 import L2
from ..engine.runtime.reads import MISS
from ..engine.runtime.runtime import Runtime
from ..errors import UsageError
from ..supervision import attempt
from .live import LiveReader, LiveWriter, Sharing, live_key
from .recording import Recording

__all__ = ["Record", "RecordedLoad"]

# Seconds between two reads of a key whose value another process is about to store.
_FIRST_POLL: Final = 0.02
_LAST_POLL: Final = 0.5

Show: TypeAlias = Callable[[Recording], None]
# The function of a recorded load: calls its argument with the recording once that has begun, ends the recording, and
# returns the value to store. An exception ends the recording too.
Record: TypeAlias = Callable[[Show], Awaitable[Loaded]]


class RecordedLoad(Load):
    """One load of one key, whose function is a ``Record``.

    Args:
        sharing: How processes share the recording, or None if they do not.
    """

    __slots__ = ("_is_copy", "_recording", "_sharing", "_writer")

    takes_parts = True

    def __init__(
        self, runtime: Runtime, call: Call, *, is_refresh: bool = False, sharing: Sharing | None = None
    ) -> None:
        super().__init__(runtime, call, is_refresh=is_refresh)
        self._sharing = sharing
        self._is_copy = False
        self._recording: Recording | None = None
        self._writer: asyncio.Task[None] | None = None

    async def run_privately(self, function: object) -> Lookup:
        """Return a miss: a caller that must not wait for other callers makes its request by itself."""
        return MISS

    # The steps

    async def _obtain_lease(self) -> bool:
        """Take the lease, or follow the process that has it; return whether the load is over."""
        runtime, call, sharing, l2 = self._runtime, self.call, self._sharing, self._runtime.l2
        if sharing is None or not isinstance(l2, L2):
            return await super()._obtain_lease()
        live = LiveReader(l2.level2, live_key(sharing.name, call.key), sharing, runtime.now, runtime.log)
        search = LeaseSearch(runtime, call, self.flight.fence, self.lookup, is_refresh=self.is_refresh, live=live)
        self.lease = await search.run()
        self.lookup = search.lookup
        if self.lease is not None:
            self.lease.later_indexes = self.flight.added_indexes
        elif live.is_begun and self.lookup.entry is None:
            await self._follow(live, l2)
            return True
        return self.lookup.entry is not None

    async def start(self, function: object, *, is_shared: bool = True) -> Lookup:
        """Do as ``Load.start``. A caller that follows another process has shared its load, too."""
        lookup = await super().start(function, is_shared=is_shared)  # type: ignore[arg-type]
        return lookup._replace(coalesced=self._is_copy)

    async def _run(self, function: object) -> None:
        try:
            await super()._run(function)  # type: ignore[arg-type]
        finally:
            # The flight has ended, and no caller waits for this task any more.
            if self._recording is not None:
                await self._recording.at_last()
            if self._writer is not None:
                await self._writer  # It ends with the recording.

    async def _call(self, function: Record) -> Loaded:  # type: ignore[override]
        try:
            loaded = await super()._call(partial(function, self._show))
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)
        return loaded

    def _end(self, error: BaseException | None) -> None:
        if self._recording is None:
            return
        if error is not None and not isinstance(error, Exception):
            # A cancelled load that has followers: the cache is closed. They must not be cancelled themselves.
            error = UsageError("the cache was closed while the answer was being streamed")
        self._recording.end(error)

    def _show(self, recording: Recording) -> None:
        self._recording = recording
        # It cannot be stored any more. Other callers cannot follow it, so that they must load for themselves.
        recording.on_overflow = self.give_up
        # The follower may need the slot.
        recording.waiting = self._runtime.load_limits.lent
        self.flight.show(recording)
        lease = self.lease
        if self._sharing is not None and lease is not None and lease.is_placeholder:
            lease.on_awaited = self._share
            if lease.is_awaited:
                self._share()

    def _share(self) -> None:
        """Share the recording with the processes that wait for the lease."""
        recording, lease, sharing, l2 = self._recording, self.lease, self._sharing, self._runtime.l2
        if self._writer is not None or recording is None or lease is None or lease.holds is None or sharing is None:
            return
        if recording.is_ended or not recording.is_whole or not isinstance(l2, L2):
            return
        if not self.flight.fence.holds:
            return  # The load is about to be cancelled, or a change has taken its lease.
        # The readers of other processes do not count as waiters here: while they may read, the load goes on for them.
        self.flight.finishes = True
        writer = LiveWriter(l2.level2, live_key(sharing.name, self.call.key), lease.holds, sharing, self._runtime.log)
        self._writer = self._runtime.loop.create_task(self._write(writer, recording), name="tiercache-live")

    async def _write(self, writer: LiveWriter, recording: Recording) -> None:
        await attempt("sharing of a stream", partial(writer.run, recording), self._runtime.log)
        self.flight.finishes = self.call.rules.finish_abandoned
        # Its own readers may have left, and the readers of other processes get no further part.
        self.flight.abandon_unawaited()

    # The recording of another process

    async def _follow(self, live: LiveReader, l2: L2) -> None:
        """Copy the recording that ``live`` reads, part by part, then read the stored value."""
        assert self._sharing is not None
        tagged = self._with_all_tags()
        if tagged.tags:
            # An invalidation of a tag from now on finds the key, and takes the other process's right to store.
            l2.leases.add_indexes(tagged.key, tuple(tagged.tag_indexes.values()), tagged.expected_ttl)
        recording = Recording(live.head, max_bytes=self._sharing.max_bytes)
        self._is_copy = True
        self._show(recording)
        try:
            while parts := await live.parts():
                for part in parts:
                    recording.append(part, len(part))
                await recording.wait_for_room()
        except BaseException as error:
            self._end(error)
            raise
        recording.is_complete = True
        self._end(None)
        await self._read_stored(l2)

    async def _read_stored(self, l2: L2) -> None:
        """Wait until the other process has stored the value, and read it, so that L1 has it."""
        runtime, key, placeholder = self._runtime, self.call.key, self.lookup.placeholder
        poll = _FIRST_POLL
        # Not under the fence of the flight: if a change breaks that fence, no caller may join the recording any more.
        fence = runtime.fences.open(key, self.flight.fence.groups)
        try:
            while self.lookup.entry is None and self.lookup.placeholder == placeholder and not self.lookup.degraded:
                l2.leases.ask(key, poll)
                await l2.leases.wait(key, poll)
                poll = min(2 * poll, _LAST_POLL)
                # The value is read from Valkey now: a change up to now has not overtaken it.
                runtime.fences.renew(fence)
                self.lookup = await runtime.reads.read(self.call, fence)
        finally:
            runtime.fences.close(fence)
        if not await Tagging(runtime, self._with_all_tags()).holds(self.lookup):
            self._drop_older()

    def _with_all_tags(self) -> Call:
        """Return the call with the tags of every caller that waits."""
        return self.call._replace(tags=self._tags, indexes=self.call.indexes + self.flight.added_indexes)
