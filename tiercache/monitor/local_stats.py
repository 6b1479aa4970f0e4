"""The statistics of one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..engine.entries.counters import OperationCounters, TierCounters

__all__ = ["LocalStats"]


@dataclass(frozen=True, slots=True)
class LocalStats:
    """A snapshot of one cache in this process.

    Attributes:
        tiers: Counters by tier name.
        operations: Calls, errors and seconds by operation name, without the calls that L1 answered.
        l1_entry_count, l1_bytes: Entries in L1, and their accounted bytes.
        l1_evicted_count: Entries that newer entries pushed out of L1.
        queued_write_count: Writes that Valkey has not answered yet.
        degraded: Whether the breaker takes Valkey for unavailable.
        trusted: Whether this process knows that L1 has followed every change; always true without a Valkey.
        distrusted_count: Times that L1 was dropped because a change may have been missed.
        tracking: How Valkey reports the changes of other clients: "interest", "broadcast" or "off". Of several faces in
            use, the one with the least; "off" also without a Valkey, and before the cache is open.
        heard_count: Changes by other clients that L1 has followed: announcements, and reports of keys in L1.
        hook_errors: Calls of hooks that raised.
        hook_events_dropped: Calls of async hooks that were dropped, because too many waited or the cache was closed.
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
    hook_errors: int
    hook_events_dropped: int
    tracking: Literal["interest", "broadcast", "off"] = "off"
