"""The data of one cache for telemetry: its counters, and functions that read the other numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine.engine import Engine
from ..engine.entries.rules import TierRules
from ..log import CacheLog
from . import names

__all__ = ["CacheSource"]


class CacheSource:
    """The data of one cache for telemetry. The cache owns it, and collectors hold it weakly.

    Attributes:
        name: The cache's name.
        tiers: The cache's tiers, each with its counters. The sequence may grow.
        log: The cache's log.
        operations: The log of the cache's operations.
        gauges, counters: Functions that read one number, by ``Metric.name``, called from any thread. A missing number
            is reported as 0. Each part of the cache that has such a number adds its function here.
    """

    def __init__(self, name: str, engine: Engine, tiers: Sequence[TierRules], log: CacheLog) -> None:
        self.name = name
        self.tiers = tiers
        self.log = log
        self.operations = engine.operations
        self.counters: dict[str, Callable[[], float]] = {
            names.L1_EVICTIONS.name: lambda: engine.l1.evicted_count,
            names.L1_DISTRUSTED.name: lambda: engine.l1.distrusted_count,
            names.CHANGES_HEARD.name: lambda: engine.l1.heard_count,
            names.HOOK_ERRORS.name: lambda: engine.hooks.error_count,
            names.HOOK_EVENTS_DROPPED.name: lambda: engine.hooks.dropped_count,
        }
        self.gauges: dict[str, Callable[[], float]] = {
            names.L1_ENTRIES.name: lambda: engine.l1.entry_count,
            names.L1_TRUSTED.name: lambda: engine.l1.trusted_until > engine.now(),
            names.L1_BYTES.name: lambda: engine.l1.size_bytes,
            names.WRITE_QUEUE_DEPTH.name: lambda: engine.queued_write_count,
            names.BREAKER_OPEN.name: lambda: engine.is_degraded,
        }
