"""What one process tells the others of its cache, and what it hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..entries.entry import Group

__all__ = ["Announcement", "ChangedByOthers", "Event", "Heard", "Pong", "Unreadable"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something that other processes have to know.

    Attributes:
        keys: Keys whose values have been replaced or removed.
        groups: Groups whose entries have been removed.
        overtaken: Groups whose reads and loads under way are overtaken; their entries stay.
        wanted: Keys for whose lease somebody waits.
        settled: Keys whose lease has ended, well or ill.
        settings: Settings that are kept in Valkey have been changed.
    """

    keys: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    overtaken: tuple[Group, ...] = ()
    wanted: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    settings: bool = False

    @property
    def is_change(self) -> bool:
        """Whether it must not be missed. Such announcements are numbered, so that a gap is noticed."""
        return bool(self.keys or self.groups or self.overtaken)


class Heard(NamedTuple):
    """An announcement of some process, perhaps of this one.

    Attributes:
        origin: The runtime that made it.
        number: Its place in the sequence of all changes; None where it is no change.
    """

    announcement: Announcement
    origin: str
    number: int | None


class ChangedByOthers(NamedTuple):
    """The server's own word: ``keys`` have been changed by whomever; None: any key may have been."""

    keys: tuple[str, ...] | None


class Pong(NamedTuple):
    """The answer to a ping: everything said before that ping was sent has been heard.

    Attributes:
        stamp: Monotonic second at which it was sent.
        number: The number of the last change before that.
    """

    stamp: float
    number: int


class Unreadable(NamedTuple):
    """A message that this version does not understand."""

    reason: str


Event: TypeAlias = Heard | ChangedByOthers | Pong | Unreadable
