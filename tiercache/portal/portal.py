"""The portal: a private event loop on a thread of its own, by which plain code uses async code.

::

    thread of a caller                                private thread
      run(make) ── copies its context ──────────────▶ a task awaits make()
      waits                                             a loader is a plain function
      calls the loader ◀──────────────────────────────  run_plain(loader)
      hands its value back ──────────────────────────▶  goes on
      returns, or raises ◀───────────────────────────── the task is done

A plain function never runs on the private thread, where it would block every caller. It runs in the thread of the
caller whose call needs it, because that thread waits anyway: thread-local variables are there, and loaders that call
``run`` again need no further threads. If the caller has left, by Ctrl-C for example, the function runs in a new thread.
A bounded pool of threads would not do: loaders that wait for the loaders of other calls could fill it.

The thread refers to its loop alone, and not to the ``Portal``, so that a dropped portal is collected.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

from ..errors import UsageError
from ..locks import ThreadLock
from .blocked_loops import blocking_own_loop
from .call import CLOSED, Call
from .loop_thread import LoopThread

__all__ = ["Portal", "PortalIterator"]

T = TypeVar("T")


class Portal:
    """A private event loop. Its thread starts at the first use, also in a forked process, and is a daemon."""

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._thread: LoopThread | None = None
        # Threads of the parent of a forked process. A collected loop would change which sockets the parent polls.
        self._inherited: list[LoopThread] = []
        self._is_closed = False

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``make()`` on the private loop, in a copy of the caller's context; return its result.

        Until then the thread of the caller calls the plain functions that ``run_plain`` gives it. An exception in this
        thread, such as KeyboardInterrupt, cancels the task.

        Raises:
            UsageError: The portal is closed; or the private thread itself calls, and would wait for itself.
        """
        with blocking_own_loop():
            return self._new_call(make).run(make)

    def run_within(self, seconds: float, make: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Do as ``run``, for at most ``seconds``; return whether the task has ended by then."""
        try:
            self._new_call(make).run(make, seconds)
        except TimeoutError:
            return False
        return True

    def _new_call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        thread = self._started()
        if thread.is_current:
            raise UsageError(
                "an async loader of cache.sync runs on its private event loop, and cannot call cache.sync itself: it "
                "would wait for itself. Make the loader a plain function"
            )
        return Call[T](thread)

    def post(self, function: Callable[[], object]) -> bool:
        """Call ``function`` on the private loop soon, without waiting; return False if there is no loop."""
        thread = self._own_thread
        return thread is not None and thread.post(function)

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> PortalIterator[T]:
        """Return an iterator over ``make()``, whose steps run on the private loop."""
        return PortalIterator(self, make)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The private loop, or None before the first use in this process and after the end."""
        thread = self._own_thread
        return None if thread is None else thread.loop

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on the private thread."""
        thread = self._own_thread
        return thread is not None and thread.is_current

    @property
    def is_alive(self) -> bool:
        """Whether the private thread runs in this process."""
        thread = self._own_thread
        return thread is not None and thread.is_alive

    def stop(self) -> None:
        """End the thread soon: its tasks are cancelled, and their callers get UsageError. Later calls do too."""
        self._is_closed = True
        thread = self._own_thread
        if thread is not None:
            thread.stop()

    def close(self) -> None:
        """Stop, and wait until the thread has ended. The private thread itself does not wait."""
        self.stop()
        thread = self._own_thread
        if thread is not None and not thread.is_current:
            thread.join()

    @property
    def _own_thread(self) -> LoopThread | None:
        thread = self._thread
        return thread if thread is not None and thread.pid == os.getpid() else None

    def _started(self) -> LoopThread:
        thread = self._own_thread
        if thread is None and not self._is_closed:
            with self._lock:
                thread = self._own_thread or self._start()
        if thread is None or self._is_closed:
            raise UsageError(CLOSED)
        return thread

    def _start(self) -> LoopThread:
        made = LoopThread()
        thread = self._own_thread
        if thread is not None:
            made.stop()  # A signal handler or a finalizer in this thread has started another during the step above.
            return thread
        if self._thread is not None:
            self._inherited.append(self._thread)
        self._thread = made
        # Either ``stop`` has seen this thread, or this step sees the stop.
        if self._is_closed:
            made.stop()
        return made


class PortalIterator(Generic[T]):
    """An async iterator, stepped through from plain code. ``close`` ends it early; garbage collection does too."""

    def __init__(self, portal: Portal, make: Callable[[], AsyncIterator[T]]) -> None:
        self._portal = portal
        self._make = make
        self._iterator: AsyncIterator[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        found = self._portal.run(self._step)
        if found is None:
            raise StopIteration
        return found[0]

    async def _step(self) -> tuple[T] | None:
        if self._iterator is None:
            self._iterator = self._make()
        try:
            return (await anext(self._iterator),)
        except StopAsyncIteration:
            return None

    def close(self) -> None:
        """End the iterator; do nothing if it has not begun, or the portal is closed."""
        if self._iterator is not None and self._portal.is_alive:
            with suppress(UsageError):
                self._portal.run(partial(_end, self._iterator))

    def __del__(self) -> None:
        iterator = getattr(self, "_iterator", None)
        if iterator is not None:
            self._portal.post(partial(_end_soon, iterator))


async def _end(iterator: AsyncIterator[Any]) -> None:
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


# The loop refers to its tasks weakly.
_ENDING: Final[set[asyncio.Task[None]]] = set()


def _end_soon(iterator: AsyncIterator[Any]) -> None:
    task = asyncio.get_running_loop().create_task(_end(iterator), name="tiercache-sync-end")
    _ENDING.add(task)
    task.add_done_callback(_ENDING.discard)
