"""The write pipe: every write of this process reaches Valkey in the order in which it was made.

What is queued is sent a batch a round trip, and nothing runs while nothing is due. Order is what makes a fill that was
queued before an invalidation arrive before it. What other processes must know of a batch is announced together with it
and behind it: whoever hears of a change and reads Valkey finds it made.

All is due at once but stores behind, for whose acknowledgement nobody waits: they may wait a little for others to share
a round trip with. Whatever is due takes along what was queued before it. Of several stores of one key that are queued
with nothing between them that touches the key, the last is sent, in the place of the first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from ...errors import L2UnavailableError
from ...options import WriteOptions
from .announcement import Announcement
from .level2 import Level2, answer_of
from .queue_budget import QueueBudget
from .queued_write import OnDone, QueuedWrite
from .writes import Announce, Delete, Release, Run, TakeLease, Track, Write, WriteSet

__all__ = ["WritePipe"]

_ANNOUNCING: Final = (WriteSet, Delete, Run)
# Keys that one announcement carries.
_MAX_ANNOUNCED_COUNT: Final = 64


class WritePipe:
    """The ordered queue of writes to one Level2."""

    def __init__(self, level2: Level2, options: WriteOptions) -> None:
        self._level2 = level2
        self._options = options
        self._budget = QueueBudget(max_bytes=options.max_queue_bytes, max_behind=options.max_ops)
        self._queue: deque[QueuedWrite] = deque()
        # Of those at the head of the queue: how many are to be sent now, and how many have been and are not answered.
        self._due_count = 0
        self._sent_count = 0
        self._sent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # Of the batch under way; nothing is sent before it.
        self._answer: asyncio.Future[list[Any]] | None = None
        self._is_starting = False
        self._is_stopped = False
        # How many writes, and how many of them explicit ones, are on their way for a key.
        self._on_their_way: dict[str | bytes, int] = {}
        self._explicit: dict[str | bytes, int] = {}
        # The stores, not sent yet, that a later one of the same key may stand in for.
        self._replaceable: dict[str, QueuedWrite] = {}

    def is_writing(self, key: str) -> bool:
        """Return whether a write of ``key`` is queued or unanswered: what Valkey holds may be older."""
        return key in self._on_their_way

    def is_changing(self, key: str) -> bool:
        """Return whether such a write is an explicit one, and not a fill."""
        return key in self._explicit

    async def write(self, write: Write, on_done: OnDone | None = None) -> int:
        """Queue ``write`` and return, once it is acknowledged, the count of keys it touched.

        Cancelling the caller does not take the write back, and ``on_done`` runs all the same.

        Raises:
            L2UnavailableError: No answer; the write may or may not have happened.
            L2CommandError: Valkey refused it.
        """
        count: int = await self.submit(write, on_done)
        return count

    def has_room(self, size_bytes: int, *, is_behind: bool = False) -> bool:
        """Return whether an explicit store may be queued now. Otherwise it has to ``wait_room``."""
        return self._budget.has(size_bytes, is_behind=is_behind)

    async def wait_room(self, size_bytes: int, *, is_behind: bool = False) -> None:
        """Return when an explicit store may be queued: before the next await.

        Raises:
            L2UnavailableError: The cache was closed meanwhile.
        """
        await self._budget.wait(size_bytes, is_behind=is_behind)

    def store_behind(self, write: WriteSet, on_done: OnDone) -> None:
        """Queue an explicit store that nobody waits for, to be sent within ``max_delay``."""
        self._append(QueuedWrite(write, on_done, None, is_behind=True))

    async def run(self, run: Run, on_done: OnDone | None = None) -> Any:
        """Queue a command and return, once it is acknowledged, the reply. Otherwise as ``write``."""
        return await self.submit(run, on_done)

    def submit(self, write: Write, on_done: OnDone | None = None) -> asyncio.Future[Any]:
        """Queue ``write``; return a future of its result, or of the error, as for ``write``."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._append(QueuedWrite(write, on_done, future))
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
            self._append(QueuedWrite(write, partial(note, on_done), None))
        await all_answered
        counts: list[int] = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            counts.append(outcome)
        return counts

    def fill(self, write: Write, on_done: OnDone) -> bool:
        """Queue a write that nobody waits for; return False, having dropped it, when the queue is full."""
        size_bytes = write.size_bytes
        if size_bytes > self._options.max_queue_bytes or not self._budget.has(size_bytes):
            return False
        self.post(write, on_done)
        return True

    def post(self, write: Write, on_done: OnDone | None = None) -> None:
        """Queue a small write that nobody waits for, and that is not dropped."""
        self._append(QueuedWrite(write, on_done, None, is_explicit=False))

    async def flush(self) -> None:
        """Send what is queued; return when everything queued before this call has been answered, well or ill."""
        if self._queue:
            last = self._queue[-1]
            if last.answered is None:
                last.answered = asyncio.get_running_loop().create_future()
            self._push()
            await asyncio.shield(last.answered)

    async def drain(self, timeout: float) -> None:
        """Send what is queued, for at most ``timeout`` seconds, then fail what is left."""
        try:
            async with asyncio.timeout(timeout):
                while self._queue or self._budget.is_wanted:
                    # Who was let into the queue comes to it now.
                    await (self.flush() if self._queue else asyncio.sleep(0))
        except TimeoutError:
            self._is_stopped = True
            if self._answer is not None:
                self._answer.cancel()
                await asyncio.wait([self._answer])
        self._cancel_timer()
        error = L2UnavailableError("the cache was closed before Valkey acknowledged the write")
        self._budget.close(error)
        self._take([error] * len(self._queue))

    @property
    def queued_count(self) -> int:
        """Writes that wait, or whose answer is awaited."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """What they weigh."""
        return self._budget.used_bytes

    def _append(self, queued: QueuedWrite) -> None:
        self._budget.take(queued.size_bytes, is_behind=queued.is_behind)
        for key in queued.keys:
            self._on_their_way[key] = self._on_their_way.get(key, 0) + 1
            if queued.is_explicit:
                self._explicit[key] = self._explicit.get(key, 0) + 1
        if not self._is_stood_in_for(queued):
            self._queue.append(queued)
        if not queued.is_behind or self._is_full:
            self._push()
        elif self._timer is None and self._due_count < len(self._queue):
            self._timer = asyncio.get_running_loop().call_later(self._options.max_delay, self._push)

    @property
    def _is_full(self) -> bool:
        """Whether what has not been sent yet makes a whole batch."""
        options = self._options
        return (
            len(self._queue) - self._sent_count >= options.max_ops
            or self._budget.used_bytes - self._sent_bytes >= options.max_bytes
        )

    def _is_stood_in_for(self, queued: QueuedWrite) -> bool:
        """Return whether an earlier store of the same key has taken ``queued`` into its place."""
        write = queued.write
        if queued.is_explicit and isinstance(write, WriteSet) and write.announced and write.replaces is None:
            earlier = self._replaceable.setdefault(write.key, queued)
            if earlier is queued:
                return False
            assert isinstance(earlier.write, WriteSet)
            # The key stays registered where the earlier store would have registered it, as if both had been sent.
            indexes = tuple(dict.fromkeys(earlier.write.indexes + write.indexes))
            earlier.supersede(queued, replace(write, indexes=indexes))
            return True
        if self._replaceable:
            self._keep_in_front(write)
        return False

    def _keep_in_front(self, write: Write) -> None:
        """Let no store that is queued behind ``write`` come before it, if they may concern the same key."""
        match write:
            case WriteSet(key) | TakeLease(key) | Release(key):
                self._replaceable.pop(key, None)
            case Announce() | Track():
                pass
            case Delete(keys) if all(isinstance(key, str) for key in keys):
                for each in keys:
                    self._replaceable.pop(str(each), None)
            case _:
                # Keys as a scan has found them, or a command that does not say.
                self._replaceable.clear()

    def _push(self) -> None:
        """Send everything that is queued."""
        self._cancel_timer()
        self._due_count = len(self._queue)
        if self._queue and self._answer is None and not self._is_starting:
            # In a moment: who writes in this step too goes with it.
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._is_starting = False
        self._send_next()

    def _send_next(self) -> None:
        """Send a batch of what is due, unless one is under way: whoever is told of an outcome may have queued more."""
        if not self._due_count or self._answer is not None or self._is_stopped:
            return
        batch, queued_count = self._next_batch(), len(self._queue)
        try:
            self._answer = answer_of(self._apply(batch))
        # A defect in what applies it must not block the queue.
        except Exception as error:
            self._answer = asyncio.get_running_loop().create_future()
            self._answer.set_exception(error)
        self._answer.add_done_callback(partial(self._answered, batch, queued_count))

    def _answered(self, batch: list[QueuedWrite], queued_count: int, answer: asyncio.Future[list[Any]]) -> None:
        self._answer = None
        try:
            if answer.cancelled():
                # From outside, before it came to its first step perhaps; what is due still wants to be sent.
                self._sent_count = self._sent_bytes = 0
                self._give_up_runs(batch)
            elif (error := answer.exception()) is None:
                self._take(_told(batch, answer.result()))
            else:
                # A defect reaches whoever waits for the batch. Valkey's silence reaches everybody who was queued then,
                # and is not waited for once a batch.
                self._take([error] * (queued_count if isinstance(error, L2UnavailableError) else len(batch)))
        finally:
            # Also where whoever was told of an outcome has raised, by a defect: the others are still to be answered.
            self._send_next()

    def _apply(self, batch: Sequence[QueuedWrite]) -> Awaitable[list[Any]]:
        writes = [queued.write for queued in batch]
        keys: list[Any] = list(dict.fromkeys([key for write in writes for key in _announced(write)]))
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
            self._replaceable.clear()
            self._cancel_timer()
        else:
            self._sent_bytes = sum(queued.size_bytes for queued in batch)
            for queued in batch:
                if isinstance(queued.write, WriteSet) and self._replaceable.get(queued.write.key) is queued:
                    del self._replaceable[queued.write.key]
        return batch

    def _give_up_runs(self, batch: list[QueuedWrite]) -> None:
        # What else is in a cancelled batch stays at the head of the queue, to be sent again. That would be harmless for
        # a SET; an increment may have been carried out already.
        for queued in batch:
            if isinstance(queued.write, Run):
                self._queue.remove(queued)
                self._due_count -= self._due_count > 0
                self._forget(queued)
                queued.finish(L2UnavailableError("broken off before Valkey acknowledged it; it may have happened"))

    def _take(self, outcomes: Sequence[Any]) -> None:
        """Give those at the head of the queue their outcomes."""
        # No await here: every outcome takes effect before anybody else runs.
        self._sent_count = self._sent_bytes = 0
        for outcome in outcomes:
            queued = self._queue.popleft()
            self._due_count -= self._due_count > 0
            self._forget(queued)
            queued.finish(outcome)

    def _forget(self, queued: QueuedWrite) -> None:
        self._budget.give_back(queued.size_bytes, is_behind=queued.is_behind)
        for key in queued.keys:
            _count_down(self._on_their_way, key)
            if queued.is_explicit:
                _count_down(self._explicit, key)
        if queued.later is not None:
            for later in queued.later:
                self._forget(later)
        if isinstance(queued.write, WriteSet) and self._replaceable.get(queued.write.key) is queued:
            # Failed unsent, together with the batch before it.
            del self._replaceable[queued.write.key]


def _told(batch: Sequence[QueuedWrite], outcomes: list[Any]) -> list[Any]:
    """Return the outcomes of a batch, without those of its announcements. What was told to nobody is no success."""
    if len(outcomes) == len(batch):
        return outcomes
    refusal = next((outcome for outcome in outcomes[len(batch) :] if isinstance(outcome, Exception)), None)
    outcomes = outcomes[: len(batch)]
    if refusal is None:
        return outcomes
    return [
        refusal if _announced(queued.write) and not isinstance(outcome, Exception) else outcome
        for queued, outcome in zip(batch, outcomes, strict=True)
    ]


def _announced(write: Write) -> tuple[Any, ...]:
    return write.keys if isinstance(write, _ANNOUNCING) and write.announced else ()


def _count_down(counts: dict[str | bytes, int], key: str | bytes) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
