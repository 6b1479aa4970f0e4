"""Around a change of what entries are made from: they go before and after it, and nothing is stored in between.

Removed before, so that nobody finds the older value once the change is made; after, for whoever has loaded meanwhile,
in this process or another. In between this process stores nothing: what it loads may be from before the change or from
after it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import NamedTuple, ParamSpec, TypeVar

from ...errors import L2UnavailableError, UsageError
from ..engine import Engine
from ..entries.entry import Group

__all__ = ["Invalidating", "Target"]

P = ParamSpec("P")
R = TypeVar("R")


class Target(NamedTuple):
    """What a change concerns.

    Attributes:
        barred: The keys and groups under which nothing is stored meanwhile.
        invalidate: Removes the entries.
    """

    barred: tuple[str | Group, ...]
    invalidate: Callable[[], Awaitable[object]]


@asynccontextmanager
async def _around(target: Target, engine: Engine) -> AsyncIterator[None]:
    runtime = await engine.open()
    with runtime.fences.barred(target.barred):
        # Where Valkey does not answer it is repeated until it does, and no reason not to make the change.
        with suppress(L2UnavailableError):
            await target.invalidate()
        try:
            yield
        except BaseException:
            # It may have been made all the same. What it raised says more than that Valkey does not answer.
            with suppress(L2UnavailableError):
                await target.invalidate()
            raise
        await target.invalidate()


class Invalidating:
    """An ``async with`` block, or a decorator of ``async`` functions, around a change.

    Raises:
        L2UnavailableError: After a change that was made: that the entries have gone was not acknowledged. It is
            repeated until it is.
        L2CommandError: Valkey refuses to remove them: before the change, which is not made, or after it.
    """

    def __init__(self, engine: Engine, target_of: Callable[..., Target], *, takes_call: bool) -> None:
        self._engine = engine
        self._target_of = target_of
        self._takes_call = takes_call
        self._entered: list[AbstractAsyncContextManager[None]] = []

    async def __aenter__(self) -> None:
        if self._takes_call:
            raise UsageError("a function that says what is invalidated needs a call: use it as a decorator")
        around = _around(self._target_of(), self._engine)
        await around.__aenter__()
        self._entered.append(around)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of several that overlap any will do: they are all around the same.
        await self._entered.pop().__aexit__(kind, error, trace)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Return ``function``, which must be async, with this around each call."""
        if not inspect.iscoroutinefunction(function):
            raise UsageError(f"only async functions can be decorated, not {function!r}")

        @functools.wraps(function)
        async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            target = self._target_of(*args, **kwargs) if self._takes_call else self._target_of()
            async with _around(target, self._engine):
                return await function(*args, **kwargs)

        return wrapped
