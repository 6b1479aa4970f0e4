"""Work: one plain function that a task on the private loop lets another thread call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from threading import Thread
from typing import Generic, TypeVar

from .loop_thread import THREAD_NAME

__all__ = ["Work"]

T = TypeVar("T")


class Work(Generic[T]):
    """One plain function to call outside of the loop, in the context of the task that needs it."""

    __slots__ = ("_context", "_done", "_function", "_loop", "_unclaimed")

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._unclaimed = [True]
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        # Its result is the value, or the error: a future refuses some errors.
        self._done: asyncio.Future[tuple[T | None, BaseException | None]] = self._loop.create_future()

    async def result(self) -> T:
        value, error = await self._done
        if error is not None:
            try:
                raise error
            finally:
                del error  # The error refers to this frame.
        return value  # type: ignore[return-value]

    def claim(self) -> bool:
        """Return whether this thread may call the function: one thread alone may. One step of the interpreter."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def call(self) -> None:
        """Call the function in this thread; raise only exceptions that end a thread, such as KeyboardInterrupt."""
        if self._done.cancelled():
            return
        try:
            value = self._context.run(self._function)
        except Exception as error:
            self._hand_back(None, error)
        except BaseException as error:
            self._hand_back(None, RuntimeError(f"the loader was ended by {type(error).__name__}"))
            raise
        else:
            self._hand_back(value, None)

    def start_thread(self) -> None:
        """Call the function in a new thread. Where no thread can be started, the error of that is its outcome."""
        thread = Thread(target=self._call_alone, name=f"{THREAD_NAME}-loader", daemon=True)
        try:
            Context().run(thread.start)
        except RuntimeError as error:
            self._hand_back(None, error)

    def _call_alone(self) -> None:
        with suppress(BaseException):  # The waiters have the error.
            self.call()

    def _hand_back(self, value: T | None, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # The loop is closed: no task waits any more.
            self._loop.call_soon_threadsafe(self._set, value, error)

    def _set(self, value: T | None, error: BaseException | None) -> None:
        if not self._done.done():
            self._done.set_result((value, error))
