"""What the engine answers."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from .entry import Entry

__all__ = ["Lookup", "Source"]

Source: TypeAlias = Literal["l1", "l2", "loader", "stale"]


class Lookup(NamedTuple):
    """The outcome of a lookup or a load.

    Attributes:
        entry: What was found, None for a miss.
        source: Where, None for a miss.
        coalesced: It came from a load that another caller had started.
        degraded: Valkey should have been asked and did not answer.
        placeholder: What another load, of this process or not, has put in the place of the value.
    """

    entry: Entry | None
    source: Source | None
    coalesced: bool = False
    degraded: bool = False
    placeholder: bytes | None = None

    @property
    def is_hit(self) -> bool:
        """Whether the answer came from the cache."""
        return self.entry is not None and self.source != "loader"
