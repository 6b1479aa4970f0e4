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
        operations: The logs of the cache's operations, one for each engine.
        gauges, counters: Functions that read one number, by ``Metric.name``, called from any thread. A missing number
            is reported as 0. Each part of the cache that has such a number adds its function here.
    """

    def __init__(self, name: str, engines: Sequence[Engine], tiers: Sequence[TierRules], log: CacheLog) -> None:
        self.name = name
        self.tiers = tiers
        self.log = log
        self.operations = tuple(engine.operations for engine in engines)
        self.counters: dict[str, Callable[[], float]] = {
            names.L1_EVICTIONS.name: lambda: sum(engine.l1.evicted_count for engine in engines),
            names.L1_DISTRUSTED.name: lambda: sum(engine.l1.distrusted_count for engine in engines),
            names.CHANGES_HEARD.name: lambda: sum(engine.l1.heard_count for engine in engines),
            names.HOOK_ERRORS.name: lambda: sum(engine.hooks.error_count for engine in engines),
            names.HOOK_EVENTS_DROPPED.name: lambda: sum(engine.hooks.dropped_count for engine in engines),
        }
        self.gauges: dict[str, Callable[[], float]] = {
            names.L1_ENTRIES.name: lambda: sum(engine.l1.entry_count for engine in engines),
            names.L1_TRUSTED.name: lambda: all(engine.l1.trusted_until > engine.now() for engine in engines),
            names.L1_BYTES.name: lambda: sum(engine.l1.size_bytes for engine in engines),
            names.WRITE_QUEUE_DEPTH.name: lambda: sum(engine.queued_write_count for engine in engines),
            names.BREAKER_OPEN.name: lambda: any(engine.is_degraded for engine in engines),
        }
