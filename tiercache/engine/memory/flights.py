"""Flights: one load in progress per key, shared by everyone who asks for the key meanwhile.

The load runs in a task of its own, not in that of the caller who came first, so that cancelling any caller leaves the
others waiting. Waiters are counted; when the last one has gone the load is cancelled or, if its tier says so, finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from .fences import Fence

__all__ = ["CURRENT_FLIGHT", "Dependant", "Flight", "Flights", "wait_all", "waiting_for"]


class Dependant:
    """What may wait for flights, and be waited for by them: a flight, or a call that answers several."""

    __slots__ = ("_waits_for",)

    def __init__(self) -> None:
        self._waits_for: list[Dependant] = []

    @property
    def leader(self) -> Dependant:
        """Who waits on its behalf."""
        return self

    def depends_on(self, other: Dependant) -> bool:
        """Return whether this shares the load of ``other`` or waits, through any number of others, for it."""
        seen: set[int] = set()
        stack: list[Dependant] = [self]
        while stack:
            one = stack.pop().leader
            if one is other.leader:
                return True
            if id(one) not in seen:
                seen.add(id(one))
                stack.extend(one._waits_for)
        return False


@contextmanager
def waiting_for(*others: Dependant) -> Iterator[None]:
    """Have it known, as long as the block runs, that the load that the caller is part of waits for ``others``."""
    parent = CURRENT_FLIGHT.get()
    if parent is None:
        yield
        return
    parent._waits_for.extend(others)
    try:
        yield
    finally:
        for other in others:
            parent._waits_for.remove(other)


class Flight(Dependant):
    """One load in progress. Flights whose values one call brings form up behind a leader, and share its task.

    Attributes:
        fence: The right to store its result. A flight is joined only while the fence holds.
        finishes: Whether the load is finished when nobody waits for it any more.
        task: The task that loads; set, on the leader, by whoever starts it.
    """

    __slots__ = ("_done", "_followers", "_leader", "_waiters", "fence", "finishes", "task")

    def __init__(self, fence: Fence, *, finishes: bool, leader: Flight | None = None) -> None:
        super().__init__()
        self.fence = fence
        self.finishes = finishes
        self.task: asyncio.Task[None] | None = None
        self._done = False
        self._waiters: dict[asyncio.Future[Any], None] = {}
        self._leader = leader
        self._followers: list[Flight] = []
        if leader is not None:
            leader._followers.append(self)

    @property
    def leader(self) -> Flight:
        """The flight whose task loads: this one, unless it follows another."""
        return self._leader or self

    def group(self) -> Iterator[Flight]:
        """Yield the flights that share the load, the leader first."""
        leader = self.leader
        yield leader
        yield from leader._followers

    async def wait(self) -> Any:
        """Return what the flight brings, or raise what it raised.

        Cancelling the caller leaves the other waiters as they are; the last one to go abandons the flight.
        """
        waiter = self.join()
        try:
            if CURRENT_FLIGHT.get() is None:
                return await waiter
            with waiting_for(self):
                return await waiter
        finally:
            self.leave(waiter)

    def join(self) -> asyncio.Future[Any]:
        """Return what is to be awaited in the same step, and then handed to ``leave``, however that ends.

        ``wait`` does so, and says besides that the caller waits: whoever may be a loader calls that.
        """
        # A future for each waiter and no shield around a shared one: a shield reports the exception of a load
        # whose waiter has left as unhandled.
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        return waiter

    def leave(self, waiter: asyncio.Future[Any]) -> None:
        """Have ``waiter`` waited for no more; the last one to go abandons the flight."""
        if self._done:
            return
        del self._waiters[waiter]
        if self._waiters or self.finishes:
            return
        task = self.leader.task
        if task is not None and not any(flight.is_awaited for flight in self.group()):
            for flight in self.group():
                # Broken at once, so that nobody joins a load that is on its way out.
                flight.fence.holds = False
            task.cancel()

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for what it brings."""
        return not self._done and bool(self._waiters)

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


async def wait_all(flights: Sequence[Flight]) -> list[Any]:
    """Return what each of ``flights`` brings, in order; raise as soon as one has failed.

    The caller counts as a waiter of all of them from the start. Cancelling it is as for ``Flight.wait``.
    """
    waiters = [flight.join() for flight in flights]
    try:
        if waiters:
            with waiting_for(*flights):
                await asyncio.wait(waiters, return_when=asyncio.FIRST_EXCEPTION)
        for waiter in waiters:
            if waiter.done():
                waiter.result()
        return [waiter.result() for waiter in waiters]
    finally:
        # Backwards: whether a load is still wanted is looked for from its first flight on, and found there at once.
        for flight, waiter in zip(reversed(flights), reversed(waiters), strict=True):
            flight.leave(waiter)
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # Seen: the caller gets one of them.


# The flight, or whoever else, whose loader is running in this context: how a loader that asks the cache again is
# recognised.
CURRENT_FLIGHT: Final[ContextVar[Dependant | None]] = ContextVar("tiercache_current_flight", default=None)


class Flights:
    """The flights that may be joined, by key.

    Args:
        believes: Tells whether what was current at a monotonic second is believed now.
    """

    def __init__(self, believes: Callable[[float], bool]) -> None:
        self._believes = believes
        self._by_key: dict[str, Flight] = {}

    def joinable(self, key: str) -> Flight | None:
        """Return the flight to join for ``key``: one that nothing has overtaken, as far as can be known."""
        flight = self._by_key.get(key)
        if flight is None or not flight.fence.holds or flight.fence.in_doubt:
            return None
        return flight if self._believes(flight.fence.began) else None

    def add(self, flight: Flight) -> None:
        """Make ``flight`` the one to join, in place of an earlier one, which ends on its own."""
        self._by_key[flight.fence.key] = flight

    def remove(self, flight: Flight) -> None:
        """Forget ``flight``, by identity: a later one on the same key stays."""
        if self._by_key.get(flight.fence.key) is flight:
            del self._by_key[flight.fence.key]
