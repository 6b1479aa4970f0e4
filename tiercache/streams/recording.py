"""Recordings: the parts of a value that a load brings, kept from the first part on for every follower.

    writer ── append, append, ... ──▶ │ part 0 │ part 1 │ part 2 │ ... ──▶ end, or end with an error
                                          ▲                  ▲
                              follower that began late    follower that waits for part 3

A recording has two states:

1. whole: it has every part. A caller that comes late gets the parts so far at once, then each part as it arrives. When
   the recording ends, the value can be stored.
2. no longer whole: its parts have more than ``max_bytes``, or it ended with an error. No further caller can follow it,
   and it cannot be stored. It forgets the parts that every follower has, and the writer waits for a follower that is
   far behind, so that the memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import islice
from typing import Any, Final

__all__ = ["Follower", "Recording"]

# Bytes by which a follower may be behind the writer once the recording is not whole.
_WINDOW_BYTES: Final = 256 * 1024


class Recording:
    """An append-only log of parts, with one writer and any number of followers. Belongs to one event loop.

    Args:
        head: The part of the value that is known before the first part, such as the status of a response.
        max_bytes: Most bytes of a whole recording.

    Attributes:
        is_whole: Whether the recording has every part.
        is_complete: Whether the writer has all that it came for, so that the load must not be cancelled any more. The
            writer sets it before it appends the last part: a follower that has the last part may leave at once.
        kept_bytes: The bytes of the parts that the recording has.
        on_overflow: Called once, when the parts have more than ``max_bytes``.
        waiting: Returns a context for the time in which the writer waits for a follower.
        at_last: Awaited once the load has ended and its value is stored, or its error is handed out: ends the source.
    """

    def __init__(self, head: Any, *, max_bytes: float) -> None:
        self.head = head
        self.is_whole = True
        self.is_complete = False
        self.kept_bytes = 0
        self.on_overflow: Callable[[], object] = _ignore
        self.waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
        self.at_last: Callable[[], Awaitable[object]] = _end_nothing
        self._max_bytes = max_bytes
        self._parts: deque[tuple[Any, int]] = deque()
        # The position of the first part in ``_parts``: parts that were forgotten count.
        self._first = 0
        self._is_ended = False
        self._error: BaseException | None = None
        self._followers: dict[Follower, None] = {}
        self._progress = _Signal()
        self._room = _Signal()
        self._demand = _Signal()

    def append(self, part: Any, size_bytes: int) -> None:
        """Add a part, and wake the followers."""
        self._parts.append((part, size_bytes))
        self.kept_bytes += size_bytes
        if self.is_whole and self.kept_bytes > self._max_bytes:
            self.is_whole = False
            self.on_overflow()
        self._forget()
        self._progress.send()

    def end(self, error: BaseException | None = None) -> None:
        """End the recording. A follower that has every part stops, or raises ``error``. The first call counts."""
        if not self._is_ended:
            self._is_ended, self._error = True, error
            # The next caller starts a new load, also in this very step.
            self.is_whole = self.is_whole and error is None
            self._progress.send()

    async def wait_for_room(self) -> None:
        """Let the followers take the newest part, and wait until another part may be appended.

        While the recording is whole, that is in the next step of the loop.
        """
        # A reader has a part before the writer asks the source for the next one, which takes a tenth of a millisecond.
        await asyncio.sleep(0)
        # The followers that have moved in this step found no waiting writer, and have made no room.
        self._forget()
        if self._is_full:
            async with self.waiting():
                while self._is_full:
                    await self._room.wait()

    async def wait_for_demand(self) -> None:
        """Wait until a follower has every part and waits for the next, or no follower is left."""
        if self._is_unwanted:
            # The reader may need the slot before it asks for the next part.
            async with self.waiting():
                while self._is_unwanted:
                    await self._demand.wait()

    @property
    def _is_unwanted(self) -> bool:
        return bool(self._followers) and not self._progress.is_awaited

    @property
    def _is_full(self) -> bool:
        return not self.is_whole and self.kept_bytes > _WINDOW_BYTES and bool(self._followers)

    @property
    def is_ended(self) -> bool:
        """Whether the writer has called ``end``."""
        return self._is_ended

    def parts(self) -> list[Any]:
        """Return the parts that the recording has: all parts, if it is whole."""
        return [part for part, _ in self._parts]

    def follow(self) -> Follower:
        """Return a follower, which begins with the first part that the recording has. The caller must close it."""
        follower = Follower(self, self._first)
        self._followers[follower] = None
        return follower

    def _take_from(self, position: int) -> list[Any]:
        """Return the parts from ``position`` on."""
        count = self._first + len(self._parts) - position
        # From the end: the beginning of a long deque is far for a follower that wants the newest part.
        parts = [part for part, _ in islice(reversed(self._parts), count)]
        parts.reverse()
        return parts

    def _forget(self) -> None:
        """Forget the parts that every follower has, unless the recording is whole."""
        if self.is_whole:
            return
        end = self._first + len(self._parts)
        passed = min((follower.position for follower in self._followers), default=end)
        while self._first < passed:
            _, size_bytes = self._parts.popleft()
            self.kept_bytes -= size_bytes
            self._first += 1

    def _make_room(self) -> None:
        """Let the writer go on, if it waits for a follower that has moved."""
        # While the writer does not wait, ``append`` forgets: not each follower looks at all others.
        if self._room.is_awaited:
            self._forget()
            if not self._is_full:
                self._room.send()


def _ignore() -> None:
    """Do nothing."""


async def _end_nothing() -> None:
    """Do nothing: the source of a copied recording is the recording of another process."""


class _Signal:
    """Wakes every task that waits for it."""

    def __init__(self) -> None:
        # Each waiter has a future of its own: a cancelled waiter leaves the others waiting.
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def is_awaited(self) -> bool:
        return bool(self._waiters)

    def send(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


class Follower(AsyncIterator[list[Any]]):
    """The place of one reader in a recording: an iterator over lists of the parts that have arrived since the last.

    Attributes:
        recording: The recording.
        position: The number of parts that the reader has.
    """

    def __init__(self, recording: Recording, position: int) -> None:
        self.recording = recording
        self.position = position

    async def __anext__(self) -> list[Any]:
        log = self.recording
        while True:
            if parts := log._take_from(self.position):
                self.position += len(parts)
                log._make_room()
                return parts
            if log._is_ended:
                if log._error is not None:
                    # All followers raise the same object: without its frames in the others.
                    raise log._error.with_traceback(None)
                raise StopAsyncIteration
            log._demand.send()
            await log._progress.wait()

    def rest(self) -> list[Any]:
        """Return the parts that are left of a recording that has ended; none at its end. Needs no running loop.

        Raises:
            BaseException: The error with which the recording ended, once no part is left.
        """
        parts = self.recording._take_from(self.position)
        self.position += len(parts)
        if not parts and self.recording._error is not None:
            raise self.recording._error.with_traceback(None)
        return parts

    def close(self) -> None:
        """Follow no further, and let the writer go on if it waits for this follower."""
        log = self.recording
        if log._followers.pop(self, self) is None:
            log._make_room()
            log._demand.send()
