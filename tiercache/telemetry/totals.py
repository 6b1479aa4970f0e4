"""Sums of counters over several caches, by metric and labels."""

from __future__ import annotations

from typing import TypeAlias

from ..engine.entries.counters import OTHER, OperationCounters
from . import names
from .names import Metric

__all__ = ["Labels", "ShownLabels", "Totals"]

Labels: TypeAlias = tuple[str, ...]


class Totals:
    """Sums of counters over caches.

    Attributes:
        counts: Value by labels, by ``Metric.name``.
        durations: Counters of operations by labels.
    """

    def __init__(self) -> None:
        self.counts: dict[str, dict[Labels, float]] = {}
        self.durations: dict[Labels, OperationCounters] = {}

    def count(self, metric: Metric, labels: Labels, value: float) -> None:
        """Add ``value`` to a counter."""
        counts = self.counts.setdefault(metric.name, {})
        counts[labels] = counts.get(labels, 0) + value

    def time(self, labels: Labels, timed: OperationCounters) -> None:
        """Add the calls, errors and durations of one operation."""
        self.durations.setdefault(labels, OperationCounters()).add(timed)
        self.count(names.OPERATION_ERRORS, labels, timed.errors)

    def copy_from(self, other: Totals) -> None:
        """Take over the sums of ``other``; this object must be empty."""
        for name, counts in other.counts.items():
            self.counts[name] = dict(counts)
        for labels, timed in other.durations.items():
            self.durations.setdefault(labels, OperationCounters()).add(timed)


class ShownLabels:
    """The labels of one tier that have their own series.

    The choice is final: a label without a series never gets one later, because then the series of ``OTHER_LABEL``
    would have to fall.

    Args:
        limit: Most labels with their own series.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._labels: dict[str, str] = {}

    def label(self, label: str) -> str:
        """Return the label under which ``label`` is shown: its own, or ``OTHER_LABEL``."""
        shown = self._labels.get(label)
        if shown is not None:
            return shown
        if label == OTHER or len(self._labels) >= self._limit:
            return names.OTHER_LABEL
        # A model's name may contain text that UTF-8 cannot encode, which would fail the whole scrape.
        shown = self._labels[label] = label.encode("utf-8", "replace").decode("utf-8")
        return shown
