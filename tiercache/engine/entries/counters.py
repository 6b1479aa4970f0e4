"""Counters of a cache: plain integers, written on the event loop and readable from any thread."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Final

__all__ = ["DURATION_BOUNDS", "OTHER", "CounterBook", "OperationCounters", "TierCounters"]

# Label of the counters that all labels share once the book is full. No tool can have this name.
OTHER: Final = ":other"

# Upper bounds, in seconds, of the buckets in which durations are counted; a last bucket counts all longer durations.
# The bounds from a millisecond up are those of betterdb-agent-cache.
DURATION_BOUNDS: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)


@dataclass(slots=True)
class TierCounters:
    """Counts of the lookups, loads and writes of one tier in this process.

    Attributes:
        l1_hits, l2_hits, misses: Callers that looked up a key: each caller adds 1 to one of the three.
        coalesced: Callers, among the misses, that waited for a load which another caller had started.
        saved_micros: Cost of the values that hits returned, in millionths of a dollar.
        loads: Calls of loaders.
        load_errors: Calls of loaders that raised or timed out.
        lease_waits: Loads that waited for the lease of another load on their key, usually of another process.
        overtaken: Loaded values that were stored nowhere, because their key was changed during the load.
        fills_dropped: Loaded values that were not written to Valkey, because the queue was full, the breaker was open,
            or another process held the lease.
        fill_errors: Loaded values whose write to Valkey failed.
        write_errors: Explicitly stored values whose write to Valkey failed after ``store`` had returned: the caller
            did not wait for the write and gets no error.
        too_large: Values that were stored nowhere, because they had more bytes than ``TierOptions.max_value_bytes``.
        not_admitted: Loaded values that were stored nowhere, because ``TierOptions.admit`` refused them.
        unstorable: Loaded values that were stored nowhere, because no store can take them: text with half of a
            surrogate pair, a value that is not JSON, token counts that are no counts.
        l2_errors: Lookups that Valkey did not answer, or refused; each became a miss.
        undecodable: Entries in Valkey that do not have this tier's form, or are too large; each became a miss.
        stale_hits: Callers, among the hits, that got a value past its TTL, or one that was no longer trusted.
        failed_hits: Callers, among the misses, that got a remembered error of a loader.
        refreshes: Loads that started in the background, for a value that a caller got at once.
        refresh_errors: Such loads that raised.
        stored_bytes: Bytes of all values stored, explicitly or by a load; of a compressed value, its compressed size.
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
    not_admitted: int = 0
    unstorable: int = 0
    l2_errors: int = 0
    undecodable: int = 0
    stale_hits: int = 0
    failed_hits: int = 0
    refreshes: int = 0
    refresh_errors: int = 0
    stored_bytes: int = 0

    def add(self, other: TierCounters) -> None:
        """Add the counts of ``other``."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class CounterBook:
    """The counters of one tier, by label: the model of an llm entry, the tool of a tool entry.

    Args:
        limit: Most labels; all further labels share the counters of ``OTHER``.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._by_label: dict[str, TierCounters] = {}

    def of(self, label: str) -> TierCounters:
        """Return the counters of ``label``, or those of ``OTHER`` for a new label once the book is full."""
        try:
            return self._by_label[label]
        except KeyError:
            if len(self._by_label) >= self._limit:
                label = OTHER
            # A plain str: the book must not keep the caller's own object alive.
            return self._by_label.setdefault(str.__str__(label), TierCounters())

    def items(self) -> Iterator[tuple[str, TierCounters]]:
        """Yield each label with its counters. Any thread may call this."""
        # A copy of the dict, which is one step: another thread may add a label during the iteration.
        yield from self._by_label.copy().items()

    def total(self) -> TierCounters:
        """Return the sum over all labels, in a new object. Any thread may call this."""
        total = TierCounters()
        for _, counters in self.items():
            total.add(counters)
        return total


@dataclass(slots=True)
class OperationCounters:
    """Counts of one operation: calls that L1 alone did not answer, errors and durations.

    Attributes:
        calls: Calls of the operation.
        errors: Calls that raised; a cancellation is no error.
        seconds: Sum of the durations of all calls.
        buckets: Calls by duration: one count for each of ``DURATION_BOUNDS``, and a last count for longer calls.
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
        """Add the counts of ``other``."""
        self.calls += other.calls
        self.errors += other.errors
        self.seconds += other.seconds
        self.buckets = [count + more for count, more in zip(self.buckets, other.buckets, strict=True)]
