"""The guard around a change of source data, for plain code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import ParamSpec, TypeVar

from ..engine.operations.around_change import Invalidating
from ..errors import UsageError
from ..identity import KeepsIdentity
from .face import SyncFace
from .scoped import ScopedFace

__all__ = ["SyncInvalidating"]

P = ParamSpec("P")
R = TypeVar("R")


class SyncInvalidating(KeepsIdentity):
    """A guard for a change of source data: a ``with`` block, or a decorator of plain functions.

    The promise and the errors are those of ``Invalidating``. The change runs in the caller's thread.
    """

    def __init__(self, face: SyncFace, guard: Invalidating, scoped: ScopedFace | None = None) -> None:
        self._face = face
        # Begins the blocks. A block ends without a look at the scope.
        self._beginning = scoped or face
        self._guard = guard
        self._entered: list[_Block] = []

    def __enter__(self) -> None:
        block = _Block(self._face, self._beginning.call(self._guard.block))
        block.__enter__()
        self._entered.append(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of several blocks that overlap, in any threads, any one may end: all have the same target.
        self._entered.pop().__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function`` with this guard around each call.

        Raises:
            UsageError: ``function`` is async, or no function.
        """
        if inspect.iscoroutinefunction(function) or not callable(function):
            raise UsageError(f"only plain functions can be decorated, not {function!r}; cache.invalidates takes async")

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with _Block(self._face, self._beginning.call(self._guard.block_of_call, *args, **kwargs)):
                return function(*args, **kwargs)

        return wrapped


class _Block:
    """One block of a guard."""

    def __init__(self, face: SyncFace, block: AbstractAsyncContextManager[None]) -> None:
        self._face = face
        self._block = block
        self._is_entered = False

    def __enter__(self) -> None:
        try:
            self._face.run(self._enter)
        except BaseException as error:
            # Interrupted when the block had begun: without its end nothing would be stored in it any more.
            if self._is_entered:
                with suppress(Exception):  # The interrupt goes on to the caller in any case.
                    self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The error of the block goes on to the caller by itself, also while the cache is closed.
        self._face.run(partial(self._exit, kind, error, trace))

    async def _enter(self) -> None:
        await self._block.__aenter__()
        self._is_entered = True

    async def _exit(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block.__aexit__(kind, error, trace)
