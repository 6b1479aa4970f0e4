"""Batch loaders: loads of single keys, collected for a moment and answered by one call.

The manner is that of DataLoader (https://github.com/graphql/dataloader), without its cache: a list of arguments in,
a list of results of the same length and order out, an exception in a place for that place alone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from itertools import repeat
from typing import Any, Final, TypeAlias, TypeVar

from ...errors import UsageError
from ..engine import Engine
from ..memory.flights import CURRENT_FLIGHT, WaitNode, waiting_for
from ..runtime.runtime import Runtime

__all__ = ["BATCH_SIZE", "BATCH_WINDOW", "ArgumentBatchLoader", "BatchFunction", "BatchLoader", "KeywordBatchLoader"]

A = TypeVar("A")

# Called with the arguments of several loads.
BatchFunction: TypeAlias = Callable[[list[A]], Sequence[Any] | Awaitable[Sequence[Any]]]

# Not the current turn of the event loop, as DataLoader has it: keys that were asked for in one turn come to their
# loader in several, because a read of Valkey and a lease lie in between.
BATCH_WINDOW: Final = 0.005
BATCH_SIZE: Final = 100

_LONGEST_WINDOW: Final = 86_400


class BatchLoader:
    """A loader that collects the calls made of it, and answers them by one call of a function.

    What a tier's ``batch_loader`` returns, to be given to its ``get_or_load``. It may be made before there is an event
    loop, and used on one after the other.
    """

    def __init__(self, engine: Engine, fn: BatchFunction[Any], *, window: float, max_size: int) -> None:
        if not callable(fn):
            raise UsageError(f"fn must be a function, async or plain, not {type(fn).__name__}")
        if not isinstance(window, int | float) or isinstance(window, bool) or not 0 <= window <= _LONGEST_WINDOW:
            raise UsageError(f"window must be a number of seconds from 0 to a day, not {window!r}")
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise UsageError(f"max_size must be a whole number above 0, not {max_size!r}")
        self._engine = engine
        self._fn = fn
        self._window = window
        self._max_size = max_size
        self._collecting: _Batch | None = None

    async def _bring(self, argument: Any) -> Any:
        runtime = await self._engine.open()
        # No await from here to the place in the batch: one that is collecting may be joined.
        batch = self._collecting
        if batch is None or batch.runtime is not runtime:
            batch = self._collecting = _Batch(runtime, self._fn, self._window, self._max_size, self._closed)
        # The call takes a slot of its own, for all of its members.
        async with runtime.load_limits.lent():
            return await batch.bring(argument)

    def _closed(self, batch: _Batch) -> None:
        if self._collecting is batch:
            self._collecting = None


class ArgumentBatchLoader(BatchLoader):
    """A batch loader for tiers that call their loaders with one argument."""

    async def __call__(self, argument: Any, /) -> Any:
        """Return the result for ``argument``, or raise its exception."""
        return await self._bring(argument)


class KeywordBatchLoader(BatchLoader):
    """A batch loader for tiers that call their loaders with keywords."""

    async def __call__(self, /, **arguments: Any) -> Any:
        """Return the result for ``arguments``, or raise their exception."""
        return await self._bring(arguments)


class _Batch(WaitNode):
    """One call, from its first member on. The flights of its members wait for it, and it waits for what the call asks
    the cache for: so a call that asks for what waits for it is recognised as ``Flight.depends_on`` does.

    Args:
        on_closed: Called, once or more, when no member may join any longer.
    """

    __slots__ = ("_called", "_context", "_fn", "_max_size", "_on_closed", "_places", "_task", "_timer", "runtime")

    def __init__(
        self,
        runtime: Runtime,
        fn: BatchFunction[Any],
        window: float,
        max_size: int,
        on_closed: Callable[[_Batch], None],
    ) -> None:
        super().__init__()
        self.runtime = runtime
        self._fn = fn
        self._max_size = max_size
        self._on_closed = on_closed
        self._places: dict[asyncio.Future[Any], Any] = {}
        self._called: tuple[asyncio.Future[Any], ...] = ()
        self._context = copy_context()
        self._task: asyncio.Task[list[Any]] | None = None
        self._timer = runtime.loop.call_later(window, self._start)

    async def bring(self, argument: Any) -> Any:
        """Take the next place; return the result for it, or raise its exception."""
        place = self.runtime.loop.create_future()
        self._places[place] = argument
        if len(self._places) == self._max_size:
            self._on_closed(self)
            self._start()
        try:
            with waiting_for(self):
                outcome = await place
        except asyncio.CancelledError:
            await self._leave(place)
            raise
        # Not raised by the future, which refuses StopIteration.
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _leave(self, place: asyncio.Future[Any]) -> None:
        self._places.pop(place, None)
        if self._places:
            return
        # No await before it is closed: nobody joins a batch that is on its way out.
        self._on_closed(self)
        self._timer.cancel()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _start(self) -> None:
        self._timer.cancel()
        if self._task is None:
            # In the context of the first member, whichever one has filled the batch.
            self._task = self.runtime.loop.create_task(self._run(), name="tiercache-batch", context=self._context)
            self._task.add_done_callback(self._ended)

    async def _run(self) -> list[Any]:
        CURRENT_FLIGHT.set(self)
        return await self.runtime.load_limits.run(self._call, apart=True)

    async def _call(self) -> list[Any]:
        # Only now: while it waits for a slot, it goes on collecting.
        self._on_closed(self)
        self._called = tuple(self._places)
        loaded: Any = self._fn(list(self._places.values()))
        if inspect.isawaitable(loaded):
            loaded = await loaded
        return _in_order(loaded, len(self._called))

    def _ended(self, task: asyncio.Task[list[Any]]) -> None:
        self._on_closed(self)
        outcomes: Iterable[Any]
        if task.cancelled():
            outcomes = repeat(asyncio.CancelledError())
        else:
            error = task.exception()
            outcomes = task.result() if error is None else repeat(error)
        for place, outcome in zip(self._called or self._places, outcomes, strict=False):
            if not place.done():
                place.set_result(outcome)


def _in_order(loaded: object, count: int) -> list[Any]:
    """Return what a batch function returned, as a list with a place for each of its arguments."""
    if not isinstance(loaded, Sequence) or isinstance(loaded, str | bytes | bytearray):
        raise UsageError(f"the batch loader's fn must return a list of results, not {type(loaded).__name__}")
    if len(loaded) != count:
        raise UsageError(f"the batch loader's fn returned {len(loaded)} results for {count} calls")
    return list(loaded)
