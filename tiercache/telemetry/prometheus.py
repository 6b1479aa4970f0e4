"""Prometheus: one collector for each registry and prefix, which reads the caches' own counters when it is scraped.

Nothing happens when a cache is used. Counters are cumulative for a registry and cache name: what a cache has counted
stays in them when it is closed or collected, for a counter that goes down reads as a restart of the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..engine.entries.counters import DURATION_BOUNDS, OTHER, OperationCounters, TierCounters
from . import names
from .names import Metric
from .source import CacheSource

__all__ = ["CacheCollector", "report"]

_LOGGER: Final = logging.getLogger("tiercache")
_LES: Final = (*map(floatToGoString, DURATION_BOUNDS), "+Inf")

_Labels = tuple[str, ...]


class CacheCollector(Collector):
    """Reports all caches of one registry and prefix. It may be read from any thread."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._lock = Lock()
        self._members: list[_Member] = []
        self._ended = _Totals()
        self._shown: dict[_Labels, _Shown] = {}
        self._failure_logged = False

    def describe(self) -> Iterable[Family]:
        """Return nothing: names are not claimed in the registry.

        betterdb-agent-cache, where it finds one of its names claimed, takes the claimant for a metric of its own and
        fails when it counts. This also keeps a registry that describes by collecting from doing so.
        """
        return ()

    def collect(self) -> Iterable[Family]:
        """Return all metrics as they stand."""
        try:
            with self._lock:
                totals, gauges = self._read()
            return self._families(totals, gauges)
        except Exception as error:
            # A defect here must not take the other metrics of the registry with it.
            self._log_failure(error)
            return ()

    def join(self, source: CacheSource, max_labels: int) -> None:
        """Report ``source`` until it leaves or is collected. The first cache of a name says how many labels it has."""
        with self._lock:
            self._forget_collected()
            self._members.append(_Member(source, max_labels))

    def leave(self, source: CacheSource) -> None:
        """Take down what ``source`` has counted, and report it no more. Does nothing the second time."""
        try:
            with self._lock:
                for member in [member for member in self._members if member.source() is source]:
                    self._members.remove(member)
                    self._add(member, self._ended)
        except Exception as error:
            # As in ``collect``; closing a cache must not fail.
            self._log_failure(error)

    def _read(self) -> tuple[_Totals, dict[str, dict[_Labels, float]]]:
        self._forget_collected()
        totals = _Totals()
        totals.add(self._ended)
        gauges: dict[str, dict[_Labels, float]] = {metric.name: {} for metric in names.CACHE_GAUGES}
        for member in self._members:
            self._add(member, totals)
            source = member.source()
            if source is not None:
                for name, values in gauges.items():
                    value = self._call(source.gauges, name, 0)
                    values[(member.name,)] = values.get((member.name,), 0) + value
        return totals, gauges

    def _forget_collected(self) -> None:
        """Keep the counts of caches that were garbage-collected without being closed."""
        for member in [member for member in self._members if member.source() is None]:
            self._members.remove(member)
            self._add(member, self._ended)

    def _add(self, member: _Member, totals: _Totals) -> None:
        name = member.name
        for policy in member.tiers:
            tier = policy.tier
            total = TierCounters()
            shown = self._shown.setdefault((name, tier), _Shown(member.max_labels))
            for label, counters in policy.counters.items():
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
        for operation, timed in member.operations.snapshot().items():
            tier, _, method = operation.rpartition(".")
            totals.time((name, tier, method), timed)
        source = member.source()
        for metric in names.CACHE_COUNTERS:
            if source is not None:
                member.counted[metric.name] = self._call(
                    source.counters, metric.name, member.counted.get(metric.name, 0)
                )
            totals.count(metric, (name,), member.counted.get(metric.name, 0))

    @staticmethod
    def _add_requests(totals: _Totals, of: _Labels, counters: TierCounters, *, tool: str) -> None:
        totals.count(names.REQUESTS, (*of, "hit", tool), counters.l1_hits + counters.l2_hits)
        totals.count(names.REQUESTS, (*of, "miss", tool), counters.misses)

    def _call(self, functions: Mapping[str, Callable[[], float]], name: str, otherwise: float) -> float:
        function = functions.get(name)
        if function is None:
            return otherwise
        try:
            return function()
        except Exception as error:
            # The part of the cache that has the number is broken; the others are still told.
            self._log_failure(error)
            return otherwise

    def _families(self, totals: _Totals, gauges: dict[str, dict[_Labels, float]]) -> list[Family]:
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

    def _log_failure(self, error: Exception) -> None:
        if not self._failure_logged:
            self._failure_logged = True
            _LOGGER.warning("Prometheus metrics could not be read (said once): %r", error)


class _Member:
    """A cache that is reported. It holds the counters, which are small, and not the cache."""

    def __init__(self, source: CacheSource, max_labels: int) -> None:
        self.source = ref(source)
        self.name = source.name
        self.tiers = source.tiers
        self.operations = source.operations
        self.max_labels = max_labels
        # What its functions returned last: all there is of them once the cache is gone.
        self.counted: dict[str, float] = {}


class _Shown:
    """The labels that are shown by themselves. One that is not shown never will be: neither count goes down."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._labels: dict[str, str] = {}

    def label(self, label: str) -> str:
        shown = self._labels.get(label)
        if shown is not None:
            return shown
        if label == OTHER or len(self._labels) >= self._limit:
            return names.OTHER_LABEL
        # A model's name may hold what UTF-8 cannot, which would fail the whole scrape.
        shown = self._labels[label] = label.encode("utf-8", "replace").decode("utf-8")
        return shown


class _Totals:
    """Sums over caches."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[_Labels, float]] = {}
        self.durations: dict[_Labels, OperationCounters] = {}

    def count(self, metric: Metric, labels: _Labels, value: float) -> None:
        counts = self.counts.setdefault(metric.name, {})
        counts[labels] = counts.get(labels, 0) + value

    def time(self, labels: _Labels, timed: OperationCounters) -> None:
        self.durations.setdefault(labels, OperationCounters()).add(timed)
        self.count(names.OPERATION_ERRORS, labels, timed.errors)

    def add(self, other: _Totals) -> None:
        for name, counts in other.counts.items():
            self.counts[name] = dict(counts)
        for labels, timed in other.durations.items():
            self.durations.setdefault(labels, OperationCounters()).add(timed)


def _histogram(name: str, metric: Metric, durations: Mapping[_Labels, OperationCounters]) -> Family:
    family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    for labels, timed in durations.items():
        below = 0
        buckets: list[tuple[str, float]] = []
        for le, count in zip(_LES, timed.buckets, strict=True):
            below += count
            buckets.append((le, below))
        family.add_metric(labels, buckets, timed.seconds)
    return family


# A registry is not kept alive: a collector knows nothing of its registry.
_COLLECTORS: Final[WeakKeyDictionary[Any, dict[str, CacheCollector]]] = WeakKeyDictionary()
_COLLECTORS_LOCK: Final = Lock()


def report(source: CacheSource, *, registry: Any, prefix: str, max_labels: int) -> CacheCollector | None:
    """Report ``source`` on ``registry`` (None: the default one); return the collector, to leave when it is closed.

    A registry that refuses is logged, and then there is no collector: metrics never stop a cache from being made.
    """
    registry = REGISTRY if registry is None else registry
    try:
        with _COLLECTORS_LOCK:
            collectors = _COLLECTORS.setdefault(registry, {})
            collector = collectors.get(prefix)
            if collector is None:
                collector = CacheCollector(prefix)
                registry.register(collector)
                collectors[prefix] = collector
        collector.join(source, max_labels)
    except Exception as error:
        # The registry is the caller's, and may be anything.
        _LOGGER.warning("Cache %r is not reported to Prometheus: %r", source.name, error)
        return None
    return collector
