"""Guards around a change of source data: entries are removed before and after it, and none is stored in between.

1. Before: the entries are removed, so that no reader finds an older value once the change is made.
2. During: this process stores nothing. Its loads may see the source before the change or after it.
3. After: the entries are removed again, because a load of this process or of another process may have read the older
   source in between.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ...errors import PASSING, UsageError
from ...identity import KeepsIdentity
from ..engine import Engine
from ..entries.entry import Group

__all__ = ["Invalidating", "Target"]

P = ParamSpec("P")
R = TypeVar("R")


class Target(NamedTuple):
    """The entries that a change concerns.

    Attributes:
        barred: The keys and groups under which this process stores nothing during the change.
        invalidate: Removes the entries.
    """

    barred: tuple[str | Group, ...]
    invalidate: Callable[[], Awaitable[object]]


@asynccontextmanager
async def _around(target: Target, engines: Sequence[Engine]) -> AsyncIterator[None]:
    """Remove the entries before and after the block, and bar them while it runs."""
    runtimes = [await engine.open() for engine in engines]
    with ExitStack() as bars:
        for runtime in runtimes:
            bars.enter_context(runtime.fences.barred(target.barred))
        # While Valkey is unavailable, the change is made all the same: the removal is repeated until Valkey answers.
        with suppress(*PASSING):
            await target.invalidate()
        try:
            yield
        except BaseException:
            # The change may have been made although it raised. Its own error matters more than an unavailable Valkey.
            with suppress(*PASSING):
                await target.invalidate()
            raise
        await target.invalidate()


class Invalidating(KeepsIdentity):
    """A guard for a change of source data: an ``async with`` block, or a decorator of async functions.

    The entries are removed before the change and again after it, also if the change raises or is cancelled. During the
    change this process stores none of them.

    Raises:
        L2UnavailableError: The change was made, and Valkey did not acknowledge the removal after it. This process
            repeats the removal until Valkey does.
        L2CommandError: Valkey refused a removal. If it was the removal before the change, the change was not made.
    """

    def __init__(self, engines: Sequence[Engine], target_of: Callable[..., Target], *, takes_call: bool) -> None:
        self._engines = engines
        self._target_of = target_of
        self._takes_call = takes_call
        self._entered: list[AbstractAsyncContextManager[None]] = []

    async def __aenter__(self) -> None:
        block = self.block()
        await block.__aenter__()
        self._entered.append(block)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of several blocks that overlap any one may end: all have the same target.
        await self._entered.pop().__aexit__(kind, error, trace)

    def block(self) -> AbstractAsyncContextManager[None]:
        """Return one ``async with`` block of this guard.

        Raises:
            UsageError: The guard depends on the arguments of a call.
        """
        if self._takes_call:
            raise UsageError("invalidates with a function of a call's arguments works only as a decorator")
        return _around(self._target_of(), self._engines)

    def block_of_call(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[None]:
        """Return the block around one call with these arguments of a decorated function."""
        target = self._target_of(*args, **kwargs) if self._takes_call else self._target_of()
        return _around(target, self._engines)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Return ``function`` with this guard around each call.

        Raises:
            UsageError: ``function`` is not async.
        """
        if not inspect.iscoroutinefunction(function):
            raise UsageError(f"only async functions can be decorated, not {function!r}")

        @functools.wraps(function)
        async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self.block_of_call(*args, **kwargs):
                return await function(*args, **kwargs)

        return wrapped
