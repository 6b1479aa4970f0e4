"""The second level as the engine sees it: reads with the remaining lifetime, ordered writes, announcements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from .announcement import Event
from .writes import Command, Write, WriteResult

__all__ = ["Level2", "Position", "Stored", "Subscription", "answer_of"]

T = TypeVar("T")


class Stored(NamedTuple):
    """What a read found.

    Attributes:
        value: The bytes, or None where the key holds something that is no string.
        ttl: Seconds left, None for no expiry.
    """

    value: bytes | None
    ttl: float | None


class Position(NamedTuple):
    """Where the sequence of changes stands: equal positions mean that nothing has been announced in between.

    Attributes:
        server: Which life of which server; None where it does not say, which is equal to nothing.
        number: The last change's.
    """

    server: str | None
    number: int

    def proves_nothing_missed(self, since: Position | None) -> bool:
        """Return whether no change has been announced since ``since``."""
        return self.server is not None and self == since


class Subscription(Protocol):
    """A connection on which this process hears of changes, in the order in which they were made.

    Raises:
        L2UnavailableError: The connection has ended, from any method.

    Attributes:
        id: What the server knows it by, None where it does not say.
    """

    @property
    def id(self) -> int | None: ...

    async def ping(self, stamp: float, number: int) -> None:
        """Send a ping that is answered on the same connection, in its turn, by a Pong with the same."""
        ...

    async def receive(self) -> Event:
        """Return what comes next. Without a deadline. An own announcement may come without what it says."""
        ...

    async def follow(self, apply: Callable[[Event], object]) -> None:
        """Call ``apply`` with all that comes, in the step in which it comes, until the connection ends or it raises."""
        ...

    async def aclose(self) -> None:
        """End it. Never raises for a server that is gone."""
        ...


class Level2(Protocol):
    """A store shared by processes. Every method has a deadline of its own.

    Raises:
        L2UnavailableError: No answer, from any method.
        L2CommandError: The store refused, from any method but ``apply``.
    """

    async def ping(self) -> None:
        """Return once the store has answered."""
        ...

    async def get(self, key: str) -> Stored | None:
        """Return what ``key`` holds together with its remaining lifetime, in one round trip; None if nothing."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return for each of ``keys`` what ``get`` does, all in one round trip."""
        ...

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of ``keys``, in order; None for what is missing or no string."""
        ...

    def apply(self, writes: Sequence[Write]) -> Awaitable[list[WriteResult]]:
        """Carry out ``writes`` in order, in one round trip.

        Returns:
            For each write its result, as its kind says; for those that do not, the count of keys touched. Where one
            was refused, the error in its place.
        """
        ...

    def scan(self, prefix: str) -> AsyncIterator[list[bytes]]:
        """Yield the keys that begin with ``prefix``, in pages, each at least once."""
        ...

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send Valkey commands together, in order; return a reply, or the error in its place, for each.

        For what is no entry: statistics, registration, policies. Never sent twice.
        """
        ...

    async def trim_indexes(self) -> None:
        """Forget in the indexes, as far as this process has used them, keys that are gone."""
        ...

    async def subscribe(self) -> Subscription:
        """Return a new subscription: what is announced from now on is heard on it."""
        ...

    async def position(self) -> Position:
        """Return where the sequence of changes stands."""
        ...

    async def last_number(self) -> int:
        """Return the number of the last change, 0 for none."""
        ...

    async def aclose(self) -> None:
        """Close the connections. Never raises for a store that is gone."""
        ...


def answer_of(applied: Awaitable[T]) -> asyncio.Future[T]:
    """Return the future of what ``Level2.apply`` has returned."""
    if asyncio.iscoroutine(applied):
        return asyncio.get_running_loop().create_task(applied, name="tiercache-writes")
    return asyncio.ensure_future(applied)
