"""Calls: one thread waits for one task on the private loop, and calls the plain functions that the task needs."""

from __future__ import annotations

import asyncio
import os
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

# The text of the error of a call on a closed portal.
CLOSED: Final = "the cache is closed"


class Call(Generic[T]):
    """One ``Portal.run``: the task on the private loop, and the thread that waits for it."""

    __slots__ = ("_is_waiting", "_items", "_task", "_thread")

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        # Plain functions to call, then the done task, or None if there is no outcome.
        self._items: SimpleQueue[Work[Any] | asyncio.Task[T] | None] = SimpleQueue()
        self._is_waiting = True
        self._task: asyncio.Task[T] | None = None

    def begin(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        context = copy_context()
        context.run(CURRENT_CALL.set, self)
        self._thread.calls.add(self)
        if not self._thread.post(self._start, make, context=context):
            self.end()

    def _start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        if self._is_waiting:
            self._task = self._thread.loop.create_task(_awaited(make), name="tiercache-sync-call")
            self._task.add_done_callback(self._items.put)

    def end(self) -> None:
        """End the call without an outcome. Any thread may call this."""
        self._items.put(None)

    def offer(self, work: Work[Any]) -> bool:
        """Let the waiting thread call ``work``; return False if no thread waits any more."""
        # In this order, and without a lock, which a fork could leave locked: a caller that has left since takes the
        # work from the queue, or else this step does.
        self._items.put(work)
        return self._is_waiting or not work.claim()

    def wait(self, seconds: float | None = None) -> T:
        """Return the outcome, and call the offered functions until then.

        Args:
            seconds: Most seconds to wait; then TimeoutError. None: no limit.
        """
        try:
            while isinstance(item := self._items.get(timeout=seconds), Work):
                if item.claim():
                    item.call()
                if self._thread.pid != os.getpid():
                    raise RuntimeError("the process was forked inside a loader: this copy of the call has no outcome")
        except Empty:
            self._leave()
            raise TimeoutError from None
        except BaseException:
            self._leave()
            raise
        self._stop_waiting()
        if item is None or (item.cancelled() and self._thread.is_stopping):
            raise UsageError(CLOSED)
        return item.result()

    def _leave(self) -> None:
        self._stop_waiting()
        self._thread.post(self._cancel)

    def _stop_waiting(self) -> None:
        """Let new threads call the functions that are left."""
        self._thread.calls.discard(self)
        self._is_waiting = False
        with suppress(Empty):
            while True:
                item = self._items.get_nowait()
                if isinstance(item, Work) and item.claim():
                    item.start_thread()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _awaited(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await make()


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
