"""What a cache has to tell: counters it has anyway, and functions that read the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine.engine import Engine
from ..engine.entries.policy import TierPolicy
from . import names

__all__ = ["CacheSource"]


class CacheSource:
    """One cache as telemetry sees it. Belongs to its cache; whoever reports it holds it weakly.

    Attributes:
        name: The cache's name.
        tiers: Its tiers, each with its counters. May grow.
        operations: The log of its operations.
        gauges, counters: Functions that read one number, by ``Metric.name``, called from any thread. What is missing
            is reported as 0. A part of the cache that has a number to show puts its function here.
    """

    def __init__(self, name: str, engine: Engine, tiers: Sequence[TierPolicy]) -> None:
        self.name = name
        self.tiers = tiers
        self.operations = engine.operations
        self.counters: dict[str, Callable[[], float]] = {
            names.L1_EVICTIONS.name: lambda: engine.l1.evicted_count,
            names.L1_DISTRUSTED.name: lambda: engine.generation,
            names.CHANGES_HEARD.name: lambda: engine.heard_count,
        }
        self.gauges: dict[str, Callable[[], float]] = {
            names.L1_ENTRIES.name: lambda: engine.l1.entry_count,
            names.L1_TRUSTED.name: lambda: engine.l1.trusted_until > engine.now(),
            names.L1_BYTES.name: lambda: engine.l1.size_bytes,
            names.WRITE_QUEUE_DEPTH.name: lambda: engine.queued_write_count,
            names.BREAKER_OPEN.name: lambda: engine.is_degraded,
        }
