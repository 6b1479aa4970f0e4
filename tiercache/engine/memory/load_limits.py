"""Calling the caller's loader: with or without its argument, async or plain, in time, and not too many at once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Final, TypeGuard, TypeVar

from ...errors import UsageError
from ...options import ResilienceOptions
from ..entries.counters import TierCounters

__all__ = ["LoadLimits", "check_loader", "takes_any", "takes_argument"]

T = TypeVar("T")

# Flags of a code object that takes ``*args`` or ``**kwargs``.
_VARIADIC: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_loader(loader: object) -> None:
    """Refuse what cannot be called.

    Raises:
        UsageError: An awaitable is refused too: it could be awaited once only, and not at all on a hit.
    """
    if not callable(loader):
        raise UsageError(f"loader must be a function, async or plain, not {type(loader).__name__}")


def takes_argument(loader: Callable[..., Any]) -> bool:
    """Return whether ``loader`` has a required positional parameter.

    Raises:
        UsageError: It requires more than one argument, or a keyword: it cannot be called.
    """
    if _is_plain_function(loader):
        code = loader.__code__
        required_count = code.co_argcount - len(loader.__defaults__ or ())
        if required_count <= 1 and not code.co_kwonlyargcount:
            return required_count == 1
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False  # Some functions written in C have no signature to look at.
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or any(p.kind not in _POSITIONAL for p in required):
        names = ", ".join(p.name for p in required)
        raise UsageError(f"loader must take no argument or one, not the required ones: {names}")
    return bool(required)


def takes_any(loader: Callable[..., Any]) -> bool:
    """Return whether ``loader`` takes any argument at all."""
    if _is_plain_function(loader):
        code = loader.__code__
        return bool(code.co_argcount or code.co_kwonlyargcount or code.co_flags & _VARIADIC)
    try:
        return bool(inspect.signature(loader).parameters)
    except (TypeError, ValueError):
        return True


def _is_plain_function(loader: object) -> TypeGuard[FunctionType]:
    """Return whether the code object of ``loader`` says all of its parameters: 20 times as fast as ``signature``."""
    return type(loader) is FunctionType and not loader.__dict__


class _Load:
    """One load. Of loads within each other the outermost holds the slot.

    Attributes:
        outermost: The load that holds the slot for this one.
        holds: Whether it holds its slot at the moment.
        lent: How many waits it lends its slot for.
        is_over: Whether ``run`` has returned.
    """

    __slots__ = ("holds", "is_over", "lent", "outermost")

    def __init__(self, outermost: _Load | None) -> None:
        self.outermost = outermost or self
        self.holds = False
        self.lent = 0
        self.is_over = False

    def wants_slot(self) -> bool:
        """Return whether it is to hold its slot: while it runs, and waits for no other load."""
        return not self.is_over and not self.lent


# The load that the running code is part of, if it is part of one: tasks that a loader starts inherit it.
_CURRENT_LOAD: Final[ContextVar[_Load | None]] = ContextVar("tiercache_current_load", default=None)


class LoadLimits:
    """The limits that all loads of one runtime share."""

    def __init__(self, options: ResilienceOptions) -> None:
        self._timeout = options.load_timeout
        self._slots = None if options.max_loads is None else asyncio.Semaphore(options.max_loads)

    async def run(self, load: Callable[[], Awaitable[T]], *, apart: bool = False) -> T:
        """Return what ``load`` returns.

        Args:
            apart: Whether it is part of no other load, whatever the caller is part of.

        A load that is part of another one takes no slot of its own: the other one holds a slot until this ends, and
        with every slot so held none would ever be free.

        Raises:
            TimeoutError: It took longer than ``ResilienceOptions.load_timeout``. Time spent waiting for a slot
                does not count.
        """
        outer = None if apart else _CURRENT_LOAD.get()
        current = _Load(None if outer is None or outer.is_over else outer.outermost)
        if self._slots is not None and current.outermost is current:
            await self._slots.acquire()
            current.holds = True
        token = _CURRENT_LOAD.set(current)
        try:
            return await self._in_time(load)
        finally:
            current.is_over = True
            _CURRENT_LOAD.reset(token)
            self._give_back(current)

    async def call(self, load: Callable[[], Awaitable[T]], counters: TierCounters, *, is_batched: bool = False) -> T:
        """Return the result of ``load``, called within the limits, and count the call.

        Args:
            is_batched: Whether ``load`` is a batch loader, which observes the limits itself.
        """
        counters.loads += 1
        try:
            return await (load() if is_batched else self.run(load))
        except Exception:
            counters.load_errors += 1
            raise

    @property
    def is_lending(self) -> bool:
        """Whether the caller is part of a load with a slot to lend."""
        return self._slots is not None and _CURRENT_LOAD.get() is not None

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Lend the slot of the load that the caller is part of, if it is, while the caller waits for another load.

        The other one may be waiting for a slot itself: if both kept to what they have, none would ever go on.
        """
        current = _CURRENT_LOAD.get()
        holder = None if current is None or current.is_over else current.outermost
        if holder is None or self._slots is None:
            yield
            return
        holder.lent += 1
        self._give_back(holder)
        try:
            yield
        finally:
            holder.lent -= 1
            if holder.wants_slot():
                await self._slots.acquire()
                holder.holds = True
                if not holder.wants_slot():
                    self._give_back(holder)

    def _give_back(self, load: _Load) -> None:
        if load.holds and self._slots is not None:
            load.holds = False
            self._slots.release()

    async def _in_time(self, load: Callable[[], Awaitable[T]]) -> T:
        if self._timeout is None:
            return await load()
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                return await load()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimeoutError(f"the load took longer than load_timeout={self._timeout} s") from error
