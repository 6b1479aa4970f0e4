"""AwaitableLoader: an awaitable that the caller gave as a loader, such as the coroutine of ``fetch(key)``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any

from ...errors import UsageError

__all__ = ["AwaitableLoader"]


class AwaitableLoader:
    """A loader that awaits one awaitable, once, however often it is called.

    A load may call its loader a second time, to store the value with tags that another load lacked. The second call
    returns the value of the first.

    Unless a load has awaited it, a coroutine is closed when this object is dropped: on a hit the caller's code does not
    run, and Python must not warn that it was never awaited. The load and not the caller decides: a load may go on after
    its caller was cancelled.
    """

    __slots__ = ("_awaitable", "_is_awaited", "_value")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable: Awaitable[Any] | None = awaitable
        self._is_awaited = False
        self._value: Any = None

    async def __call__(self) -> Any:
        """Return the value of the awaitable. Called without arguments, as every loader that takes none."""
        if self._awaitable is not None:
            awaitable, self._awaitable = self._awaitable, None
            self._value = await awaitable
            self._is_awaited = True
        if not self._is_awaited:
            raise UsageError("loader must be a function where its value is needed again: the awaitable has ended")
        return self._value

    def give_back(self) -> None:
        """Leave the awaitable to the caller, as it is."""
        self._awaitable = None

    def __del__(self) -> None:
        awaitable = self._awaitable
        # Another load may have begun to await the same coroutine.
        if inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED:
            awaitable.close()
