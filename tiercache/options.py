"""The options of a cache: frozen dataclasses, one for each concern, checked when they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from .errors import UsageError
from .option_checks import check_choice, check_counts, check_seconds, take_timedelta
from .text import shown

__all__ = [
    "LONGEST_LEASE_SECONDS",
    "CoherenceOptions",
    "ConnectionOptions",
    "DiscoveryOptions",
    "L1Options",
    "ResilienceOptions",
    "TelemetryOptions",
    "TrackingMode",
    "WriteMode",
    "WriteOptions",
]

# The longest life of a placeholder that other processes believe.
LONGEST_LEASE_SECONDS: Final = 60.0

TrackingMode: TypeAlias = Literal["auto", "interest", "broadcast", "off"]
WriteMode: TypeAlias = Literal["await", "behind"]

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True, slots=True)
class L1Options:
    """Bounds of L1, the process memory that all tiers of a cache share.

    Args:
        max_entries: Most entries in L1; beyond it L1 evicts the least recently used entry.
        max_bytes: Most memory, in bytes, for keys, values and bookkeeping together. L1 does not keep a value that is
            larger by itself; callers get the value all the same.
    """

    max_entries: int = 10_000
    max_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        check_counts(self, "max_entries", "max_bytes")


@dataclass(frozen=True, slots=True)
class CoherenceOptions:
    """How the L1 of each process follows the changes of the other processes.

    Args:
        max_staleness: Seconds after the acknowledgement of an invalidation from which no process returns the older
            value from L1, even if the connection that announces changes fails. Without an answer from Valkey, L1 serves
            an entry for this time after the entry was loaded or read.
        tracking: Which changes Valkey reports to this process (``CLIENT TRACKING``). "interest": those of the keys that
            this process has read or written. "broadcast": those of all keys of the cache. Opening the cache fails with
            L2CommandError if the server does not allow the chosen kind. "auto": by interest, else by broadcast, else
            none, as the server allows. "off": none. Without reports, a change by other software than tiercache is seen
            after ``TierOptions.l1_ttl`` at the latest.
        lease_ttl: Seconds, at most 60, that a lease lives unless its holder renews it, which the holder does while it
            loads. Other processes wait for this time at most for a process that has died.
        lease_wait: Most seconds that a load waits for the lease of another process. Then it loads by itself, and its
            value is not stored in Valkey. None: as long as the holder renews the lease.
        stream_wait: Most seconds that a streamed call of a wrapped client, or a reader of a cached generator, waits
            for the first part of the same stream in another process. Then it makes a stream of its own, which is not
            stored in Valkey; 0 does so at once. None: as long as the other process renews its lease.
    """

    max_staleness: float = 3.0
    tracking: TrackingMode = "auto"
    lease_ttl: float = 10.0
    lease_wait: float | None = None
    stream_wait: float | None = None

    def __post_init__(self) -> None:
        take_timedelta(self, "lease_ttl")
        check_seconds(self, "max_staleness", "lease_ttl")
        if self.lease_ttl > LONGEST_LEASE_SECONDS:
            raise UsageError(
                f"CoherenceOptions.lease_ttl must be a number of seconds above 0, at most {LONGEST_LEASE_SECONDS:.0f}: "
                "a lease needs no longer life, because its holder renews it"
            )
        check_seconds(self, "lease_wait", optional=True)
        if self.stream_wait != 0:
            check_seconds(self, "stream_wait", optional=True)
        check_choice(self, "tracking", "auto", "interest", "broadcast", "off")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How the cache connects to Valkey.

    Args:
        multiplexed: Whether all reads of a process share one connection, with many reads in flight at once. If False,
            and with a client that has a connection class of its own, each read uses a connection of valkey-py's pool.
    """

    multiplexed: bool = True


@dataclass(frozen=True, slots=True)
class DiscoveryOptions:
    """Whether BetterDB Monitor finds the cache.

    Args:
        enabled: Whether the cache registers itself under ``__betterdb:caches`` and keeps a heartbeat.
    """

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ResilienceOptions:
    """Deadlines, limits and the breaker.

    Args:
        l2_timeout: Seconds without a byte after which an exchange with Valkey is broken off and Valkey counts as
            unavailable. A large value over a slow link may take longer: each byte that arrives moves the deadline.
        breaker_failures: Failures in a row after which the breaker opens: lookups then skip Valkey.
        breaker_pause: Seconds between two PINGs that ask Valkey while the breaker is open, to see whether Valkey
            answers again.
        load_timeout: Seconds that one load may take; then every waiter gets ``TimeoutError``. None: no limit.
        max_loads: Most loads that run at once in this process; further loads wait for a slot. A load that is started
            from within a load does not count. None: no limit.
        drain_timeout: Seconds for which closing waits for loads and writes in flight.
        serve_untrusted: Seconds by which L1 may exceed ``CoherenceOptions.max_staleness`` while Valkey is unavailable:
            it then serves an entry that it no longer trusts as ``source="stale"``, and the cache does not load it
            again.
    """

    l2_timeout: float = 0.25
    breaker_failures: int = 5
    breaker_pause: float = 1.0
    load_timeout: float | None = None
    max_loads: int | None = None
    drain_timeout: float = 5.0
    serve_untrusted: float = 0.0

    def __post_init__(self) -> None:
        check_seconds(self, "l2_timeout", "breaker_pause", "drain_timeout")
        check_seconds(self, "load_timeout", optional=True)
        if self.serve_untrusted != 0:
            check_seconds(self, "serve_untrusted")
        check_counts(self, "breaker_failures")
        check_counts(self, "max_loads", optional=True)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How the cache writes values to Valkey.

    Args:
        mode: When a ``store`` of the llm and tool tiers returns. "await": when Valkey has acknowledged the write.
            "behind" (write-behind): when the write is queued. This process then reads the queued value; a write that
            does not reach Valkey is counted as ``write_errors``; a process that dies loses up to ``max_ops`` stores.
            All other writes, also of sessions, and all invalidations wait for the acknowledgement in either mode.
        max_delay: Most seconds that a write-behind store waits for other stores to share a round trip.
        max_ops: Most writes in one round trip. As many waiting write-behind stores are sent at once. Also the most
            write-behind stores without an acknowledgement; the next store waits.
        max_bytes: Most bytes in one round trip; as many waiting bytes are sent at once. A larger value goes alone.
        max_queue_bytes: Most bytes that wait to be written. Beyond it the cache drops loaded values and counts them,
            and explicit stores wait. Invalidations never wait.
    """

    mode: WriteMode = "await"
    max_delay: float = 0.005
    max_ops: int = 100
    max_bytes: int = 4 * 1024 * 1024
    max_queue_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        check_choice(self, "mode", "await", "behind")
        check_seconds(self, "max_delay")
        check_counts(self, "max_ops", "max_bytes", "max_queue_bytes")


class _Registry(Protocol):
    """A ``prometheus_client.CollectorRegistry``, which this module does not import."""

    def register(self, collector: Any) -> None: ...


class _TracerProvider(Protocol):
    """An ``opentelemetry.trace.TracerProvider``, which this module does not import."""

    def get_tracer(self, instrumenting_module_name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class TelemetryOptions:
    """Metrics for Prometheus and spans for OpenTelemetry.

    Args:
        metrics: Whether the cache reports metrics to Prometheus.
        registry: The ``prometheus_client.CollectorRegistry`` for the metrics; None takes the default registry.
        metrics_prefix: The prefix of the names of the metrics.
        tracing: Whether operations make spans, if an OpenTelemetry SDK is configured when the cache opens.
        tracer_name: The name of the tracer. BetterDB Monitor shows spans of tracers whose names begin with
            ``@betterdb/``.
        tracer_provider: The ``opentelemetry.trace.TracerProvider`` that gives the tracer; None takes the global one.
        max_labels: Most tools, and most models, with a label of their own; the other ones share the label ``other``.
            The first cache of a name decides for all caches of that name.
    """

    metrics: bool = True
    registry: _Registry | None = None
    metrics_prefix: str = "agent_cache"
    tracing: bool = True
    tracer_name: str = "@betterdb/agent-cache"
    tracer_provider: _TracerProvider | None = None
    max_labels: int = 200

    def __post_init__(self) -> None:
        if self.registry is not None and not callable(getattr(self.registry, "register", None)):
            raise UsageError(f"TelemetryOptions.registry must be a CollectorRegistry, not {self.registry!r}")
        if not isinstance(self.metrics_prefix, str) or not _METRIC_NAME.fullmatch(self.metrics_prefix):
            raise UsageError(
                f"TelemetryOptions.metrics_prefix must be letters, digits, _ and :, not {shown(self.metrics_prefix)}"
            )
        if not isinstance(self.tracer_name, str) or not self.tracer_name:
            raise UsageError(f"TelemetryOptions.tracer_name must be a name, not {shown(self.tracer_name)}")
        if self.tracer_provider is not None and not callable(getattr(self.tracer_provider, "get_tracer", None)):
            raise UsageError(f"TelemetryOptions.tracer_provider must be a TracerProvider, not {self.tracer_provider!r}")
        check_counts(self, "max_labels")
