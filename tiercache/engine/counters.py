"""What the cache counts: plain integers, written on the event loop, read by anyone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

__all__ = ["OTHER", "CounterBook", "OperationCounters", "TierCounters"]

# The label under which those are counted that came when the book was full. No tool can have this name.
OTHER: Final = ":other"


@dataclass(slots=True)
class TierCounters:
    """How one tier was answered, in this process.

    Attributes:
        l1_hits, l2_hits, misses: One per caller that looked something up.
        coalesced: Callers, among the misses, that waited on a load another caller had started.
        saved_micros: Millionths of a dollar that the answers of the hits had cost.
        loads: Loader calls.
        load_errors: Loader calls that raised or timed out.
        overtaken: Values stored nowhere, because their key was changed while they were loaded.
        fills_dropped: Values not written to Valkey, because the queue was full or Valkey was taken for unavailable.
        fill_errors: Values whose write to Valkey failed.
        l2_errors: Lookups that Valkey did not answer; each became a miss.
        undecodable: Entries in Valkey that are not of this tier's form; each became a miss.
    """

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    coalesced: int = 0
    saved_micros: int = 0
    loads: int = 0
    load_errors: int = 0
    overtaken: int = 0
    fills_dropped: int = 0
    fill_errors: int = 0
    l2_errors: int = 0
    undecodable: int = 0

    def add(self, other: TierCounters) -> None:
        """Add what ``other`` has counted."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class CounterBook:
    """The counters of one tier by label: an llm entry's model, a tool entry's tool.

    Args:
        limit: Most labels; further ones are counted together under ``OTHER``.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._by_label: dict[str, TierCounters] = {}

    def of(self, label: str) -> TierCounters:
        """Return the counters to count ``label`` with."""
        try:
            return self._by_label[label]
        except KeyError:
            if len(self._by_label) >= self._limit:
                label = OTHER
            # A plain str: the caller's own object is not kept.
            return self._by_label.setdefault(str.__str__(label), TierCounters())

    def items(self) -> Iterator[tuple[str, TierCounters]]:
        """Yield each label with its counters."""
        yield from tuple(self._by_label.items())

    def total(self) -> TierCounters:
        """Return the sum over all labels, a copy."""
        total = TierCounters()
        for counters in self._by_label.values():
            total.add(counters)
        return total


@dataclass(slots=True)
class OperationCounters:
    """How often one operation ran past L1, how often it raised, and how long it took in all (seconds)."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
