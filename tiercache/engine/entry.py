"""What L1 keeps of a value, and the groups by which entries are invalidated together."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = ["ENTRY_OVERHEAD_BYTES", "Entry", "Group"]

# An Entry, its floats, its key's own header and its places in the LRU's three dictionaries: 310 bytes measured on
# CPython 3.11, a further float since, and what those dictionaries hold in reserve.
ENTRY_OVERHEAD_BYTES: Final = 382


class Group(NamedTuple):
    """A set of entries that can be invalidated at once: kind "tier", "model", ... and which one."""

    kind: str
    value: str


class Entry:
    """One value in process memory.

    Attributes:
        value: The tier's decoded form. Immutable: every caller is handed the same object.
        deadline: Monotonic second from which L1 no longer serves it.
        began: Monotonic second at which it is known to have been current: its load began then, or the read was sent.
        expires_at: Monotonic second at which it leaves Valkey (inf: never); never before ``deadline``.
        stored_at: Monotonic second at which it was stored, by whoever stored it.
        groups: The groups it is invalidated with.
        cost_micros: Millionths of a dollar that it cost to make, and that each hit saves.
        size_bytes: What it takes of ``L1Options.max_bytes``.
    """

    __slots__ = ("began", "cost_micros", "deadline", "expires_at", "groups", "size_bytes", "stored_at", "value")

    def __init__(
        self,
        value: Any,
        *,
        deadline: float,
        began: float,
        expires_at: float,
        stored_at: float,
        groups: tuple[Group, ...],
        size_bytes: int,
        cost_micros: int = 0,
    ) -> None:
        self.value = value
        self.deadline = deadline
        self.began = began
        self.expires_at = expires_at
        self.stored_at = stored_at
        self.groups = groups
        self.size_bytes = size_bytes
        self.cost_micros = cost_micros
