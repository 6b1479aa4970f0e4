"""Calls: one thread waits for one task on the private loop, and calls the plain functions that the task needs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from ..errors import UsageError
from .loop_thread import LoopThread
from .work import Work

__all__ = ["CLOSED", "Call", "in_thread", "run_plain"]

T = TypeVar("T")

# Seconds for which an interrupted caller waits for the end of its task. The private loop may be blocked.
_LEAVE_SECONDS: Final = 1.0
# The text of the error of a call on a closed portal.
CLOSED: Final = "the cache is closed"


class Call(Generic[T]):
    """One ``Portal.run``: the task on the private loop, and the thread that waits for it."""

    __slots__ = ("_is_waiting", "_items", "_task", "_thread")

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        # Plain functions to call, then the outcome: the value and the error, or None if the portal has ended.
        self._items: SimpleQueue[Work[Any] | tuple[T | None, BaseException | None] | None] = SimpleQueue()
        self._is_waiting = True
        self._task: asyncio.Task[None] | None = None

    def _begin(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        context = copy_context()
        context.run(CURRENT_CALL.set, self)
        self._thread.calls.add(self)
        if not self._thread.post(self._start, make, context=context):
            self.end()

    def _start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        if not self._is_waiting:
            self.end()
        else:
            self._task = self._thread.loop.create_task(self._answer(make), name="tiercache-sync-call")
            self._task.add_done_callback(self._answered)

    async def _answer(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            value = await make()
        # The caller gets every exception. The loop must not: SystemExit would end it, and an eager task raises it in
        # the step that makes the task.
        except BaseException as error:
            self._items.put((None, error))
        else:
            self._items.put((value, None))

    def _answered(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._items.put((None, asyncio.CancelledError()))  # Before its first step.

    def end(self) -> None:
        """End the call without an outcome. Any thread may call this."""
        self._items.put(None)

    def offer(self, work: Work[Any]) -> bool:
        """Let the waiting thread call ``work``; return False if no thread waits any more."""
        # In this order, and without a lock, which a fork could leave locked: a caller that has left since takes the
        # work from the queue, or else this step does.
        self._items.put(work)
        return self._is_waiting or not work.claim()

    def run(self, make: Callable[[], Coroutine[Any, Any, T]], seconds: float | None = None) -> T:
        """Await ``make()`` on the loop, and call the offered functions until then; return the outcome.

        Args:
            seconds: Most seconds to wait; then TimeoutError. None: no limit.
        """
        try:
            # Inside of the block: an interrupt may come as soon as the task can offer functions to this thread.
            self._begin(make)
            while isinstance(item := self._items.get(timeout=seconds), Work):
                if item.claim():
                    item.call()
                if self._thread.pid != os.getpid():
                    raise RuntimeError("the process was forked inside a loader: this copy of the call has no outcome")
        except Empty:
            self._leave(0.0)
            raise TimeoutError from None
        except BaseException:
            self._leave(_LEAVE_SECONDS)
            raise
        self._stop_waiting()
        if item is None:
            raise UsageError(CLOSED)
        value, error = item
        if error is None:
            return value  # type: ignore[return-value]
        if isinstance(error, asyncio.CancelledError) and self._thread.is_stopping:
            raise UsageError(CLOSED) from None
        try:
            raise error
        finally:
            del error, item  # The error refers to this frame.

    def _leave(self, seconds: float) -> None:
        """Cancel the task, and wait up to ``seconds`` for its end.

        Without that wait, the next call of this thread could join a load that is about to end with this call.
        """
        self._is_waiting = False
        if self._thread.pid == os.getpid() and self._thread.post(self._cancel):
            self._pass_on(seconds)
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._thread.calls.discard(self)
        self._is_waiting = False
        self._pass_on(0.0)

    def _pass_on(self, seconds: float) -> None:
        """Let new threads call the offered functions, until the outcome arrives or ``seconds`` have passed."""
        give_up_at = time.monotonic() + seconds
        with suppress(Empty):
            while isinstance(item := self._items.get(timeout=max(0.0, give_up_at - time.monotonic())), Work):
                if item.claim():
                    item.start_thread()

    def _cancel(self) -> None:
        if self._task is None:
            self.end()  # Interrupted before the task was posted.
        else:
            self._task.cancel()


# The call in whose context the running code is, or None.
CURRENT_CALL: Final[ContextVar[Call[Any] | None]] = ContextVar("tiercache_sync_call", default=None)


async def run_plain(function: Callable[[], T]) -> T:
    """Call a plain function, and return its value: in the thread of the caller of ``Portal.run``, or in a new thread.

    ``function`` sees the context variables of the task. An exception arrives unchanged. Cancelling the task cannot stop
    ``function``: its value is dropped.

    Raises:
        RuntimeError: An exception such as KeyboardInterrupt ended ``function``. Its thread has that exception itself.
    """
    work = Work(function)
    call = CURRENT_CALL.get()
    if call is None or not call.offer(work):
        work.start_thread()
    return await work.result()


async def in_thread(function: Callable[[], T]) -> T:
    """Call a plain function in a new thread, and return its value. Otherwise as ``run_plain``."""
    work = Work(function)
    work.start_thread()
    return await work.result()
