"""The write pipe: every write of this process reaches Valkey in the order in which it was made.

One task sends what is queued, a batch a round trip, and ends when nothing is left. Order is what makes a fill that was
queued before an invalidation arrive before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ..errors import L2UnavailableError
from .level2 import Level2, Write, WriteSet

__all__ = ["WritePipe"]

_MAX_BATCH_COUNT: Final = 100
_MAX_BATCH_BYTES: Final = 4 * 1024 * 1024

# Called with the count of keys touched, or the error, at the moment the outcome is known and before any waiter runs.
OnDone = Callable[[int | Exception], object]


class _Queued:
    __slots__ = ("answered", "future", "on_done", "write")

    def __init__(self, write: Write, on_done: OnDone | None, future: asyncio.Future[int] | None) -> None:
        self.write = write
        self.on_done = on_done
        self.future = future
        self.answered: asyncio.Future[None] | None = None

    def finish(self, outcome: int | Exception) -> None:
        if self.on_done is not None:
            self.on_done(outcome)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)
        if self.future is None or self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class WritePipe:
    """The ordered queue of writes to one Level2."""

    def __init__(self, level2: Level2, *, max_fill_bytes: int) -> None:
        self._level2 = level2
        self._max_fill_bytes = max_fill_bytes
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._task: asyncio.Task[None] | None = None

    async def write(self, write: Write, on_done: OnDone | None = None) -> int:
        """Queue ``write`` and return, once it is acknowledged, the count of keys it touched.

        Cancelling the caller does not take the write back, and ``on_done`` runs all the same.

        Raises:
            L2UnavailableError: No answer; the write may or may not have happened.
            L2CommandError: Valkey refused it.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._append(_Queued(write, on_done, future))
        return await future

    def fill(self, write: WriteSet, on_done: OnDone) -> bool:
        """Queue a write that nobody waits for; return False, having dropped it, when the queue is full."""
        if self._queued_bytes + write.size_bytes > self._max_fill_bytes:
            return False
        self._append(_Queued(write, on_done, None))
        return True

    async def flush(self) -> None:
        """Return when everything queued before this call has been answered, well or ill."""
        if self._queue:
            last = self._queue[-1]
            if last.answered is None:
                last.answered = asyncio.get_running_loop().create_future()
            self._start()
            await asyncio.shield(last.answered)

    async def drain(self, timeout: float) -> None:
        """Send what is queued, for at most ``timeout`` seconds, then fail what is left."""
        try:
            async with asyncio.timeout(timeout):
                while self._queue:
                    await self.flush()
        except TimeoutError:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        left = list(self._queue)
        error = L2UnavailableError("the cache was closed before Valkey acknowledged the write")
        self._take(left, [error] * len(left))

    @property
    def queued_count(self) -> int:
        """Writes that wait, or whose answer is awaited."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """What they weigh."""
        return self._queued_bytes

    def _append(self, queued: _Queued) -> None:
        self._queue.append(queued)
        self._queued_bytes += queued.write.size_bytes
        self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all(), name="tiercache-writes")

    async def _send_all(self) -> None:
        try:
            while self._queue:
                batch = self._next_batch()
                try:
                    outcomes = await self._level2.apply([queued.write for queued in batch])
                # Not only the errors a Level2 may raise: a defect in one must not block the queue. It reaches
                # whoever waits for the batch. A cancelled batch stays at the head of the queue, to be sent again.
                except Exception as error:
                    self._take(batch, [error] * len(batch))
                else:
                    self._take(batch, outcomes)
        finally:
            # Together with finding the queue empty, with no await between: what is queued next starts a new task.
            self._task = None

    def _next_batch(self) -> list[_Queued]:
        batch: list[_Queued] = []
        size_bytes = 0
        for queued in self._queue:
            size_bytes += queued.write.size_bytes
            if batch and (len(batch) == _MAX_BATCH_COUNT or size_bytes > _MAX_BATCH_BYTES):
                break
            batch.append(queued)
        return batch

    def _take(self, batch: list[_Queued], outcomes: Sequence[int | Exception]) -> None:
        # No await here: every outcome takes effect before anybody else runs.
        for queued, outcome in zip(batch, outcomes, strict=True):
            self._queue.popleft()
            self._queued_bytes -= queued.write.size_bytes
            queued.finish(outcome)
