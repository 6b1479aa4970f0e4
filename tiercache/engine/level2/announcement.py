"""Announcements: the messages that processes of one cache publish to each other, and the events that they receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..entries.entry import Group

__all__ = ["Announcement", "Event", "KeysDeclined", "Pong", "Received", "TrackedChange", "Unreadable"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message of one process to the other processes of its cache.

    Attributes:
        keys: Keys whose values were replaced or removed.
        groups: Groups whose entries were removed.
        overtaken: Groups whose reads and loads in progress are overtaken; their entries stay.
        awaited_leases: Keys for whose leases a load waits.
        ended_leases: Keys whose leases have ended, with or without a value.
        policies: Whether the tool policies, or the settings of tiers and tools, in Valkey were changed.
    """

    keys: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    overtaken: tuple[Group, ...] = ()
    awaited_leases: tuple[str, ...] = ()
    ended_leases: tuple[str, ...] = ()
    policies: bool = False

    @property
    def is_change(self) -> bool:
        """Whether other processes must not miss the announcement. Changes are numbered, so that a gap shows."""
        return bool(self.keys or self.groups or self.overtaken)

    @property
    def has_keys_alone(self) -> bool:
        """Whether the announcement names single keys and nothing else."""
        others = self.groups or self.overtaken or self.awaited_leases or self.ended_leases or self.policies
        return bool(self.keys) and not others


class Received(NamedTuple):
    """A received announcement, of another process or of this process.

    Attributes:
        origin: The runtime that published the announcement.
        number: The number of the change in the sequence of all changes; None if the announcement is no change.
    """

    announcement: Announcement
    origin: str
    number: int | None


class TrackedChange(NamedTuple):
    """A tracking message of the server: another client changed ``keys``; None means any key may have changed."""

    keys: tuple[str, ...] | None


class Pong(NamedTuple):
    """The answer to a PING: this process has received everything published before the PING was sent.

    Attributes:
        stamp: Monotonic second at which this process prepared the PING, before it asked for ``number``.
        number: The number of the last change when this process asked for it.
    """

    stamp: float
    number: int


class KeysDeclined(NamedTuple):
    """The server has taken note whether this process declines announcements of single keys.

    Attributes:
        are_declined: False: changes from here on are announced to this process.
    """

    are_declined: bool


class Unreadable(NamedTuple):
    """A message that this version of the library cannot read."""

    reason: str


Event: TypeAlias = Received | TrackedChange | Pong | KeysDeclined | Unreadable
