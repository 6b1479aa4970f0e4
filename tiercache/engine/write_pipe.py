"""The write pipe: every write of this process reaches Valkey in the order in which it was made.

One task sends what is queued, a batch a round trip, and ends when nothing is left. Order is what makes a fill that was
queued before an invalidation arrive before it. What other processes must know of a batch is announced together with it
and behind it: whoever hears of a change and reads Valkey finds it made.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from ..errors import L2UnavailableError
from .announcement import Announcement
from .level2 import Announce, Delete, Level2, Run, Write, WriteSet

__all__ = ["OnDone", "WritePipe"]

_MAX_BATCH_COUNT: Final = 100
_MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
# Keys that one announcement carries.
_MAX_ANNOUNCED_COUNT: Final = 64

# Called with the count of keys touched, the reply to a Run or the error, at the moment the outcome is known and before
# any waiter runs.
OnDone = Callable[[Any], object]


class _Queued:
    __slots__ = ("answered", "future", "is_awaited", "on_done", "write")

    def __init__(
        self, write: Write, on_done: OnDone | None, future: asyncio.Future[Any] | None, *, is_awaited: bool = True
    ) -> None:
        self.write = write
        self.is_awaited = is_awaited
        self.on_done = on_done
        self.future = future
        self.answered: asyncio.Future[None] | None = None

    def finish(self, outcome: Any) -> None:
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
        self._is_stopped = False
        # How many writes, and how many of them awaited ones, are on their way for a key.
        self._on_their_way: Counter[str | bytes] = Counter()
        self._awaited: Counter[str | bytes] = Counter()

    def is_writing(self, key: str) -> bool:
        """Return whether a write of ``key`` is queued or unanswered: what Valkey holds may be older."""
        return key in self._on_their_way

    def is_changing(self, key: str) -> bool:
        """Return whether such a write is an explicit one, and not a fill."""
        return key in self._awaited

    async def write(self, write: Write, on_done: OnDone | None = None) -> int:
        """Queue ``write`` and return, once it is acknowledged, the count of keys it touched.

        Cancelling the caller does not take the write back, and ``on_done`` runs all the same.

        Raises:
            L2UnavailableError: No answer; the write may or may not have happened.
            L2CommandError: Valkey refused it.
        """
        count: int = await self.submit(write, on_done)
        return count

    async def run(self, run: Run, on_done: OnDone | None = None) -> Any:
        """Queue a command and return, once it is acknowledged, the reply. Otherwise as ``write``."""
        return await self.submit(run, on_done)

    def submit(self, write: Write, on_done: OnDone | None = None) -> asyncio.Future[Any]:
        """Queue ``write``; return a future of its result, or of the error, as for ``write``."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._append(_Queued(write, on_done, future))
        return future

    async def write_all(self, writes: Sequence[tuple[Write, OnDone]]) -> list[int]:
        """Queue ``writes`` together; return, once every one has been answered, the count of keys that each touched.

        Cancelling the caller is as for ``write``.

        Raises:
            L2UnavailableError, L2CommandError: As for ``write``, for the first that failed. The others may be done.
        """
        if not writes:
            return []
        all_answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        outcomes: list[int | Exception] = []

        def note(on_done: OnDone, outcome: int | Exception) -> None:
            on_done(outcome)
            outcomes.append(outcome)
            if len(outcomes) == len(writes) and not all_answered.done():
                all_answered.set_result(None)

        for write, on_done in writes:
            self._append(_Queued(write, partial(note, on_done), None))
        await all_answered
        counts: list[int] = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            counts.append(outcome)
        return counts

    def fill(self, write: Write, on_done: OnDone) -> bool:
        """Queue a write that nobody waits for; return False, having dropped it, when the queue is full."""
        if self._queued_bytes + write.size_bytes > self._max_fill_bytes:
            return False
        self.post(write, on_done)
        return True

    def post(self, write: Write, on_done: OnDone | None = None) -> None:
        """Queue a small write that nobody waits for, and that is not dropped."""
        self._append(_Queued(write, on_done, None, is_awaited=False))

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
            self._is_stopped = True
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
        for key in queued.write.keys:
            self._on_their_way[key] += 1
            if queued.is_awaited:
                self._awaited[key] += 1
        self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all(), name="tiercache-writes")
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Cancelled from outside, it may not even have come to its first step; what is queued still wants to be sent.
        if self._task is task:
            self._task = None
        if self._queue and not self._is_stopped:
            self._start()

    async def _send_all(self) -> None:
        try:
            while self._queue:
                batch, queued = self._next_batch(), list(self._queue)
                try:
                    outcomes = await self._apply(batch)
                except asyncio.CancelledError:
                    self._give_up_runs(batch)
                    raise
                # Not only the errors a Level2 may raise: a defect in one must not block the queue. It reaches
                # whoever waits for the batch.
                except L2UnavailableError as error:
                    # Everything that was queued then: a server that is silent is not waited for once a batch.
                    self._take(queued, [error] * len(queued))
                except Exception as error:
                    self._take(batch, [error] * len(batch))
                else:
                    self._take(batch, outcomes)
        finally:
            # Together with finding the queue empty, with no await between: what is queued next starts a new task.
            self._task = None

    async def _apply(self, batch: Sequence[_Queued]) -> list[Any]:
        writes = [queued.write for queued in batch]
        announced = dict.fromkeys(key for write in writes for key in _announced(write))
        keys = list(announced)
        tail = [
            Announce(Announcement(keys=tuple(keys[start : start + _MAX_ANNOUNCED_COUNT])))
            for start in range(0, len(keys), _MAX_ANNOUNCED_COUNT)
        ]
        outcomes = await self._level2.apply([*writes, *tail])
        refusal = next((outcome for outcome in outcomes[len(writes) :] if isinstance(outcome, Exception)), None)
        outcomes = outcomes[: len(writes)]
        if refusal is None:
            return outcomes
        # Done, and told to nobody: no success.
        return [
            refusal if _announced(write) and not isinstance(outcome, Exception) else outcome
            for write, outcome in zip(writes, outcomes, strict=True)
        ]

    def _next_batch(self) -> list[_Queued]:
        batch: list[_Queued] = []
        size_bytes = 0
        for queued in self._queue:
            size_bytes += queued.write.size_bytes
            if batch and (len(batch) == _MAX_BATCH_COUNT or size_bytes > _MAX_BATCH_BYTES):
                break
            batch.append(queued)
        return batch

    def _give_up_runs(self, batch: list[_Queued]) -> None:
        # What else is in a cancelled batch stays at the head of the queue, to be sent again. That would be harmless for
        # a SET; an increment may have been carried out already.
        for queued in batch:
            if isinstance(queued.write, Run):
                self._queue.remove(queued)
                self._forget(queued)
                queued.finish(L2UnavailableError("broken off before Valkey acknowledged it; it may have happened"))

    def _take(self, batch: list[_Queued], outcomes: Sequence[Any]) -> None:
        # No await here: every outcome takes effect before anybody else runs.
        for queued, outcome in zip(batch, outcomes, strict=True):
            self._queue.popleft()
            self._forget(queued)
            queued.finish(outcome)

    def _forget(self, queued: _Queued) -> None:
        self._queued_bytes -= queued.write.size_bytes
        for key in queued.write.keys:
            _count_down(self._on_their_way, key)
            if queued.is_awaited:
                _count_down(self._awaited, key)


def _announced(write: Write) -> tuple[Any, ...]:
    return write.keys if isinstance(write, WriteSet | Delete | Run) and write.announced else ()


def _count_down(counter: Counter[str | bytes], key: str | bytes) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
