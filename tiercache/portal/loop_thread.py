"""The private thread of a portal: runs an event loop until it is stopped, then ends its tasks and its calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from threading import Thread, current_thread
from typing import Final, Protocol

__all__ = ["THREAD_NAME", "LoopThread"]

THREAD_NAME: Final = "tiercache-sync"
# Seconds in which cancelled tasks must end when the thread ends, and in which the thread must end after that.
_END_SECONDS: Final = 1.0
_JOIN_SECONDS: Final = 5.0


class Ending(Protocol):
    """A call that waits for an outcome."""

    def end(self) -> None:
        """End the call without an outcome. Any thread may call this."""
        ...


class LoopThread:
    """A thread and its loop, of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # In empty contexts, because the caller's context would live as long as the loop and the thread.
        self.loop = Context().run(asyncio.new_event_loop)
        # The calls that wait for an outcome.
        self.calls: set[Ending] = set()
        self._state = _State()
        self._thread = Thread(target=_live, args=(self.loop, self.calls, self._state), name=THREAD_NAME, daemon=True)
        Context().run(self._thread.start)

    @property
    def is_current(self) -> bool:
        return current_thread() is self._thread

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        return self._state.is_stopping

    def post(self, function: Callable[..., object], *args: object, context: Context | None = None) -> bool:
        try:
            self.loop.call_soon_threadsafe(function, *args, context=context)
        except RuntimeError:
            return False  # The loop is closed.
        return True

    def stop(self) -> None:
        self._state.is_stopping = True
        self.post(self._state.stop, self.loop)

    def join(self) -> None:
        self._thread.join(_JOIN_SECONDS)


class _State:
    """Whether a thread must end. Apart from ``LoopThread``, to which the thread does not refer."""

    __slots__ = ("is_stopped", "is_stopping")

    def __init__(self) -> None:
        self.is_stopping = False
        self.is_stopped = False

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop ``loop``, once: a second stop would end the steps with which the thread ends its tasks."""
        if not self.is_stopped:
            self.is_stopped = True
            loop.stop()


def _live(loop: asyncio.AbstractEventLoop, calls: set[Ending], state: _State) -> None:
    """Run ``loop`` until it is stopped, then end its tasks and its calls: the body of the thread."""
    asyncio.set_event_loop(loop)
    try:
        while not state.is_stopped:
            # A task that raises one of these ends ``run_forever``. Its caller gets it; the other callers go on.
            with suppress(KeyboardInterrupt, SystemExit):
                loop.run_forever()
        _end_tasks(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        # A call that came after the last step of the loop.
        for call in list(calls):
            call.end()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    # Suppressed: these tasks have no caller any more, and the thread must end in any case.
    with suppress(Exception, KeyboardInterrupt, SystemExit):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_END_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        # At the exit of the interpreter no thread can be started to do this.
        loop.run_until_complete(loop.shutdown_default_executor())
