"""Entries: the records that L1 keeps, and the groups by which callers invalidate several entries at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from .key_pattern import matcher

__all__ = [
    "ENTRY_OVERHEAD_BYTES",
    "MATCHING",
    "Entry",
    "Group",
    "has_tags",
    "is_member",
    "names_of_tags",
    "shared_size",
]

# Bytes of an Entry, its numbers, the header of its key, and its slots in the LRU and in the index of groups. Measured
# on CPython 3.11: 343 bytes when the dictionaries have just filled up, 400 bytes when they have just grown.
ENTRY_OVERHEAD_BYTES: Final = 382


_SIZES: Final = tuple(range(2048))


def shared_size(size: int) -> int:
    """Return ``size``; all entries of the same size below 2,048 share one int object."""
    return _SIZES[size] if size < len(_SIZES) else size


class Group(NamedTuple):
    """A set of entries that one call can invalidate: its kind ("tier", "model", ...) and its name."""

    kind: str
    value: str


# The kind of a group of all entries whose keys match a pattern, which is its name. No entry names such a group itself.
MATCHING: Final = "matching"


def is_member(key: str, groups: Sequence[Group], group: Group) -> bool:
    """Return whether the entry of ``key``, which has ``groups``, belongs to ``group``."""
    return matcher(group.value)(key) if group.kind == MATCHING else group in groups


def has_tags(groups: tuple[Group, ...]) -> bool:
    """Return whether an entry of ``groups`` has tags, which stand after its other groups."""
    return bool(groups) and groups[-1].kind == "tag"


def names_of_tags(groups: tuple[Group, ...]) -> tuple[str, ...]:
    """Return the tags among ``groups``."""
    return tuple([group.value for group in groups if group.kind == "tag"]) if has_tags(groups) else ()


class Entry(Struct, eq=False, gc=False):
    """One value in process memory.

    The garbage collector does not track entries (``gc=False``): a cache holds many entries for a long time, and no
    value refers back to its entry.

    Attributes:
        value: The decoded value, in the tier's form. Immutable: every caller gets the same object.
        deadline: Monotonic second from which L1 no longer serves the entry.
        began: Monotonic second at which the load began or the read was sent: the value was current then or later.
        expires_at: Monotonic second at which the entry expires in Valkey (inf: never). Of a loaded value that Valkey
            does not keep: the second until which L1 serves it, or inf if neither level keeps it.
        stored_at: Monotonic second at which this or another process stored the value.
        groups: The groups whose invalidation removes the entry: at most two, of which the first is its tier, and then
            its tags.
        size_bytes: Bytes that the entry takes of ``L1Options.max_bytes``.
        cost_micros: Cost of making the value, in millionths of a dollar; each hit saves as much.
    """

    value: Any
    deadline: float
    began: float
    expires_at: float
    stored_at: float
    groups: tuple[Group, ...]
    size_bytes: int
    cost_micros: int = 0
