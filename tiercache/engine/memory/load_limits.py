"""Load limits: run loads within ``load_timeout`` and ``max_loads``.

Each outermost load holds one slot of ``max_loads`` while it runs. Two situations could otherwise block forever:

1. A loader calls the cache again. The inner load takes no slot of its own: if every slot belonged to an outer load that
   waits for an inner load, no slot would ever become free.
2. A load waits for another load, of this or another process. The waiting load lends its slot: the other load may itself
   wait for a slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

from ...options import ResilienceOptions
from ..entries.counters import TierCounters

__all__ = ["LoadLimits"]

T = TypeVar("T")


class _Load:
    """One load. Of nested loads the outermost holds the slot.

    Attributes:
        limits: The limits whose slot the load holds. A nested load may run under the limits of the other face.
        outermost: The load that holds the slot for this load: the load itself, unless it is nested.
        holds: Whether the load holds its slot now.
        lent: Count of waits for which the load lends its slot now.
        is_over: Whether ``run`` has returned.
    """

    __slots__ = ("holds", "is_over", "lent", "limits", "outermost")

    def __init__(self, limits: LoadLimits, outermost: _Load | None) -> None:
        self.limits = limits
        self.outermost = outermost or self
        self.holds = False
        self.lent = 0
        self.is_over = False

    def wants_slot(self) -> bool:
        """Return whether the load must hold its slot: while it runs and waits for no other load."""
        return not self.is_over and not self.lent


# The load that the running code is part of, or None. The tasks that a loader starts inherit the value.
_CURRENT_LOAD: Final[ContextVar[_Load | None]] = ContextVar("tiercache_current_load", default=None)


class LoadLimits:
    """The limits that all loads of one runtime share."""

    def __init__(self, options: ResilienceOptions) -> None:
        self._timeout = options.load_timeout
        self._slots = None if options.max_loads is None else asyncio.Semaphore(options.max_loads)

    async def run(self, load: Callable[[], Awaitable[T]], *, apart: bool = False) -> T:
        """Run ``load`` within the limits and return its result.

        Args:
            apart: Whether the load takes a slot of its own even if the caller is part of another load.

        A nested load takes no slot of its own: the outer load holds a slot until the nested load ends, and if outer
        loads held all slots, no slot would ever become free.

        Raises:
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``. The wait for a slot does not
                count.
        """
        outer = None if apart else _CURRENT_LOAD.get()
        current = _Load(self, None if outer is None or outer.is_over else outer.outermost)
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
        """Call ``load`` within the limits, count the call, and return the result.

        Args:
            is_batched: Whether ``load`` is a batch loader, which applies the limits itself.
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
        """Lend the slot of the caller's load while the caller waits for another load; without a load do nothing.

        The other load may itself wait for a slot. If the caller's load kept its slot, neither load could go on.

        A load may lend its slot for several waits at once. The load gives its slot back at the first wait and takes a
        slot again after the last one.
        """
        current = _CURRENT_LOAD.get()
        holder = None if current is None or current.is_over else current.outermost
        if holder is None or self._slots is None or holder.limits is not self:
            yield
            return
        holder.lent += 1
        self._give_back(holder)
        is_cancelled = False
        try:
            yield
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            holder.lent -= 1
            # A cancelled load ends at once: it takes a free slot, and waits for none. A loader that catches the
            # cancellation, as ``asyncio.timeout`` does, then goes on without a slot.
            if holder.wants_slot() and not (is_cancelled and self._slots.locked()):
                await self._slots.acquire()
                # Two races while this waited for the slot: 1. the load ended, or lent its slot for another wait;
                # 2. another wait of the same load has ended too, and has taken a slot for it.
                if holder.holds or not holder.wants_slot():
                    self._slots.release()
                else:
                    holder.holds = True

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
