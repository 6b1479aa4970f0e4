"""Warm-ups: many entries loaded ahead of their callers, some at a time.

The task of the caller reads the items, and starts one task for each item:

::

    items ── one, when a slot is free and the queue has room ──▶ task: get_or_load ──▶ loaded, cached or failed

So no more than ``concurrency`` items are read ahead of the loads. However the warm-up ends, no task is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from ..engine.engine import Engine
from ..errors import UsageError
from ..portal.call import CURRENT_CALL

__all__ = ["Items", "OnProgress", "WarmProgress", "WarmReport", "WarmUp", "check_shared"]

I = TypeVar("I")  # noqa: E741 - an item

Items: TypeAlias = Iterable[I] | AsyncIterable[I]


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """The counts of a warm-up after one more item.

    Attributes:
        done: Items that are loaded, cached or failed.
        total: Items in all, or None if the items have no length.
        loaded: Items whose loaders were called.
        cached: Items that the cache had.
        failed: Items that failed.
    """

    done: int
    total: int | None
    loaded: int
    cached: int
    failed: int


OnProgress: TypeAlias = Callable[[WarmProgress], object]


@dataclass(frozen=True, slots=True)
class WarmReport(Generic[I]):
    """The outcome of a warm-up.

    Attributes:
        loaded: Items whose loaders were called.
        cached: Items that the cache had.
        failed: Each item that failed, with its exception, in the order in which they failed.
        seconds: The duration, until Valkey has answered the writes.
    """

    loaded: int
    cached: int
    failed: list[tuple[I, BaseException]]
    seconds: float


class WarmUp(Generic[I]):
    """One warm-up.

    Args:
        get: Returns the result of ``get_or_load`` for an item.
        concurrency: Most items at the same time.
        on_progress: Called after each item.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self, engine: Engine, get: Callable[[I], Awaitable[Any]], *, concurrency: int, on_progress: OnProgress | None
    ) -> None:
        if type(concurrency) is not int or concurrency < 1:
            raise UsageError(f"concurrency must be a whole number above 0, not {concurrency!r}")
        if on_progress is not None and (not callable(on_progress) or asyncio.iscoroutinefunction(on_progress)):
            raise UsageError("on_progress must be a plain function")
        self._engine = engine
        self._get = get
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._total: int | None = None
        self._loaded = 0
        self._cached = 0
        self._failed: list[tuple[I, BaseException]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, items: Items[I]) -> WarmReport[I]:
        """Load the items that the cache lacks; return the counts and the failures.

        Raises:
            UsageError: ``items`` are no iterable, or the cache is closed.

        An exception of ``items`` itself ends the warm-up, and cancels the loads that it waits for.
        """
        self._total = _length_of(items)
        engine = self._engine
        runtime = await engine.open()
        began = engine.now()
        try:
            async with aclosing(_each(items)) as each:
                while True:
                    if len(self._running) >= self._concurrency:
                        await self._wait(asyncio.FIRST_COMPLETED)
                    # A full queue drops loaded values. Not ``wait_room``: the queue takes none while a store waits.
                    if runtime.l2.pipe.is_half_full:
                        await engine.flush_writes()
                    try:
                        item = await anext(each)
                    except StopAsyncIteration:
                        break
                    self._start(item)
            await self._wait(asyncio.ALL_COMPLETED)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        await engine.flush_writes()
        return WarmReport(self._loaded, self._cached, self._failed, max(0.0, engine.now() - began))

    def _start(self, item: I) -> None:
        context = copy_context()
        # On the sync face, the caller's thread would run plain loaders one after the other: each gets a new thread.
        context.run(CURRENT_CALL.set, None)
        loop = asyncio.get_running_loop()
        self._running.add(loop.create_task(self._load(item), name="tiercache-warm", context=context))

    async def _wait(self, until: str) -> None:
        if self._running:
            done, self._running = await asyncio.wait(self._running, return_when=until)
            for task in done:
                task.result()

    async def _load(self, item: I) -> None:
        try:
            result = await self._get(item)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed.append((item, error))  # The loader has cancelled itself.
        # The caller's loader may raise any exception, and so may the iteration over a wrong item. The report has it.
        except Exception as error:
            self._failed.append((item, error))
        else:
            is_loaded = result.source == "loader"
            self._loaded += is_loaded
            self._cached += not is_loaded
        self._show_progress()

    def _show_progress(self) -> None:
        if self._on_progress is None:
            return
        failed_count = len(self._failed)
        done = self._loaded + self._cached + failed_count
        try:
            self._on_progress(WarmProgress(done, self._total, self._loaded, self._cached, failed_count))
        # The caller's function may raise any exception; the warm-up goes on.
        except Exception as error:
            self._engine.log.warn_once("on_progress of a warm-up raised: %r", error)


def check_shared(loader: object) -> None:
    """Refuse a loader of every item that is no function. None: each item has its own.

    Raises:
        UsageError: ``loader`` is an awaitable, which has the value of one item, or no function.
    """
    if loader is not None and not callable(loader):
        raise UsageError(f"loader must be a function, which is called for each item, not {type(loader).__name__}")


async def _each(items: Items[I]) -> AsyncGenerator[I, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _length_of(items: object) -> int | None:
    """Return the number of items, or None if they have no length. Raises UsageError if they are no iterable."""
    if isinstance(items, str | bytes) or not isinstance(items, Iterable | AsyncIterable):
        raise UsageError(f"items must be an iterable of items, not {type(items).__name__}")
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None
