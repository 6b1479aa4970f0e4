"""The second level as the engine sees it: reads with the remaining lifetime, ordered writes, and a scan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

__all__ = ["Command", "Delete", "Level2", "Run", "Stored", "Write", "WriteResult", "WriteSet"]


class Stored(NamedTuple):
    """What a read found.

    Attributes:
        value: The bytes, or None where the key holds something that is no string.
        ttl: Seconds left, None for no expiry.
    """

    value: bytes | None
    ttl: float | None


@dataclass(frozen=True, slots=True)
class WriteSet:
    """Write ``value`` under ``key`` for ``ttl`` seconds (None: no expiry)."""

    key: str
    value: bytes
    ttl: float | None

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys that it changes."""
        return (self.key,)

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return len(self.key) + len(self.value)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``keys``; the result counts those that existed."""

    keys: tuple[str | bytes, ...]

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return sum(map(len, self.keys))


# A command and its arguments, as redis-cli takes them: ("HINCRBY", key, field, 1).
Command: TypeAlias = tuple[str | bytes | int | float, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command of a tier's own, such as a script; the result is its reply. It is never sent twice.

    Attributes:
        keys: The keys whose values it changes.
    """

    command: Command
    keys: tuple[str | bytes, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return sum(len(part) for part in self.command if isinstance(part, str | bytes))


Write: TypeAlias = WriteSet | Delete | Run
# The count of keys touched, for a Run its reply, or the TierCacheError with which it was refused.
WriteResult: TypeAlias = Any


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

    async def apply(self, writes: Sequence[Write]) -> list[WriteResult]:
        """Carry out ``writes`` in order, in one round trip.

        Returns:
            For each write the count of keys it touched, the reply to a ``Run``, or the error with which that one
            was refused.
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

    async def aclose(self) -> None:
        """Close the connections. Never raises for a store that is gone."""
        ...
