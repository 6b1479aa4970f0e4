"""What the cache counts: plain integers, written on the event loop, read by anyone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["OperationCounters", "TierCounters"]


@dataclass(slots=True)
class TierCounters:
    """How one tier was answered, in this process.

    Attributes:
        l1_hits, l2_hits, misses: One per caller that looked something up.
        coalesced: Callers, among the misses, that waited on a load another caller had started.
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
    loads: int = 0
    load_errors: int = 0
    overtaken: int = 0
    fills_dropped: int = 0
    fill_errors: int = 0
    l2_errors: int = 0
    undecodable: int = 0

    def copy(self) -> TierCounters:
        """Return a copy that no longer counts."""
        return dataclasses.replace(self)


@dataclass(slots=True)
class OperationCounters:
    """How often one operation ran past L1, how often it raised, and how long it took in all (seconds)."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
