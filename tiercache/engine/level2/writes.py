"""The writes that a Level2 carries out: values, deletes, leases, announcements, commands."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from .announcement import Announcement

__all__ = ["Announce", "Command", "Delete", "Release", "Run", "TakeLease", "Track", "Write", "WriteResult", "WriteSet"]


class WriteSet(Struct, frozen=True, gc=False):
    """Write ``value`` under ``key`` for ``ttl`` seconds (None: no expiry).

    Attributes:
        replaces: What the key must hold for it to be written; the result is 0 if it holds something else. None: it is
            written in any case.
        indexes: Keys of the indexes that the key is added to before it is written.
        announced: Whether the other processes are told.
    """

    key: str
    value: bytes
    ttl: float | None
    replaces: bytes | None = None
    indexes: tuple[str, ...] = ()
    announced: bool = False

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys that it changes."""
        return (self.key,)

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return len(self.key) + len(self.value)


class Delete(Struct, frozen=True, gc=False):
    """Delete ``keys``; the result counts those that held a value, and no mere placeholder.

    Attributes:
        announced: Whether the other processes are told. ``keys`` must be text then.
        index: Key of the index that has them as members: it forgets those that are gone, as far as no write of theirs
            may be on its way.
    """

    keys: tuple[str | bytes, ...]
    announced: bool = False
    index: str | None = None

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return sum(map(len, self.keys))


class TakeLease(Struct, frozen=True, gc=False):
    """Put ``placeholder`` under ``key`` for ``ttl`` seconds if there is nothing.

    The result is None if it was put there, else the bytes that are there; for what is no string ``NO_STRING``.

    Attributes:
        indexes: As for WriteSet: a load under way is found by whoever removes a group.
    """

    key: str
    placeholder: bytes
    ttl: float
    indexes: tuple[str, ...] = ()

    NO_STRING = b""

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys whose values it changes: none, for a placeholder is no value."""
        return ()

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return len(self.key) + len(self.placeholder)


class Release(Struct, frozen=True, gc=False):
    """Delete ``key`` if it holds ``placeholder``."""

    key: str
    placeholder: bytes

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys whose values it changes: none, as for TakeLease."""
        return ()

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return len(self.key) + len(self.placeholder)


class Announce(Struct, frozen=True, gc=False):
    """Tell the other processes. The result is the number of the change, or of listeners where it is none."""

    announcement: Announcement

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys that it changes: none."""
        return ()

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        said = self.announcement
        return sum(map(len, (*said.keys, *said.wanted, *said.settled)))


class Track(Struct, frozen=True, gc=False):
    """Have the server tell a subscription of what others change, from now on if it does not do so already.

    The result is a number that changes whenever it had stopped doing so, L2CommandError if it refuses.

    Attributes:
        subscriber: Its ``Subscription.id``.
    """

    subscriber: int

    @property
    def keys(self) -> tuple[str | bytes, ...]:
        """The keys that it changes: none."""
        return ()

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return 0


# A command and its arguments, as redis-cli takes them: ("HINCRBY", key, field, 1).
Command: TypeAlias = tuple[str | bytes | int | float, ...]


class Run(Struct, frozen=True, gc=False):
    """Run a command of a tier's own, such as a script; the result is its reply. It is never sent twice.

    Attributes:
        keys: The keys whose values it changes.
        announced: Whether the other processes are told of them. They must be text then.
    """

    command: Command
    keys: tuple[str | bytes, ...] = ()
    announced: bool = False

    @property
    def size_bytes(self) -> int:
        """What it weighs in the queue."""
        return sum(len(part) for part in self.command if isinstance(part, str | bytes))


Write: TypeAlias = WriteSet | Delete | TakeLease | Release | Announce | Track | Run


# The count of keys touched or what the kind of write says, or the TierCacheError with which it was refused.
WriteResult: TypeAlias = Any
