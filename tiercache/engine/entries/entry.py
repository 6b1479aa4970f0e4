"""What L1 keeps of a value, and the groups by which entries are invalidated together."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from msgspec import Struct

__all__ = ["ENTRY_OVERHEAD_BYTES", "Entry", "Group", "shared_size"]

# An Entry, its numbers, its key's own header and its places in the LRU's two dictionaries: measured on CPython 3.11,
# 343 bytes when those have just filled up, 400 when they have just grown.
ENTRY_OVERHEAD_BYTES: Final = 382


_SIZES: Final = tuple(range(2048))


def shared_size(size: int) -> int:
    """Return ``size``, of most entries as one int for all that have it."""
    return _SIZES[size] if size < len(_SIZES) else size


class Group(NamedTuple):
    """A set of entries that can be invalidated at once: kind "tier", "model", ... and which one."""

    kind: str
    value: str


class Entry(Struct, eq=False, gc=False):
    """One value in process memory.

    The garbage collector passes entries by: they are many and live long, and nothing that they hold leads back to them.

    Attributes:
        value: The tier's decoded form. Immutable: every caller is handed the same object.
        deadline: Monotonic second from which L1 no longer serves it.
        began: Monotonic second at which it is known to have been current: its load began then, or the read was sent.
        expires_at: Monotonic second at which it leaves Valkey (inf: never); never before ``deadline``.
        stored_at: Monotonic second at which it was stored, by whoever stored it.
        groups: The groups it is invalidated with.
        size_bytes: What it takes of ``L1Options.max_bytes``.
        cost_micros: Millionths of a dollar that it cost to make, and that each hit saves.
    """

    value: Any
    deadline: float
    began: float
    expires_at: float
    stored_at: float
    groups: tuple[Group, ...]
    size_bytes: int
    cost_micros: int = 0
