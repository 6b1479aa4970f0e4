"""Flights: one load in progress per key, shared by everyone who asks for the key meanwhile.

The load runs in a task of its own, not in that of the caller who came first, so that cancelling any caller leaves the
others waiting. Waiters are counted; when the last one has gone the load is cancelled or, if its tier says so, finished.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Final

from .fences import Fence

__all__ = ["CURRENT_FLIGHT", "Flight", "Flights"]


class Flight:
    """One load in progress.

    Attributes:
        fence: The right to store its result. A flight is joined only while the fence holds.
        finish: Whether the load is finished when nobody waits for it any more.
        task: The task that loads; set by whoever starts it.
    """

    __slots__ = ("_done", "_waiters", "_waits_for", "fence", "finish", "task")

    def __init__(self, fence: Fence, *, finish: bool) -> None:
        self.fence = fence
        self.finish = finish
        self.task: asyncio.Task[None] | None = None
        self._done = False
        self._waiters: dict[asyncio.Future[Any], None] = {}
        self._waits_for: list[Flight] = []

    async def wait(self) -> Any:
        """Return what the flight brings, or raise what it raised.

        Cancelling the caller leaves the other waiters as they are; the last one to go abandons the flight.
        """
        # A future for each waiter and no shield around a shared one: a shield reports the exception of a load
        # whose waiter has left as unhandled.
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        parent = CURRENT_FLIGHT.get()
        if parent is not None:
            parent._waits_for.append(self)
        try:
            return await waiter
        finally:
            if parent is not None:
                parent._waits_for.remove(self)
            self._leave(waiter)

    def _leave(self, waiter: asyncio.Future[Any]) -> None:
        if self._done:
            return
        del self._waiters[waiter]
        if not self._waiters and not self.finish and self.task is not None:
            # Broken at once, so that nobody joins a load that is on its way out.
            self.fence.holds = False
            self.task.cancel()

    def resolve(self, value: Any) -> None:
        """Hand ``value`` to every waiter."""
        self._done = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Raise ``error``, the same object, in every waiter. Does nothing once the flight has ended."""
        if self._done:
            return
        self._done = True
        for waiter in self._waiters:
            if waiter.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                waiter.cancel()
            else:
                waiter.set_exception(error)

    def depends_on(self, other: Flight) -> bool:
        """Return whether this flight is ``other`` or waits, through any number of flights, for it."""
        if self is other:
            return True
        seen: set[int] = set()
        stack = list(self._waits_for)
        while stack:
            flight = stack.pop()
            if flight is other:
                return True
            if id(flight) not in seen:
                seen.add(id(flight))
                stack.extend(flight._waits_for)
        return False


# The flight whose loader is running in this context: how a loader that asks the cache again is recognised.
CURRENT_FLIGHT: Final[ContextVar[Flight | None]] = ContextVar("tiercache_current_flight", default=None)


class Flights:
    """The flights that may be joined, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}

    def joinable(self, key: str) -> Flight | None:
        """Return the flight to join for ``key``: one that nothing has overtaken."""
        flight = self._by_key.get(key)
        return flight if flight is not None and flight.fence.holds else None

    def add(self, flight: Flight) -> None:
        """Make ``flight`` the one to join, in place of an earlier one, which ends on its own."""
        self._by_key[flight.fence.key] = flight

    def remove(self, flight: Flight) -> None:
        """Forget ``flight``, by identity: a later one on the same key stays."""
        if self._by_key.get(flight.fence.key) is flight:
            del self._by_key[flight.fence.key]
