"""Batch loaders: loads of single keys, collected for a moment and answered by one call of a function.

The contract of the function is that of DataLoader (https://github.com/graphql/dataloader), without its cache: it gets a
list of arguments, and returns a list of results of the same length and order. An exception at a position of the list is
raised for that argument alone.

::

    collecting   members join, the timer runs
        │ the window has passed, or the batch is full
    waiting      for a slot of max_loads; members still join until the batch is full
        │ slot
    called       closed, no member joins; the function runs
        │ result or error
    ended        each member has its result, or its exception

If the last member leaves before the end, the batch is closed and cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from functools import partial
from itertools import repeat
from typing import Any, Final, Generic, TypeAlias, TypeVar

from ...errors import UsageError
from ...identity import KeepsIdentity
from ...scopes import Components, KeyScopes
from ..engine import Engine
from ..memory.flights import CURRENT_FLIGHT, WaitNode, waiting_for
from ..memory.loaders import LoaderCalls
from ..runtime.runtime import Runtime

__all__ = ["BATCH_SIZE", "BATCH_WINDOW", "ArgumentBatchLoader", "BatchFunction", "BatchLoader", "KeywordBatchLoader"]

A = TypeVar("A")
T = TypeVar("T")
A_contra = TypeVar("A_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)

# Gets the arguments of several loads; returns a result or an exception for each.
BatchFunction: TypeAlias = Callable[[list[A]], Sequence[T | Exception] | Awaitable[Sequence[T | Exception]]]

# Seconds. DataLoader collects the calls of one turn of the event loop. Here the loads of keys that were requested in
# one turn begin in several turns, because a read of Valkey and a lease come first.
BATCH_WINDOW: Final = 0.005
BATCH_SIZE: Final = 100

_LONGEST_WINDOW: Final = 86_400


class BatchLoader(KeepsIdentity):
    """A loader that collects its calls, and answers them by one call of a function.

    The ``batch_loader`` of a tier returns a batch loader for the ``get_or_load`` of the same tier. A batch loader may
    be made before there is an event loop, and used on one loop after another.

    Args:
        calls: Calls the function, on the event loop or in a thread.
        fn: The function, async or plain.
        window: Seconds, 0 to a day, that the first call of a batch waits for others.
        max_size: Most calls in one batch.
        scopes: The components of the keys of the tier. The function runs in the context of one caller, so that the
            calls of one batch have the same components.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self,
        engine: Engine,
        calls: LoaderCalls,
        fn: BatchFunction[Any, Any],
        *,
        window: float,
        max_size: int,
        scopes: KeyScopes,
    ) -> None:
        if not callable(fn):
            raise UsageError(f"fn must be a function, async or plain, not {type(fn).__name__}")
        if not isinstance(window, int | float) or isinstance(window, bool) or not 0 <= window <= _LONGEST_WINDOW:
            raise UsageError(f"window must be a number of seconds from 0 to a day, not {window!r}")
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise UsageError(f"max_size must be a whole number above 0, not {max_size!r}")
        self._engine = engine
        self._fn = partial(calls.call, fn)
        self._window = window
        self._max_size = max_size
        self._scopes = scopes
        self._collecting: dict[Components, _Batch] = {}

    def check_engine(self, engine: Engine) -> None:
        """Refuse a loader that belongs to a sync face where ``engine`` belongs to an async face, or the reverse.

        Raises:
            UsageError: The loader would run on the event loop of the other face.
        """
        if engine.run_plain is not self._engine.run_plain:
            raise UsageError("a batch loader of cache.sync serves cache.sync alone, and another one does not")

    async def _load(self, argument: Any) -> Any:
        """Return the result for ``argument``, or raise its exception."""
        runtime = await self._engine.open()
        # No await from here until the argument is in the batch: the batch found here is still collecting.
        components = self._scopes.components()
        batch = self._collecting.get(components)
        if batch is None or batch.runtime is not runtime:
            on_closed = partial(self._on_closed, components)
            batch = _Batch(runtime, self._fn, self._window, self._max_size, on_closed)
            self._collecting[components] = batch
        # This load lends its slot: the call of the function takes a slot of its own, for all members of the batch.
        async with runtime.load_limits.lent():
            return await batch.load(argument)

    def _on_closed(self, components: Components, batch: _Batch) -> None:
        if self._collecting.get(components) is batch:
            del self._collecting[components]


class ArgumentBatchLoader(BatchLoader, Generic[A_contra, T_co]):
    """The batch loader of tiers that call a loader with one argument."""

    async def __call__(self, argument: A_contra, /) -> T_co:
        """Return the result for ``argument``, or raise its exception."""
        return await self._load(argument)  # type: ignore[no-any-return]


class KeywordBatchLoader(BatchLoader, Generic[T_co]):
    """The batch loader of tiers that call a loader with keyword arguments."""

    async def __call__(self, /, **arguments: Any) -> T_co:
        """Return the result for ``arguments``, or raise their exception."""
        return await self._load(arguments)  # type: ignore[no-any-return]


class _Batch(WaitNode):
    """One call of the function, from its first member on. A member is one load.

    In the wait-for graph, the flights of the members wait for the batch, and the batch waits for the flights that its
    function requests from the cache. ``depends_on`` therefore finds a function that requests a key whose flight waits
    for the batch.

    Args:
        on_closed: Called, once or more, when no further member may join.
    """

    __slots__ = ("_called", "_context", "_fn", "_max_size", "_on_closed", "_places", "_task", "_timer", "runtime")

    def __init__(
        self,
        runtime: Runtime,
        fn: Callable[[list[Any]], Awaitable[Any]],
        window: float,
        max_size: int,
        on_closed: Callable[[_Batch], None],
    ) -> None:
        super().__init__()
        self.runtime = runtime
        self._fn = fn
        self._max_size = max_size
        self._on_closed = on_closed
        # The members in order: the future of the outcome, and the argument.
        self._places: dict[asyncio.Future[Any], Any] = {}
        # The members whose arguments the function got.
        self._called: tuple[asyncio.Future[Any], ...] = ()
        self._context = copy_context()
        self._task: asyncio.Task[list[Any]] | None = None
        self._timer = runtime.loop.call_later(window, self._start)

    async def load(self, argument: Any) -> Any:
        """Join the batch with ``argument``; return its result, or raise its exception.

        Cancelling one member leaves the others waiting; with the last one gone, the call of the function is cancelled.
        """
        member = self.runtime.loop.create_future()
        self._places[member] = argument
        try:
            with waiting_for(self):
                if len(self._places) == self._max_size:
                    self._on_closed(self)
                    # Inside the block: an eager task calls the function here, and the function may request the key of
                    # this member.
                    self._start()
                outcome = await member
        except asyncio.CancelledError:
            await self._leave(member)
            raise
        # Raised here, not set as the exception of the future: a future refuses StopIteration.
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _leave(self, member: asyncio.Future[Any]) -> None:
        self._places.pop(member, None)
        if self._places:
            return
        # No await before the batch is closed: no member may join a batch that is about to be cancelled.
        self._on_closed(self)
        self._timer.cancel()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _start(self) -> None:
        self._timer.cancel()
        if self._task is None:
            # In the context of the first member, not of the member that has filled the batch.
            self._task = self.runtime.loop.create_task(self._run(), name="tiercache-batch", context=self._context)
            self._task.add_done_callback(self._ended)

    async def _run(self) -> list[Any]:
        CURRENT_FLIGHT.set(self)
        return await self.runtime.load_limits.run(self._call, apart=True)

    async def _call(self) -> list[Any]:
        # Closed only here: while the batch waits for a slot, it continues to collect.
        self._on_closed(self)
        self._called = tuple(self._places)
        results = await self._fn(list(self._places.values()))
        return _checked(results, len(self._called))

    def _ended(self, task: asyncio.Task[list[Any]]) -> None:
        self._on_closed(self)
        outcomes: Iterable[Any]
        if task.cancelled():
            outcomes = repeat(asyncio.CancelledError())
        else:
            error = task.exception()
            outcomes = task.result() if error is None else repeat(error)
        for member, outcome in zip(self._called or self._places, outcomes, strict=False):
            if not member.done():
                member.set_result(outcome)


def _checked(results: object, count: int) -> list[Any]:
    """Return the results of a batch function as a list.

    Raises:
        UsageError: ``results`` are not a sequence of ``count`` results.
    """
    if not isinstance(results, Sequence) or isinstance(results, str | bytes | bytearray):
        raise UsageError(f"the batch loader's fn must return a list of results, not {type(results).__name__}")
    if len(results) != count:
        raise UsageError(f"the batch loader's fn returned {len(results)} results for {count} calls")
    return list(results)
