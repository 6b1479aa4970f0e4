"""Backpressure: bounds the bytes queued for Valkey, and admits waiting stores in FIFO order.

There are three cases when the queue is full:

1. An explicit store waits for room, behind the stores that already wait.
2. A fill, such as the write of a loaded value, is dropped.
3. Every other write, such as an invalidation, a lease or an announcement, is queued anyway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

__all__ = ["QueueBudget"]


class _Waiter(NamedTuple):
    size_bytes: int
    is_behind: bool
    admitted: asyncio.Future[None]


class QueueBudget:
    """The room in one queue.

    Args:
        max_bytes: Most bytes that may be queued. A write that is larger by itself is admitted to an empty queue.
        max_behind: Most write-behind stores without an answer. A crash of this process loses these stores, because
            their callers have already returned.

    Attributes:
        used_bytes: Bytes of all queued writes.
    """

    def __init__(self, *, max_bytes: int, max_behind: int) -> None:
        self._max_bytes = max_bytes
        self._max_behind = max_behind
        self.used_bytes = 0
        self._behind_count = 0
        # Room of the stores that were admitted, but whose tasks have not run yet to queue their writes. The race,
        # "newcomer before the admitted": without this, a store of the current step could take the room first.
        self._admitted_bytes = 0
        self._admitted_behind = 0
        self._waiting: deque[_Waiter] = deque()

    @property
    def is_awaited(self) -> bool:
        """Whether a store waits for room, or was admitted and is about to queue its write."""
        return bool(self._waiting or self._admitted_bytes)

    def take(self, size_bytes: int, *, is_behind: bool) -> None:
        """Count a write as queued, whether there is room or not."""
        self.used_bytes += size_bytes
        self._behind_count += is_behind

    def give_back(self, size_bytes: int, *, is_behind: bool) -> None:
        """Stop counting a write that was answered, and admit stores that wait for its room."""
        self.used_bytes -= size_bytes
        self._behind_count -= is_behind
        if self._waiting:
            self._admit_waiting()

    def has(self, size_bytes: int, *, is_behind: bool = False) -> bool:
        """Return whether a write may be queued now: there is room, and no store waits for room."""
        return not self._waiting and self._fits(size_bytes, is_behind)

    async def wait(self, size_bytes: int, *, is_behind: bool = False) -> None:
        """Wait until there is room for a write. The room is the caller's if the caller takes it before the next await.

        Raises:
            Exception: The error that ``close`` received.
        """
        if self.has(size_bytes, is_behind=is_behind):
            return
        waiter = _Waiter(size_bytes, is_behind, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.admitted
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                # The race: the store was admitted, and its task cancelled before the task could run. The room goes to
                # the next store.
                self._count_admitted(waiter, -1)
            self._admit_waiting()
            raise
        self._count_admitted(waiter, -1)

    def close(self, error: Exception) -> None:
        """Raise ``error`` in every store that still waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.admitted.done():
                waiter.admitted.set_exception(error)

    def _admit_waiting(self) -> None:
        waiting = self._waiting
        while waiting and self._fits(waiting[0].size_bytes, waiting[0].is_behind):
            waiter = waiting.popleft()
            if not waiter.admitted.done():
                self._count_admitted(waiter, 1)
                waiter.admitted.set_result(None)

    def _count_admitted(self, waiter: _Waiter, sign: int) -> None:
        self._admitted_bytes += sign * waiter.size_bytes
        self._admitted_behind += sign * waiter.is_behind

    def _fits(self, size_bytes: int, is_behind: bool) -> bool:
        used_bytes = self.used_bytes + self._admitted_bytes
        if used_bytes and used_bytes + size_bytes > self._max_bytes:
            return False
        return not is_behind or self._behind_count + self._admitted_behind < self._max_behind
