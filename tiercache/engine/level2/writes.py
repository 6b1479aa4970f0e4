"""Writes: the values, deletes, leases, announcements and commands that a Level2 carries out."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from .announcement import Announcement

__all__ = [
    "INDEX_MARGIN",
    "Announce",
    "Command",
    "Delete",
    "Release",
    "Run",
    "TakeLease",
    "Track",
    "TrackingState",
    "Write",
    "WriteResult",
    "WriteSet",
]

# Seconds that an index lives longer than the entry for which it was last written.
INDEX_MARGIN: Final = 60.0


class _KeepsValues(Struct, frozen=True, gc=False):
    """A write that changes no value. A placeholder is no value."""

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys whose values the write changes: none."""
        return ()

    @property
    def size_bytes(self) -> int:
        """Bytes that the write takes in the queue."""
        return 0


class _OfPlaceholder(_KeepsValues, frozen=True, gc=False):
    """A write that puts or removes the placeholder of one key."""

    key: str
    placeholder: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.key) + len(self.placeholder)


class WriteSet(Struct, frozen=True, gc=False):
    """Write ``value`` under ``key`` for ``ttl`` seconds (None: no expiry).

    Attributes:
        replaces: The bytes that the key must hold. If the key holds other bytes or none, nothing is written and the
            result is 0. None: the value is written in any case.
        indexes: Keys of the indexes to which the server adds the key, before it writes the value. Each index lives
            longer than ``ttl``.
        announced: Whether the write pipe announces the key to the other processes.
        keeps_expiry: Whether the key keeps the expiry that it has; ``ttl`` then says how long that is. Only with
            ``replaces``.
    """

    key: str
    value: bytes
    ttl: float | None
    replaces: bytes | None = None
    indexes: tuple[str, ...] = ()
    announced: bool = False
    keeps_expiry: bool = False

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys whose values the write changes."""
        return (self.key,)

    @property
    def size_bytes(self) -> int:
        """Bytes that the write takes in the queue."""
        return len(self.key) + len(self.value)


class Delete(Struct, frozen=True, gc=False):
    """Delete ``keys``; the result is the count of keys that held a value. A placeholder is no value.

    Attributes:
        announced: Whether the write pipe announces ``keys`` to the other processes. If True, ``keys`` must be str.
        index: Key of the index that lists ``keys``, or None. The server removes the keys that are gone from the index,
            except keys that a write in flight may be about to create (members younger than a minute).
    """

    keys: tuple[str | bytes, ...]
    announced: bool = False
    index: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes that the write takes in the queue."""
        return sum(map(len, self.keys))


class TakeLease(_OfPlaceholder, frozen=True, gc=False):
    """Put ``placeholder`` under ``key`` for ``ttl`` seconds if the key is empty.

    The result is None if the placeholder was put there; else the bytes under the key, or ``NO_STRING`` if the key holds
    a type other than a string.

    Attributes:
        indexes: As for WriteSet. By them the invalidation of a group also finds the loads in progress.
        index_ttl: Seconds that the value to load will live, as far as known (None: no expiry); the indexes live longer.
    """

    ttl: float
    indexes: tuple[str, ...] = ()
    index_ttl: float | None = None

    NO_STRING = b""


class Release(_OfPlaceholder, frozen=True, gc=False):
    """Delete ``key`` if it holds ``placeholder``."""


class Announce(_KeepsValues, frozen=True, gc=False):
    """Publish ``announcement`` to the other processes.

    The result is the number of the change; 0 if every process declines announcements of single keys, and this one names
    nothing else; or, for an announcement that is no change, the count of subscribers.
    """

    announcement: Announcement

    @property
    def size_bytes(self) -> int:
        announcement = self.announcement
        return sum(map(len, (*announcement.keys, *announcement.awaited_leases, *announcement.ended_leases)))


class Track(_KeepsValues, frozen=True, gc=False):
    """Turn on tracking, if it is off: the server then sends the changes of other clients to a subscription.

    The result is a ``TrackingState``; None if tracking was not on, so that a PING proves nothing; or L2CommandError if
    the server refuses.

    Attributes:
        subscriber: The ``Subscription.id`` of the subscription.
        by_interest: Whether to track by interest if the server and the connection allow it, and not by broadcast.
    """

    subscriber: int
    by_interest: bool = False


class TrackingState(NamedTuple):
    """How the server tracks.

    Attributes:
        number: A new number means that tracking was off for a while, so that messages may be missing.
        mode: "interest": the server reports the keys that the connection of the writes has read. "broadcast": it
            reports all keys of the cache. "off": it does not track yet, because it cannot carry out commands now.
        reason: Why the server does not track by interest although a ``Track`` asks for that. None if it does, or if the
            connection cannot carry the reads.
    """

    number: int
    mode: Literal["interest", "broadcast", "off"]
    reason: str | None = None


# A command and its arguments, as redis-cli takes them: ("HINCRBY", key, field, 1).
Command: TypeAlias = tuple[str | bytes | int | float, ...]


class Run(Struct, frozen=True, gc=False):
    """Run a tier's own command, such as a script; the result is its reply. The command is never sent twice.

    Attributes:
        keys: The keys whose values the command changes.
        announced: Whether the write pipe announces ``keys`` to the other processes. If True, ``keys`` must be str.
    """

    command: Command
    keys: tuple[str | bytes, ...] = ()
    announced: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes that the write takes in the queue."""
        return sum(len(part) for part in self.command if isinstance(part, str | bytes))


Write: TypeAlias = WriteSet | Delete | TakeLease | Release | Announce | Track | Run


# The result that the class of the write documents, else the count of keys touched; or the TierCacheError of a refusal.
WriteResult: TypeAlias = Any
