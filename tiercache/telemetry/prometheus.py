"""Prometheus: one collector for each registry and prefix, which reads the caches' own counters at each scrape.

The use of a cache costs nothing here. Counters are cumulative for a registry and cache name: the counts of a cache stay
in them when it is closed or garbage-collected, because Prometheus takes a falling counter for a restarted process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..engine.entries.counters import DURATION_BOUNDS, OperationCounters, TierCounters
from ..log import CacheLog
from . import names
from .multiprocess import process_files
from .names import Metric
from .source import CacheSource
from .totals import Labels, ShownLabels, Totals

__all__ = ["CacheCollector", "report"]

_LES: Final = (*map(floatToGoString, DURATION_BOUNDS), "+Inf")
_UNREADABLE: Final = "cannot read Prometheus metrics: %r"


class CacheCollector(Collector):
    """Reports all caches of one registry and prefix. Any thread may read it.

    Args:
        prefix: The beginning of the metrics' names.
        log: The log for failures while the collector reports no cache.
    """

    def __init__(self, prefix: str, log: CacheLog) -> None:
        self._prefix = prefix
        self._log = log
        self._lock = Lock()
        self._members: list[_Member] = []
        # The counts of closed and collected caches.
        self._ended = Totals()
        self._shown: dict[Labels, ShownLabels] = {}

    def describe(self) -> Iterable[Family]:
        """Return nothing, so that the registry reserves no names.

        If betterdb-agent-cache finds one of its names reserved, it takes this collector for its own metric and fails
        when it counts. With this method a registry with ``auto_describe`` does not collect at the registration either.
        """
        return ()

    def collect(self) -> Iterable[Family]:
        """Return all metrics with their present values."""
        try:
            with self._lock:
                totals, gauges = self._read()
            return self._families(totals, gauges)
        except Exception as error:
            # A defect here must not hide the other metrics of the registry.
            for log in [member.log for member in self._members] or [self._log]:
                log.warn_once(_UNREADABLE, error)
            return ()

    def start(self, source: CacheSource) -> None:
        """Write the numbers to files too, if prometheus_client is in its multiprocess mode. Call it in each process."""
        files = process_files(source.log)
        if files is not None:
            files.start(self, source.log)

    def join(self, source: CacheSource, max_labels: int) -> None:
        """Report ``source`` until it leaves or is garbage-collected.

        The first cache of a name decides how many labels its tiers show.
        """
        with self._lock:
            self._keep_collected()
            self._members.append(_Member(source, max_labels))

    def leave(self, source: CacheSource) -> None:
        """Keep the counts of ``source``, and report it no longer. Do nothing the second time."""
        try:
            with self._lock:
                for member in [member for member in self._members if member.source() is source]:
                    self._members.remove(member)
                    self._add(member, self._ended)
        except Exception as error:
            # As in ``collect``; to close a cache must not fail.
            source.log.warn_once(_UNREADABLE, error)
        files = process_files(source.log)
        if files is not None:
            files.write()

    def _read(self) -> tuple[Totals, dict[str, dict[Labels, float]]]:
        self._keep_collected()
        totals = Totals()
        totals.copy_from(self._ended)
        gauges: dict[str, dict[Labels, float]] = {metric.name: {} for metric in names.CACHE_GAUGES}
        for member in self._members:
            self._add(member, totals)
            source = member.source()
            if source is not None:
                for name, values in gauges.items():
                    value = member.call(source.gauges, name, 0)
                    values[(member.name,)] = values.get((member.name,), 0) + value
        return totals, gauges

    def _keep_collected(self) -> None:
        """Keep the counts of caches that were garbage-collected and not closed."""
        for member in [member for member in self._members if member.source() is None]:
            self._members.remove(member)
            self._add(member, self._ended)

    def _add(self, member: _Member, totals: Totals) -> None:
        name = member.name
        for rules in member.tiers:
            tier = rules.tier
            total = TierCounters()
            shown = self._shown.setdefault((name, tier), ShownLabels(member.max_labels))
            for label, counters in rules.counters.items():
                total.add(counters)
                label = shown.label(label)
                if tier == "tool":
                    self._add_requests(totals, (name, tier), counters, tool=label)
                    totals.count(names.COST_SAVED, (name, tier, "", label), counters.saved_micros)
                elif tier == "llm":
                    totals.count(names.COST_SAVED, (name, tier, label, ""), counters.saved_micros)
                else:
                    totals.count(names.COST_SAVED, (name, tier, "", ""), counters.saved_micros)
            if tier != "tool":
                self._add_requests(totals, (name, tier), total, tool="")
            totals.count(names.LEVEL_HITS, (name, tier, "l1"), total.l1_hits)
            totals.count(names.LEVEL_HITS, (name, tier, "l2"), total.l2_hits)
            for field, metric in names.TIER_COUNTERS.items():
                totals.count(metric, (name, tier), getattr(total, field))
        for log in member.operations:
            for operation, timed in log.snapshot().items():
                tier, _, method = operation.rpartition(".")
                totals.time((name, tier, method), timed)
        source = member.source()
        for metric in names.CACHE_COUNTERS:
            if source is not None:
                last = member.counted.get(metric.name, 0)
                member.counted[metric.name] = member.call(source.counters, metric.name, last)
            totals.count(metric, (name,), member.counted.get(metric.name, 0))

    @staticmethod
    def _add_requests(totals: Totals, of: Labels, counters: TierCounters, *, tool: str) -> None:
        totals.count(names.REQUESTS, (*of, "hit", tool), counters.l1_hits + counters.l2_hits)
        totals.count(names.REQUESTS, (*of, "miss", tool), counters.misses)

    def _families(self, totals: Totals, gauges: dict[str, dict[Labels, float]]) -> list[Family]:
        families: list[Family] = []
        for metric in names.METRICS:
            name = f"{self._prefix}_{metric.name}"
            if metric.kind == "histogram":
                families.append(_histogram(name, metric, totals.durations))
                continue
            gauge = metric.kind == "gauge"
            kind = GaugeMetricFamily if gauge else CounterMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            scale = 1_000_000 if metric is names.COST_SAVED else 1
            for labels, value in (gauges if gauge else totals.counts).get(metric.name, {}).items():
                family.add_metric(labels, value / scale)
            families.append(family)
        return families


class _Member:
    """A reported cache. A member holds the counters, which are small, and not the cache.

    Attributes:
        counted: The last results of the cache's functions. These results outlive the cache.
    """

    def __init__(self, source: CacheSource, max_labels: int) -> None:
        self.source = ref(source)
        self.name = source.name
        self.log = source.log
        self.tiers = source.tiers
        self.operations = source.operations
        self.max_labels = max_labels
        self.counted: dict[str, float] = {}

    def call(self, functions: Mapping[str, Callable[[], float]], name: str, otherwise: float) -> float:
        """Return the result of the function ``name``, or ``otherwise`` if it is missing or raises."""
        function = functions.get(name)
        if function is None:
            return otherwise
        try:
            return function()
        except Exception as error:
            # The part of the cache that has this number is broken; the other numbers are still reported.
            self.log.warn_once(_UNREADABLE, error)
            return otherwise


def _histogram(name: str, metric: Metric, durations: Mapping[Labels, OperationCounters]) -> Family:
    family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    for labels, timed in durations.items():
        below = 0
        buckets: list[tuple[str, float]] = []
        for le, count in zip(_LES, timed.buckets, strict=True):
            below += count
            buckets.append((le, below))
        family.add_metric(labels, buckets, timed.seconds)
    return family


# The keys are weak: a collector does not refer to its registry, so this map does not keep a registry alive.
_COLLECTORS: Final[WeakKeyDictionary[Any, dict[str, CacheCollector]]] = WeakKeyDictionary()
_COLLECTORS_LOCK: Final = Lock()


def report(source: CacheSource, *, registry: Any, prefix: str, max_labels: int) -> CacheCollector | None:
    """Report ``source`` on ``registry``; return the collector, which the cache leaves when it is closed.

    A failure, for example of the registry, is logged, and None is returned: metrics never stop the construction of a
    cache.

    Args:
        registry: A ``CollectorRegistry``; None means the default registry.
    """
    registry = REGISTRY if registry is None else registry
    try:
        with _COLLECTORS_LOCK:
            collectors = _COLLECTORS.setdefault(registry, {})
            collector = collectors.get(prefix)
            if collector is None:
                collector = CacheCollector(prefix, source.log)
                registry.register(collector)
                collectors[prefix] = collector
        collector.join(source, max_labels)
    except Exception as error:
        # The registry is the caller's object, and may raise any error.
        source.log.warning("cannot report the cache to Prometheus: %r", error)
        return None
    return collector
