"""What this process knows of its own work."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.entries.counters import OperationCounters, TierCounters

__all__ = ["LocalStats"]


@dataclass(frozen=True, slots=True)
class LocalStats:
    """A snapshot of one cache in this process.

    Attributes:
        tiers: Counters by tier name.
        operations: Calls, errors and seconds by operation name; calls that L1 answered are not among them.
        l1_entry_count, l1_bytes: What L1 holds.
        l1_evicted_count: Entries that newer ones pushed out of L1.
        queued_write_count: Writes that Valkey has not answered yet.
        degraded: Whether Valkey is taken for unavailable.
        trusted: Whether L1 is known to have followed every change; without a Valkey always.
        distrusted_count: How often L1 was dropped because a change may have been missed, on this event loop.
        heard_count: Changes by other processes that L1 has followed, on this event loop.
    """

    tiers: dict[str, TierCounters]
    operations: dict[str, OperationCounters]
    l1_entry_count: int
    l1_bytes: int
    l1_evicted_count: int
    queued_write_count: int
    degraded: bool
    trusted: bool
    distrusted_count: int
    heard_count: int
