"""The multiprocess mode of prometheus_client: the files by which one scrape shows the metrics of all worker processes.

With PROMETHEUS_MULTIPROC_DIR each process keeps its numbers in files of its own, and MultiProcessCollector adds
up the files of all processes, of ended ones too. prometheus_client leaves out custom collectors in this mode. So a
thread copies the numbers of the collectors of this process to its files, once a second, when a cache is closed and when
the process ends. Without the mode there is neither a thread nor a file.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextvars import Context
from threading import Event, Lock, Thread
from typing import Any, Final, NamedTuple

from prometheus_client import values
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from ..log import CacheLog

__all__ = ["ProcessFiles", "process_files"]

_SECONDS: Final = 1.0
_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


class _Key(NamedTuple):
    """One number in the files.

    Attributes:
        kind: counter, gauge or histogram.
        family: The name of its metric without suffix, and ``help`` its text.
        name: The name of the sample.
        labels: Pairs of name and value.
    """

    kind: str
    family: str
    help: str
    name: str
    labels: tuple[tuple[str, str], ...]


class ProcessFiles:
    """The files of this process, and the collectors whose numbers they have."""

    def __init__(self) -> None:
        # Strong references: the counters in the files must not fall when a registry is collected as garbage.
        self._collectors: list[Collector] = []
        self._values: dict[_Key, tuple[Any, float]] = {}
        self._pid: int | None = None
        self._lock = Lock()
        self._log: CacheLog | None = None

    def start(self, collector: Collector, log: CacheLog) -> None:
        """Copy the numbers of ``collector`` to the files from now on, also after a fork.

        Args:
            log: Takes a failure to write the files.
        """
        self._log = log
        if collector not in self._collectors:
            self._collectors.append(collector)
        if self._pid == os.getpid():
            return
        # This process is new, or a fork: the thread of the parent does not run here, and the parent has counted the
        # calls up to now.
        inherits = self._pid is not None
        self._pid = os.getpid()
        self._values.clear()
        self.write(inherits=inherits)
        # In an empty context, because the caller's context would live as long as the thread.
        Context().run(Thread(target=self._keep_writing, name="tiercache-metrics", daemon=True).start)

    def write(self, *, inherits: bool = False) -> None:
        """Copy the present numbers to the files.

        Args:
            inherits: Whether the present counts are in the files of the parent process.
        """
        if self._pid != os.getpid():
            return
        try:
            with self._lock:
                self._write(inherits)
        except Exception as error:
            # The folder may be missing or full. The metrics of this process are then incomplete; the cache works.
            if self._log is not None:
                self._log.warn_once("cannot write the metrics to PROMETHEUS_MULTIPROC_DIR: %r", error)

    def _write(self, inherits: bool) -> None:
        totals: Counter[_Key] = Counter()
        for collector in self._collectors:
            for family in collector.collect():
                for key, value in _numbers(family):
                    totals[key] += value  # type: ignore[assignment]
        for key, total in totals.items():
            value, offset = self._value(key, total if inherits else 0.0)
            value.set(total + offset)
        for key in [key for key in self._values if key.kind == "gauge" and key not in totals]:
            self._values[key][0].set(0.0)  # The cache was closed.

    def _value(self, key: _Key, inherited: float) -> tuple[Any, float]:
        made = self._values.get(key)
        if made is None:
            names, texts = [name for name, _ in key.labels], [text for _, text in key.labels]
            value = values.ValueClass(
                key.kind, key.family, key.name, names, texts, key.help, multiprocess_mode="livesum"
            )
            # An ended process with the same id may have left a count, which goes on as with the metrics of
            # prometheus_client.
            offset = 0.0 if key.kind == "gauge" else value.get() - inherited
            made = self._values[key] = value, offset
        return made

    def _keep_writing(self) -> None:
        pause = Event()
        while not pause.wait(_SECONDS):
            self.write()

    def end(self) -> None:
        """Write the last numbers as the process ends."""
        self.write()

    def protect_forks(self) -> None:
        """Let no process fork while the thread holds a lock, which the child could never take."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
            )


def _numbers(family: Family) -> Iterator[tuple[_Key, float]]:
    """Yield the numbers of ``family`` as the files have them: buckets are not cumulative, and there is no count."""
    series: Iterable[tuple[str, str]] | None = None
    below = 0.0
    for sample in family.samples:
        labels, value = tuple(sample.labels.items()), sample.value
        if family.type == "histogram":
            if sample.name.endswith("_count"):
                continue
            if sample.name.endswith("_bucket"):
                of = tuple(pair for pair in labels if pair[0] != "le")
                if of != series:
                    series, below = of, 0.0
                value, below = value - below, value
        yield _Key(family.type, family.name, family.documentation, sample.name, labels), value


_FILES: Final = ProcessFiles()
_FILES.protect_forks()
atexit.register(_FILES.end)


def process_files(log: CacheLog) -> ProcessFiles | None:
    """Return the files of this process, or None without the multiprocess mode."""
    if getattr(values.ValueClass, "_multiprocess", False):
        return _FILES
    if _VARIABLE in os.environ:
        log.warn_once(
            "PROMETHEUS_MULTIPROC_DIR was set after prometheus_client was imported: a scrape shows this process alone"
        )
    return None
