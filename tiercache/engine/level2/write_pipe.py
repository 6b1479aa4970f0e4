"""The write pipe: every write of this process reaches Valkey in the order in which it was queued.

The pipe sends one batch a round trip, and the next batch after the answer. While the queue is empty, nothing runs.

::

                1 not behind   3 timer                 5 no batch in flight
                2 full batch   4 flush
        queued ───────────────────────────▶ due ────────────────────────────▶ sent ───8───▶ answered
         │ │                                 ▲                                │ ▲              ▲
         │ │                                 └──────── 7 batch cancelled ─────┘ │              │
         │ └───────────────────── 6 rides along ────────────────────────────────┘              │
         └─────────────────────── 9 Valkey unavailable ────────────────────────────────────────┘

1. A write that is not a store behind is due at once, and with it every write before it in the queue.
2. Stores behind are due when the unsent writes fill a batch (``max_ops`` or ``max_bytes``).
3. The timer makes the queue due ``max_delay`` seconds after the first store behind that waits.
4. ``flush`` and ``drain`` make the queue due.
5. The pipe sends the head of the queue, up to a full batch: at once after an answer, else in the next step of the loop,
   so that all writes of the current step share the batch.
6. A batch with room left takes stores behind that are not due yet.
7. A batch cancelled from outside, as at the end of ``asyncio.run``, stays at the head of the queue and is sent again. A
   second SET is harmless. A Run fails instead, because a second INCR counts twice.
8. The results arrive: each write gets its own outcome. An error such as a defect in this process fails the batch only.
9. Valkey does not answer a batch: all writes that were queued when the batch left fail, due or not. Otherwise each
   further batch would wait for one more timeout.

The order closes three races:

- "Fill after invalidation": a fill that was queued before an invalidation must not arrive behind it and stay.
- "Message before change": a process that receives an announcement and then reads Valkey must find the change made. The
  announcements of a batch stand behind all its writes, in the same round trip.
- "Store moved before a delete": of several queued stores of one key only the last is sent, at the place of the first. A
  delete between them would then remove the last value, so a write of the key in between forbids the move.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final

from ...errors import L2UnavailableError
from ...options import WriteOptions
from .announcement import Announcement
from .level2 import Level2, as_future
from .queue_budget import QueueBudget
from .queued_write import OnDone, QueuedWrite
from .unsent_stores import UnsentStores
from .writes import Announce, Delete, Run, Write, WriteSet

__all__ = ["WritePipe"]

_ANNOUNCING: Final = (WriteSet, Delete, Run)
# Most keys in one announcement.
_MAX_ANNOUNCED_COUNT: Final = 64


class WritePipe:
    """The ordered queue of writes to one Level2."""

    def __init__(self, level2: Level2, options: WriteOptions) -> None:
        self._level2 = level2
        self._options = options
        self._budget = QueueBudget(max_bytes=options.max_queue_bytes, max_behind=options.max_ops)
        self._queue: deque[QueuedWrite] = deque()
        # Counts from the head of the queue: writes that are due, the sent ones included; writes sent but not answered.
        self._due_count = 0
        self._sent_count = 0
        self._sent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # Batches are sent in this context: each answer sends the next batch, and the context of the caller that queued
        # the first write would live as long as the queue is busy.
        self._context = Context()
        # The answer to the batch in flight, or None. The pipe sends nothing before that answer.
        self._answer: asyncio.Future[list[Any]] | None = None
        self._is_starting = False
        self._is_stopped = False
        # Counts of the writes in flight, queued or sent, by key: of all writes, and of explicit writes.
        self._in_flight: dict[str | bytes, int] = {}
        self._explicit: dict[str | bytes, int] = {}
        self._unsent_stores = UnsentStores()

    @property
    def is_half_full(self) -> bool:
        """Whether the queue has more than half of its most bytes. Beyond them it drops loaded values."""
        return self._budget.used_bytes * 2 > self._options.max_queue_bytes

    def is_writing(self, key: str) -> bool:
        """Return whether a write of ``key`` is queued or unanswered, so that Valkey may hold an older value."""
        return key in self._in_flight

    def is_changing(self, key: str) -> bool:
        """Return whether an explicit write of ``key``, a change made by a caller, is queued or unanswered."""
        return key in self._explicit

    async def write(self, write: Write, on_done: OnDone | None = None) -> int:
        """Queue ``write``, wait until Valkey acknowledges the write, and return the count of keys touched.

        Cancelling the caller does not take the write back, and ``on_done`` still runs.

        Raises:
            L2UnavailableError: Valkey did not answer; the write may or may not have happened.
            L2CommandError: Valkey refused the write.
        """
        count: int = await self.submit(write, on_done)
        return count

    def has_room(self, size_bytes: int, *, is_behind: bool = False) -> bool:
        """Return whether an explicit store may be queued now. If not, the caller must await ``wait_room``."""
        return self._budget.has(size_bytes, is_behind=is_behind)

    async def wait_room(self, size_bytes: int, *, is_behind: bool = False) -> None:
        """Wait until an explicit store may be queued. The caller must queue the store before its next await.

        Raises:
            L2UnavailableError: The cache was closed during the wait.
        """
        await self._budget.wait(size_bytes, is_behind=is_behind)

    def store_behind(self, write: WriteSet, on_done: OnDone) -> None:
        """Queue an explicit store whose caller does not wait. The pipe sends the store within ``max_delay``."""
        self._append(QueuedWrite(write, on_done, None, is_behind=True))

    async def run(self, run: Run, on_done: OnDone | None = None) -> Any:
        """Queue a command, wait until Valkey acknowledges the command, and return the reply. Otherwise as ``write``."""
        return await self.submit(run, on_done)

    def submit(self, write: Write, on_done: OnDone | None = None) -> asyncio.Future[Any]:
        """Queue ``write``; return a future of its result or error, as for the method ``write``."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._append(QueuedWrite(write, on_done, future))
        return future

    async def write_all(self, writes: Sequence[tuple[Write, OnDone]]) -> list[int]:
        """Queue ``writes`` together, wait until all are answered, and return the count of keys that each touched.

        Cancelling the caller acts as for ``write``.

        Raises:
            L2UnavailableError, L2CommandError: As for ``write``, for the first write that failed. The other writes may
                have happened.
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
            self._append(QueuedWrite(write, partial(note, on_done), None))
        await all_answered
        counts: list[int] = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            counts.append(outcome)
        return counts

    def fill(self, write: Write, on_done: OnDone) -> bool:
        """Queue a write without a waiter; if the queue is full, drop the write and return False."""
        size_bytes = write.size_bytes
        if size_bytes > self._options.max_queue_bytes or not self._budget.has(size_bytes):
            return False
        self.post(write, on_done)
        return True

    def post(self, write: Write, on_done: OnDone | None = None) -> None:
        """Queue a small write without a waiter, even if the queue is full."""
        self._append(QueuedWrite(write, on_done, None, is_explicit=False))

    async def flush(self) -> None:
        """Send all queued writes; return when every write queued before this call has an outcome or an error."""
        if self._queue:
            last = self._queue[-1]
            if last.answered is None:
                last.answered = asyncio.get_running_loop().create_future()
            self._make_all_due()
            await asyncio.shield(last.answered)

    async def drain(self, timeout: float) -> None:
        """Send all queued writes for at most ``timeout`` seconds, then fail the writes that are left."""
        try:
            async with asyncio.timeout(timeout):
                while self._queue or self._budget.is_awaited:
                    # The sleep lets the stores that were admitted to the queue queue their writes.
                    await (self.flush() if self._queue else asyncio.sleep(0))
        except TimeoutError:
            self._is_stopped = True
            if self._answer is not None:
                self._answer.cancel()
                await asyncio.wait([self._answer])
        self._cancel_timer()
        error = L2UnavailableError("the cache was closed before Valkey acknowledged the write")
        self._budget.close(error)
        self._finish_head([error] * len(self._queue))

    @property
    def queued_count(self) -> int:
        """Count of writes that are queued, or sent and not answered."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Bytes of the writes that ``queued_count`` counts."""
        return self._budget.used_bytes

    def _append(self, queued: QueuedWrite) -> None:
        self._budget.take(queued.size_bytes, is_behind=queued.is_behind)
        for key in queued.keys:
            self._in_flight[key] = self._in_flight.get(key, 0) + 1
            if queued.is_explicit:
                self._explicit[key] = self._explicit.get(key, 0) + 1
        if not self._unsent_stores.absorb(queued):
            self._queue.append(queued)
        if not queued.is_behind or self._is_full:
            self._make_all_due()
        elif self._timer is None and self._due_count < len(self._queue):
            self._timer = asyncio.get_running_loop().call_later(self._options.max_delay, self._make_all_due)

    @property
    def _is_full(self) -> bool:
        """Whether the unsent writes fill a whole batch."""
        options = self._options
        return (
            len(self._queue) - self._sent_count >= options.max_ops
            or self._budget.used_bytes - self._sent_bytes >= options.max_bytes
        )

    def _make_all_due(self) -> None:
        """Make all queued writes due, and start sending unless a batch is in flight."""
        self._cancel_timer()
        self._due_count = len(self._queue)
        if self._queue and self._answer is None and not self._is_starting:
            # In the next step: all writes of this step share the batch.
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_sending, context=self._context)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_sending(self) -> None:
        self._is_starting = False
        self._send_next()

    def _send_next(self) -> None:
        """Send the next batch if writes are due and no batch is in flight."""
        if not self._due_count or self._answer is not None or self._is_stopped:
            return
        batch, queued_count = self._next_batch(), len(self._queue)
        try:
            self._answer = as_future(self._apply(batch))
        # A defect in the store must not block the queue: the error becomes the answer to the batch.
        except Exception as error:
            self._answer = asyncio.get_running_loop().create_future()
            self._answer.set_exception(error)
        self._answer.add_done_callback(partial(self._answered, batch, queued_count))

    def _answered(self, batch: list[QueuedWrite], queued_count: int, answer: asyncio.Future[list[Any]]) -> None:
        self._answer = None
        try:
            if answer.cancelled():
                # Cancelled from outside, perhaps before the first step of the task. The writes stay due (case 7).
                self._sent_count = self._sent_bytes = 0
                self._fail_runs(batch)
            elif (error := answer.exception()) is None:
                self._finish_head(_outcomes_of_writes(batch, answer.result()))
            else:
                # A defect fails the batch only. Without an answer all writes queued when the batch left fail (case 9).
                self._finish_head([error] * (queued_count if isinstance(error, L2UnavailableError) else len(batch)))
        finally:
            # Also if an ``on_done`` has raised, by a defect: the writes behind it still need their answers.
            self._send_next()

    def _apply(self, batch: Sequence[QueuedWrite]) -> Awaitable[list[Any]]:
        writes = [queued.write for queued in batch]
        keys: list[Any] = list(dict.fromkeys([key for write in writes for key in _announced_keys(write)]))
        for start in range(0, len(keys), _MAX_ANNOUNCED_COUNT):
            writes.append(Announce(Announcement(keys=tuple(keys[start : start + _MAX_ANNOUNCED_COUNT]))))
        return self._level2.apply(writes)

    def _next_batch(self) -> list[QueuedWrite]:
        batch: list[QueuedWrite] = []
        size_bytes = 0
        options = self._options
        for queued in self._queue:
            size_bytes += queued.write.size_bytes
            if batch and (len(batch) == options.max_ops or size_bytes > options.max_bytes):
                break
            batch.append(queued)
        self._sent_count = len(batch)
        if len(batch) == len(self._queue):
            self._sent_bytes = self._budget.used_bytes
            self._unsent_stores.clear()
            self._cancel_timer()
        else:
            self._sent_bytes = sum(queued.size_bytes for queued in batch)
            for queued in batch:
                self._unsent_stores.remove(queued)
        return batch

    def _fail_runs(self, batch: list[QueuedWrite]) -> None:
        # Valkey may have carried the cancelled batch out. The other writes are sent again, which is harmless; a Run,
        # such as an increment, could take effect twice.
        for queued in batch:
            if isinstance(queued.write, Run):
                self._queue.remove(queued)
                self._due_count -= self._due_count > 0
                self._forget(queued)
                queued.finish(L2UnavailableError("command cancelled before its acknowledgement; it may have happened"))

    def _finish_head(self, outcomes: Sequence[Any]) -> None:
        """Remove the writes at the head of the queue, and hand each its outcome."""
        # No await here: every outcome takes effect before any other task runs.
        self._sent_count = self._sent_bytes = 0
        defect: Exception | None = None
        for outcome in outcomes:
            queued = self._queue.popleft()
            self._due_count -= self._due_count > 0
            self._forget(queued)
            try:
                queued.finish(outcome)
            # A callback raised by a defect. A write that stayed in the queue for it would be sent a second time.
            except Exception as error:
                defect = defect or error
        if defect is not None:
            raise defect

    def _forget(self, queued: QueuedWrite) -> None:
        self._budget.give_back(queued.size_bytes, is_behind=queued.is_behind)
        for key in queued.keys:
            _count_down(self._in_flight, key)
            if queued.is_explicit:
                _count_down(self._explicit, key)
        if queued.absorbed is not None:
            for later in queued.absorbed:
                self._forget(later)
        # A store that failed unsent (case 9): no later store may take its place any more.
        self._unsent_stores.remove(queued)


def _outcomes_of_writes(batch: Sequence[QueuedWrite], outcomes: list[Any]) -> list[Any]:
    """Return the outcomes of the writes of a batch, without the outcomes of its announcements.

    If Valkey refused an announcement, every announced write of the batch fails with that refusal: Valkey made the
    change, but the other processes do not know of it.
    """
    if len(outcomes) == len(batch):
        return outcomes
    refusal = next((outcome for outcome in outcomes[len(batch) :] if isinstance(outcome, Exception)), None)
    outcomes = outcomes[: len(batch)]
    if refusal is None:
        return outcomes
    return [
        refusal if _announced_keys(queued.write) and not isinstance(outcome, Exception) else outcome
        for queued, outcome in zip(batch, outcomes, strict=True)
    ]


def _announced_keys(write: Write) -> tuple[Any, ...]:
    """Return the keys that the batch of ``write`` must announce."""
    return write.keys if isinstance(write, _ANNOUNCING) and write.announced else ()


def _count_down(counts: dict[str | bytes, int], key: str | bytes) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
