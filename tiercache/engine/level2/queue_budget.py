"""Room: how much may be queued for Valkey, and who comes next when there is none left.

Explicit stores wait for it, in the order in which they came. Values that were loaded are dropped where there is none;
invalidations are not asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

__all__ = ["QueueBudget"]


class _Waiter(NamedTuple):
    size_bytes: int
    is_behind: bool
    let_in: asyncio.Future[None]


class QueueBudget:
    """The room in one queue.

    Args:
        max_bytes: What may be queued. A write that is larger by itself goes when there is nothing else.
        max_behind: Most stores that are not answered yet and that nobody waits for: those that a crash would lose.

    Attributes:
        used_bytes: What is queued weighs.
    """

    def __init__(self, *, max_bytes: int, max_behind: int) -> None:
        self._max_bytes = max_bytes
        self._max_behind = max_behind
        self.used_bytes = 0
        self._behind_count = 0
        # For those who have been let in and have not come to queue their writes yet.
        self._promised_bytes = 0
        self._promised_behind = 0
        self._waiting: deque[_Waiter] = deque()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody is about to queue a write."""
        return bool(self._waiting or self._promised_bytes)

    def take(self, size_bytes: int, *, is_behind: bool) -> None:
        """Count a write that is queued, whether there was room or not."""
        self.used_bytes += size_bytes
        self._behind_count += is_behind

    def give_back(self, size_bytes: int, *, is_behind: bool) -> None:
        """Count one that has been answered, and let in who waits for its room."""
        self.used_bytes -= size_bytes
        self._behind_count -= is_behind
        if self._waiting:
            self._let_in()

    def has(self, size_bytes: int, *, is_behind: bool = False) -> bool:
        """Return whether a write may be queued now, and not past somebody who waits."""
        return not self._waiting and self._fits(size_bytes, is_behind)

    async def wait(self, size_bytes: int, *, is_behind: bool = False) -> None:
        """Return when there is room for a write, which is the caller's if it is taken before the next await.

        Raises:
            Exception: What ``close`` was given.
        """
        if self.has(size_bytes, is_behind=is_behind):
            return
        waiter = _Waiter(size_bytes, is_behind, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.let_in
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.let_in.cancelled() and waiter.let_in.exception() is None:
                # Cancelled in the moment of being let in.
                self._promise(waiter, -1)
            self._let_in()
            raise
        self._promise(waiter, -1)

    def close(self, error: Exception) -> None:
        """Turn away who still waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.let_in.done():
                waiter.let_in.set_exception(error)

    def _let_in(self) -> None:
        waiting = self._waiting
        while waiting and self._fits(waiting[0].size_bytes, waiting[0].is_behind):
            waiter = waiting.popleft()
            if not waiter.let_in.done():
                self._promise(waiter, 1)
                waiter.let_in.set_result(None)

    def _promise(self, waiter: _Waiter, sign: int) -> None:
        self._promised_bytes += sign * waiter.size_bytes
        self._promised_behind += sign * waiter.is_behind

    def _fits(self, size_bytes: int, is_behind: bool) -> bool:
        used_bytes = self.used_bytes + self._promised_bytes
        if used_bytes and used_bytes + size_bytes > self._max_bytes:
            return False
        return not is_behind or self._behind_count + self._promised_behind < self._max_behind
