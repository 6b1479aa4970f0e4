"""What the cache counts: plain integers, written on the event loop, read by anyone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Final

__all__ = ["DURATION_BOUNDS", "OTHER", "CounterBook", "OperationCounters", "TierCounters"]

# The label under which those are counted that came when the book was full. No tool can have this name.
OTHER: Final = ":other"

# Upper bounds, in seconds, of the durations that are counted together; those above the last have a place of their own.
# From a millisecond up they are betterdb-agent-cache's.
DURATION_BOUNDS: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)


@dataclass(slots=True)
class TierCounters:
    """How one tier was answered, in this process.

    Attributes:
        l1_hits, l2_hits, misses: One per caller that looked something up.
        coalesced: Callers, among the misses, that waited on a load another caller had started.
        saved_micros: Millionths of a dollar that the answers of the hits had cost.
        loads: Loader calls.
        load_errors: Loader calls that raised or timed out.
        lease_waits: Loads that waited for another process to load the key.
        overtaken: Values stored nowhere, because their key was changed while they were loaded.
        fills_dropped: Values not written to Valkey, because the queue was full, Valkey was taken for unavailable, or
            another process had the lease.
        fill_errors: Loaded values whose write to Valkey failed.
        write_errors: Explicitly stored values likewise, where the caller did not wait and so does not know.
        too_large: Values stored nowhere, because they had more bytes than ``TierOptions.max_value_bytes``.
        l2_errors: Lookups that Valkey did not answer; each became a miss.
        undecodable: Entries in Valkey that are not of this tier's form, or too large; each became a miss.
        stored_bytes: Bytes of the values that were stored, explicitly or by a load; compressed ones as they are then.
    """

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    coalesced: int = 0
    saved_micros: int = 0
    loads: int = 0
    load_errors: int = 0
    lease_waits: int = 0
    overtaken: int = 0
    fills_dropped: int = 0
    fill_errors: int = 0
    write_errors: int = 0
    too_large: int = 0
    l2_errors: int = 0
    undecodable: int = 0
    stored_bytes: int = 0

    def add(self, other: TierCounters) -> None:
        """Add what ``other`` has counted."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


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
    """How often one operation ran past L1, how often it raised, and how long it took.

    Attributes:
        calls: How often it ran.
        errors: How often it raised; a cancellation does not count.
        seconds: How long it took in all.
        buckets: Calls by duration, one count for each of DURATION_BOUNDS and one for longer ones.
    """

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS) + 1))

    def count(self, seconds: float, *, failed: bool) -> None:
        """Count one call."""
        self.calls += 1
        self.errors += failed
        self.seconds += seconds
        self.buckets[bisect_left(DURATION_BOUNDS, seconds)] += 1

    def add(self, other: OperationCounters) -> None:
        """Add what ``other`` has counted."""
        self.calls += other.calls
        self.errors += other.errors
        self.seconds += other.seconds
        self.buckets = [count + more for count, more in zip(self.buckets, other.buckets, strict=True)]
