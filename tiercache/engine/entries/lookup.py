"""Lookups: the answers of the engine to its callers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from .entry import Entry

__all__ = ["Lookup", "Source"]

Source: TypeAlias = Literal["l1", "l2", "loader", "stale", "pin"]


class Lookup(NamedTuple):
    """The outcome of a lookup or a load.

    Attributes:
        entry: The entry that was found or loaded, or None for a miss.
        source: The source of the entry, or None for a miss.
        coalesced: Whether the entry comes from a load that another caller had started.
        degraded: Whether Valkey was unavailable for this lookup.
        placeholder: The placeholder found under the key: a load of this or another process holds the lease. None if
            there was no placeholder.
        placeholder_life: Seconds that ``placeholder`` has left, inf without an end; 0 if that is not known.
        ongoing: For a load whose value is still arriving: the caller's share in it, a ``memory.flights.Ongoing``. There
            is no entry yet. None for every other lookup.
    """

    entry: Entry | None
    source: Source | None
    coalesced: bool = False
    degraded: bool = False
    placeholder: bytes | None = None
    placeholder_life: float = 0.0
    ongoing: Any = None

    @property
    def is_hit(self) -> bool:
        """Whether the entry was in the cache, and was not just loaded."""
        return self.entry is not None and self.source != "loader"
