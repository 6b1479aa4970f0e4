"""The second level (L2) as a protocol: reads with the remaining lifetime, ordered writes, announcements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from ...errors import L2CommandError
from .announcement import Event
from .writes import Command, Write, WriteResult

__all__ = ["Level2", "Stored", "Subscription", "as_future"]

T = TypeVar("T")


class Stored(NamedTuple):
    """The result of a read.

    Attributes:
        value: The bytes under the key, or None if the key holds a type other than a string.
        ttl: Remaining lifetime in seconds, or None for no expiry.
        is_registered: Whether the server reports the next change of the key because of this read: by interest.
    """

    value: bytes | None
    ttl: float | None
    is_registered: bool = False


class Subscription(Protocol):
    """A connection on which this process receives announcements, in the order in which they were published.

    Raises:
        L2UnavailableError: The connection has ended; any method may raise this.

    Attributes:
        id: The server's id of the connection, or None if the server gives no id.
        watches: Whether the server reports all changes of pins, settings, policies and the heartbeat here.
        declines_keys: Whether this process declines the announcements of single keys. A new subscription does not.
    """

    watches: bool
    declines_keys: bool
    id: int | None

    async def ping(self, stamp: float, number: int) -> None:
        """Send a PING. The server answers on the same connection, in order, with a Pong of the same arguments."""
        ...

    async def decline_keys(self, declines: bool) -> None:
        """Decline the announcements of single keys, or accept them again. The server answers with a KeysDeclined.

        Other processes announce single keys until every process declines. A PING that is sent later proves that the
        server has taken note.
        """
        ...

    async def receive(self) -> Event:
        """Wait for the next event, without a deadline, and return the event.

        An announcement of this process itself may arrive without its content: only its origin and number count.
        """
        ...

    async def follow(self, apply: Callable[[Event], object]) -> None:
        """Call ``apply`` with each event, in the step in which the event arrives.

        Runs until the connection ends or ``apply`` raises.
        """
        ...

    async def aclose(self) -> None:
        """End the connection. Never raises if the server is gone."""
        ...


class Level2(Protocol):
    """A store that several processes share. Every method has a deadline of its own.

    Raises:
        L2UnavailableError: The store did not answer; any method may raise this.
        L2CommandError: The store refused a command; any method except ``apply`` may raise this.
    """

    async def ping(self) -> None:
        """Return once the store has answered."""
        ...

    async def get(self, key: str) -> Stored | None:
        """Return the value and the remaining lifetime of ``key``, in one round trip; None if there is no value."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return the result of ``get`` for each of ``keys``, all in one round trip."""
        ...

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of ``keys``, in order; None for a key that is missing or holds no string."""
        ...

    def apply(self, writes: Sequence[Write]) -> Awaitable[list[WriteResult]]:
        """Carry out ``writes`` in order, in one round trip.

        Returns:
            One result for each write: the result that the class of the write documents, else the count of keys touched.
            For a refused write, the error is its result.
        """
        ...

    def scan(self, *prefixes: str, match: str | None = None) -> AsyncIterator[list[bytes]]:
        """Yield the keys that begin with any of ``prefixes``, in pages, each at least once.

        Args:
            match: A key pattern, with which no prefixes are given: the keys that match it.
        """
        ...

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send Valkey commands together, in order; return the reply to each, or its error.

        For data other than entries: statistics, registration, policies. The commands are never sent twice.
        """
        ...

    async def trim_indexes(self) -> None:
        """Remove from the indexes of this cache the keys that no longer exist."""
        ...

    async def subscribe(self, *, watches: bool = False) -> Subscription:
        """Return a new subscription, which receives all announcements from now on.

        Args:
            watches: Whether the server is asked to report all changes of pins, settings, policies and the heartbeat on
                the subscription. Tracking by interest does not report them: no read fills L1 with them.
        """
        ...

    async def start_numbers(self) -> int:
        """Return the number of the last change, and start the counter if it is missing: the next number is known then.

        Returns:
            0 if the store has no memory for the counter.
        """
        ...

    async def last_number(self) -> int:
        """Return the number of the last change, or 0 if there was no change.

        Raises:
            L2ReplicaError: The server is no primary any more. The store uses none of its connections again.
        """
        ...

    @property
    def role_refusal(self) -> L2CommandError | None:
        """The refusal of the question whether the server is a primary, or None if the server answers it."""
        ...

    async def aclose(self) -> None:
        """Close the connections. Never raises if the store is gone."""
        ...


def as_future(applied: Awaitable[T]) -> asyncio.Future[T]:
    """Return the result of ``Level2.apply`` as a future; a coroutine becomes a task."""
    if asyncio.iscoroutine(applied):
        return asyncio.get_running_loop().create_task(applied, name="tiercache-writes")
    return asyncio.ensure_future(applied)
