"""Flights: one load in progress per key, which all callers of the key share.

The load runs in a task of its own, not in the task of the first caller, so that cancelling any caller leaves the others
waiting. The states of a flight:

::

    joinable ──1──▶ overtaken ────4────▶ finished
     │ │  ▲           │   │                ▲ ▲
     │ │  └─────2─────┘   3                │ │
     │ │                  ▼                │ │
     │ └────3───────▶ abandoned ─────4─────┘ │
     └────────────────4──────────────────────┘

1. A change breaks the fence, a gap puts the fence in doubt, or this process no longer trusts the second at which the
   fence was opened; if the load is unreported, that is max_staleness later. Later callers start a new flight. The
   waiters of the older flight still get its value.
2. The fence is renewed, because the load has not called its loader yet; or trust returns with a later PONG.
3. The last waiter leaves, and the tier does not finish abandoned loads. The fences break in the same step, so that no
   caller joins a load that is about to end, and the task is cancelled.
4. ``resolve`` or ``fail`` hands the outcome to every waiter. In the same step the runtime removes the flight, so that
   the next caller hits L1 or starts a new load.

A flight that the engine does not add to ``Flights`` (a load with ``mode="store_only"``) is never joinable.

The value of some loads arrives in parts. Such a load calls ``show`` with an ongoing value, once that has begun: every
waiter gets a place in it at once, also the waiters that join later, and stays a waiter until it leaves. The flight is
abandoned as in 3 while the ongoing value is not complete. While the ongoing value is not whole, the flight is not
joinable.

A loader may call the cache again, and could then wait for itself. The *wait-for graph* prevents that. Its nodes are
flights, and calls of batch loaders. Its edges lead from the node whose load is running in the current context
(``CURRENT_FLIGHT``) to the nodes that this load waits for:

::

    flight A ──── the loader of A calls get_or_load(b) ───▶ flight B
        ▲                                                      │
        └──── the loader of B calls get_or_load(a) ────────────┘     this edge would close a cycle: a deadlock

Before a caller waits for a flight, ``depends_on`` follows the edges from that flight. There are three cases:

1. The caller is no loader: the caller cannot be in a cycle, and joins.
2. The flight does not depend on the caller's node: the caller joins, and ``waiting_for`` adds the edge.
3. The flight depends on the caller's node: the caller does not join. The caller loads privately, for itself alone,
   and the cache stores that value nowhere.

The flights of one ``get_or_load_many`` share one task: they count as one node, the node of their leader. A load that
waits for the lease of another load of this process adds an edge to that load, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from ..entries.entry import Group
from .fences import Fence

__all__ = ["CURRENT_FLIGHT", "Flight", "Flights", "Ongoing", "OngoingValue", "WaitNode", "wait_all", "waiting_for"]


class WaitNode:
    """A node of the wait-for graph: a flight, or a call of a batch function that answers several flights."""

    __slots__ = ("_waits_for",)

    def __init__(self) -> None:
        self._waits_for: list[WaitNode] = []

    @property
    def leader(self) -> WaitNode:
        """The node that stands for this node in the wait-for graph."""
        return self

    def depends_on(self, other: WaitNode) -> bool:
        """Return whether this node shares the load of ``other``, or waits for ``other`` directly or through others."""
        seen: set[int] = set()
        stack: list[WaitNode] = [self]
        while stack:
            node = stack.pop().leader
            if node is other.leader:
                return True
            if id(node) not in seen:
                seen.add(id(node))
                stack.extend(node._waits_for)
        return False


@contextmanager
def waiting_for(*others: WaitNode) -> Iterator[None]:
    """While the block runs, record in the wait-for graph that the caller's load waits for ``others``.

    Outside of a load there is no node to record, and the block runs as it is.
    """
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


class OngoingValue(Protocol):
    """A value whose parts arrive while callers have it already (``streams.recording``)."""

    @property
    def is_whole(self) -> bool:
        """Whether a caller that joins now gets every part."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the load has all that it came for, so that it must not be cancelled any more."""
        ...

    def follow(self) -> Place:
        """Return the place of one more waiter, which gets every part."""
        ...


class Place(Protocol):
    """The place of one waiter in an ongoing value."""

    def close(self) -> None:
        """Give the place up."""
        ...


class Ongoing(NamedTuple):
    """A waiter's share in a load whose value is still arriving.

    Attributes:
        place: The waiter's place in the value.
        leave: Ends the share, and closes the place. The waiter must call it, however its use of the value ends; a
            second call does nothing.
    """

    place: Any
    leave: Callable[[], None]


class Flight(WaitNode):
    """One load in progress. The flights of one call for many keys follow a leader, and share its task.

    Args:
        leader: The flight to follow; None for a flight with a task of its own.

    Attributes:
        fence: The right to store the result. Callers join the flight only while the fence holds.
        finishes: Whether the load goes on when its last waiter has left.
        added_indexes: Keys of the indexes of the tags that ``add_tags`` has added.
        ongoing: The value in which ``show`` has given each waiter a place, or None.
        is_recorded: Whether the value arrives in parts, so that only callers that take parts may join.
        is_unreported: Whether the server reports no change of the key, because this process has not registered it.
        task: The task that loads. The runtime sets it, on the leader only, when it starts the load.
    """

    __slots__ = (
        *("_done", "_followers", "_leader", "_waiters", "added_indexes", "fence", "finishes", "is_recorded"),
        *("is_unreported", "ongoing", "task"),
    )

    def __init__(self, fence: Fence, *, finishes: bool, leader: Flight | None = None) -> None:
        super().__init__()
        self.fence = fence
        self.finishes = finishes
        self.added_indexes: tuple[str, ...] = ()
        self.ongoing: OngoingValue | None = None
        self.is_recorded = self.is_unreported = False
        self.task: asyncio.Task[None] | None = None
        self._done = False
        # Each waiter with its place in the ongoing value, if it has one.
        self._waiters: dict[asyncio.Future[Any], Place | None] = {}
        self._leader = leader
        self._followers: list[Flight] = []
        if leader is not None:
            leader._followers.append(self)

    @property
    def leader(self) -> Flight:
        """The flight whose task loads: this flight, unless it follows another."""
        return self._leader or self

    def group(self) -> Iterator[Flight]:
        """Yield the flights that share the load, the leader first."""
        leader = self.leader
        yield leader
        yield from leader._followers

    def add_tags(self, tags: Mapping[Group, str]) -> tuple[str, ...]:
        """Add the tags of a waiter: the value is stored with them, and their invalidation overtakes the load.

        Args:
            tags: The key of the index of each tag.

        Returns:
            The keys of the indexes of the tags that are new.
        """
        new = {tag: index for tag, index in tags.items() if tag not in self.fence.groups}
        added = tuple(new.values())
        if added:
            self.fence.groups += tuple(new)
            self.added_indexes += added
        return added

    async def wait(self, start: Callable[[], None] | None = None) -> Any:
        """Wait for the flight; return its value or raise its error. Of an ongoing value return a share: ``Ongoing``.

        Args:
            start: Starts the load; None if the load has started.

        Cancelling the caller leaves the other waiters as they are. The last waiter to leave abandons the flight.
        """
        # An eager task may run its loader, and end, before ``start`` returns. So the caller first becomes a waiter,
        # and its edge enters the wait-for graph: the loader may request the key that the caller's load brings.
        waiter = self.join()
        stays = False
        try:
            if CURRENT_FLIGHT.get() is None:
                if start is not None:
                    start()
                value = await waiter
            else:
                with waiting_for(self):
                    if start is not None:
                        start()
                    value = await waiter
            stays = self._waiters.get(waiter) is not None
            return Ongoing(value, partial(self.leave, waiter)) if stays else value
        finally:
            if not stays:
                self.leave(waiter)

    def join(self) -> asyncio.Future[Any]:
        """Add a waiter and return its future.

        The caller must await the future in the same step, and then pass it to ``leave``, also if the wait fails.
        Callers that may be loaders call ``wait`` instead, which also adds the edge to the wait-for graph.
        """
        # Each waiter has a future of its own, and no waiter shields a shared future: if a waiter has left and the load
        # then raises, a shield reports that exception as unhandled.
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        self._give_place(waiter)
        return waiter

    def show(self, ongoing: OngoingValue) -> None:
        """Give every waiter, now and later, a place in a value that is still arriving. Each waits on until it leaves.

        A waiter takes some steps to wake, and parts may arrive in these steps. Its place has them.
        """
        self.ongoing = ongoing
        for waiter in self._waiters:
            if not waiter.done():
                self._give_place(waiter)

    def _give_place(self, waiter: asyncio.Future[Any]) -> None:
        if self.ongoing is not None:
            place = self._waiters[waiter] = self.ongoing.follow()
            waiter.set_result(place)

    def leave(self, waiter: asyncio.Future[Any]) -> None:
        """Remove ``waiter``. The last waiter to leave abandons the flight, unless its load must go on.

        The load goes on if ``finishes`` is True or its ongoing value is complete.
        """
        place = self._waiters.pop(waiter, waiter)
        if place is waiter:
            return
        if place is not None:
            place.close()  # type: ignore[union-attr]
        self.abandon_unawaited()

    def abandon_unawaited(self) -> None:
        """Abandon the flight if it has no waiter, unless its load must go on."""
        if self._done or self._waiters or self.finishes or (self.ongoing is not None and self.ongoing.is_complete):
            return
        # One task brings the values of the whole group: it is cancelled only when no flight of the group has a waiter.
        task = self.leader.task
        if task is not None and not any(flight.is_awaited for flight in self.group()):
            for flight in self.group():
                # The race, "joined while being cancelled": the task ends some steps later, and a caller that joined in
                # between would get the cancellation. A broken fence keeps callers out from now on.
                flight.fence.holds = False
            task.cancel()

    @property
    def is_awaited(self) -> bool:
        """Whether the flight has not ended and has a waiter."""
        return not self._done and bool(self._waiters)

    @property
    def waiter_count(self) -> int:
        """The callers that wait for the value."""
        return len(self._waiters)

    def resolve(self, value: Any) -> None:
        """Hand ``value`` to every waiter, and end the flight."""
        self._done = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Raise ``error``, the same object, in every waiter. Once the flight has ended, do nothing."""
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


async def wait_all(flights: Sequence[Flight], start: Callable[[], None] | None = None) -> list[Any]:
    """Wait for all ``flights``; return their values in order, or raise as soon as one flight has failed.

    Args:
        start: As for ``Flight.wait``, for the flights that have not started.

    The caller is a waiter of every flight from the start. Cancelling the caller acts as for ``Flight.wait``.
    """
    waiters = [flight.join() for flight in flights]
    try:
        if waiters:
            with waiting_for(*flights):
                if start is not None:
                    start()
                await asyncio.wait(waiters, return_when=asyncio.FIRST_EXCEPTION)
        for waiter in waiters:
            if waiter.done():
                waiter.result()
        return [waiter.result() for waiter in waiters]
    finally:
        # Backwards: ``leave`` looks for a waiter from the first flight of the group on. While the first flight still
        # has this caller as a waiter, each look ends at once.
        for flight, waiter in zip(reversed(flights), reversed(waiters), strict=True):
            flight.leave(waiter)
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # Marks the error as retrieved: the caller gets one error of all.


# The node of the wait-for graph whose load is running in this context, or None. By it the cache recognises a loader
# that calls the cache again.
CURRENT_FLIGHT: Final[ContextVar[WaitNode | None]] = ContextVar("tiercache_current_flight", default=None)


class Flights:
    """The flights that callers may join, by key.

    Args:
        trusts: Returns whether a value that was current at a monotonic second is trusted now (``L1.trusts``). The
            second argument is whether the server reports changes of its key.
    """

    def __init__(self, trusts: Callable[[float, bool], bool]) -> None:
        self._trusts = trusts
        self._by_key: dict[str, Flight] = {}

    def joinable(self, key: str, *, takes_parts: bool = False) -> Flight | None:
        """Return the flight that a caller of ``key`` may join, or None if there is none or it is overtaken.

        Args:
            takes_parts: Whether the caller can follow a value that arrives in parts.
        """
        flight = self._by_key.get(key)
        if flight is None or not flight.fence.holds or flight.fence.in_doubt:
            return None
        if flight.is_recorded and not (takes_parts and (flight.ongoing is None or flight.ongoing.is_whole)):
            return None
        return flight if self._trusts(flight.fence.began, not flight.is_unreported) else None

    def add(self, flight: Flight) -> None:
        """Let callers join ``flight``. An earlier flight on the key loses its place here, and ends on its own."""
        self._by_key[flight.fence.key] = flight

    def remove(self, flight: Flight) -> None:
        """Remove ``flight``, by identity: a later flight on the same key stays."""
        if self._by_key.get(flight.fence.key) is flight:
            del self._by_key[flight.fence.key]
