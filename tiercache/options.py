"""The options of a cache: small frozen dataclasses, one a concern, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from .errors import UsageError
from .ttl import Ttl, check_ttl

__all__ = [
    "CoherenceOptions",
    "ConnectionOptions",
    "DiscoveryOptions",
    "L1Options",
    "LlmOptions",
    "OnAbandon",
    "ResilienceOptions",
    "SessionOptions",
    "TelemetryOptions",
    "TierOptions",
    "TrackingMode",
    "WriteMode",
    "WriteOptions",
]

_LONGEST_SECONDS: Final = 100 * 365 * 86_400

OnAbandon: TypeAlias = Literal["cancel", "finish"]
TrackingMode: TypeAlias = Literal["auto", "on", "off"]
WriteMode: TypeAlias = Literal["await", "behind"]

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True, slots=True)
class _EntryOptions:
    """The options that every tier takes; ``TierOptions`` describes them."""

    ttl: Ttl | None = None
    l1: bool = True
    l1_ttl: float | None = 30.0
    _: KW_ONLY
    on_abandon: OnAbandon | None = None
    max_value_bytes: int | None = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if self.ttl is not None:
            check_ttl(self.ttl, f"{kind}.ttl")
        if self.l1_ttl is not None:
            _check_seconds(self.l1_ttl, f"{kind}.l1_ttl")
        if self.on_abandon not in (None, "cancel", "finish"):
            raise UsageError(f"{kind}.on_abandon must be 'cancel' or 'finish', not {self.on_abandon!r}")
        if self.max_value_bytes is not None:
            _check_count(self.max_value_bytes, f"{kind}.max_value_bytes")


@dataclass(frozen=True, slots=True)
class TierOptions(_EntryOptions):
    """How a tier keeps its entries: the tool and kv tiers, and the llm tier where ``LlmOptions`` are not needed.

    Args:
        ttl: Lifetime in Valkey: seconds (float), a string such as ``"90s"``, ``"1h30m"``, ``"7d"``, or
            ``NO_EXPIRY``. None takes the cache's ``default_ttl``.
        l1: Whether L1 keeps the entries too.
        l1_ttl: Longest life of a copy in L1, in seconds; None sets no limit of its own. It bounds how long a change
            made by another process can stay unseen, so a cache without Valkey ignores it.
        on_abandon: The end of a load whose last waiter has been cancelled: ``"cancel"`` it, or let it ``"finish"``
            and be stored. None takes the tier's own default (``"finish"`` for llm, whose tokens are paid).
        max_value_bytes: Most bytes that an entry may have, as it lies in Valkey and before it is compressed; None
            sets no limit. A larger loaded value is handed out, counted and stored nowhere; an explicit write of a
            larger value is refused; a larger entry of another process is a miss.
        lease: Whether a load takes a lease in Valkey first, so that one process loads a key at a time, and Valkey
            refuses a load that an invalidation by any process has overtaken. Without a lease both hold within one
            process. Sessions and caches without Valkey have no leases.
        jitter: Fraction, 0 to 1, by which a lifetime is shortened at random, so that entries written together
            do not expire together. An explicit ``NO_EXPIRY`` stays.
        store_when: Called with the loader's result, for llm an LlmResponse. Where it returns False, the result goes to
            its waiters and is stored nowhere, such as an answer that was cut off. An exception counts as False, and is
            logged.
        compress_above: Entries of more bytes are compressed in Valkey (zstd), where that makes them smaller; None
            compresses none. Only tiercache can read compressed entries. Needs the ``compress`` extra.
    """

    lease: bool = field(default=True, kw_only=True)
    jitter: float = field(default=0.0, kw_only=True)
    store_when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    compress_above: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # By name: a dataclass with slots is a second class, which ``super()`` does not know.
        _EntryOptions.__post_init__(self)
        kind = type(self).__name__
        if not _is_number(self.jitter) or not 0 <= self.jitter < 1:
            raise UsageError(f"{kind}.jitter must be a fraction from 0 to below 1, not {self.jitter!r}")
        if self.store_when is not None and not callable(self.store_when):
            raise UsageError(f"{kind}.store_when must be callable, not {type(self.store_when).__name__}")
        if self.compress_above is not None:
            _check_count(self.compress_above, f"{kind}.compress_above")


@dataclass(frozen=True, slots=True)
class LlmOptions(TierOptions):
    """How the llm tier keeps its entries, and which request parameters make a key.

    Args:
        ignore: Names of request parameters that do not take part in the key.
        key: Maps the request parameters to the parameters that make the key: two requests that it maps to the same
            parameters share an entry. Must return a new mapping. Applied after ``ignore``.

    The other arguments are those of ``TierOptions``.
    """

    ignore: tuple[str, ...] = field(default=(), kw_only=True)
    key: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        TierOptions.__post_init__(self)
        object.__setattr__(self, "ignore", _names(self.ignore))
        if self.key is not None and not callable(self.key):
            raise UsageError(f"LlmOptions.key must be callable, not {type(self.key).__name__}")


@dataclass(frozen=True, slots=True)
class SessionOptions(_EntryOptions):
    """How the session tier keeps its fields.

    The arguments are those of ``TierOptions`` of the same names. ``ttl`` is the window of a field, which each read
    starts again. Sessions read values of any size.
    """


@dataclass(frozen=True, slots=True)
class L1Options:
    """Bounds of the process memory that all tiers of a cache share.

    Args:
        max_entries: Most entries kept; the least recently used one goes first.
        max_bytes: Most memory, in bytes, that keys, values and bookkeeping together may take. A value that is
            larger by itself is served, but not kept in memory.
    """

    max_entries: int = 10_000
    max_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes"):
            _check_count(getattr(self, name), f"L1Options.{name}")


@dataclass(frozen=True, slots=True)
class CoherenceOptions:
    """How the process memories of a fleet follow each other.

    Args:
        max_staleness: Seconds after an invalidation was acknowledged from which no process returns the older value from
            its memory, whatever happens to the connection that tells it. Without word from Valkey an entry is served
            from memory for so long after it was loaded or read.
        tracking: Whether Valkey tells of changes that others than tiercache make (``CLIENT TRACKING``): "auto" where
            the server allows it, "on" or opening fails with L2CommandError, "off" not at all. Without it such a change
            is seen after ``TierOptions.l1_ttl`` at the latest.
        lease_ttl: Seconds that a lease lives unless it is renewed, which its holder does as long as it loads. So long
            others wait for a process that has died.
        lease_wait: Most seconds that a load waits for another process's lease; then it loads by itself, and what it
            loads is not stored in Valkey. None: as long as the lease is renewed.
    """

    max_staleness: float = 3.0
    tracking: TrackingMode = "auto"
    lease_ttl: float = 10.0
    lease_wait: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_staleness", "lease_ttl"):
            _check_seconds(getattr(self, name), f"CoherenceOptions.{name}")
        if self.lease_wait is not None:
            _check_seconds(self.lease_wait, "CoherenceOptions.lease_wait")
        if self.tracking not in ("auto", "on", "off"):
            raise UsageError(f"CoherenceOptions.tracking must be 'auto', 'on' or 'off', not {self.tracking!r}")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How Valkey is spoken to.

    Args:
        multiplexed: Whether all reads of a process share one connection, on which many are under way at once. Without,
            and with a client whose connections are of a class of its own, each has a connection of valkey-py's pool
            while it lasts.
    """

    multiplexed: bool = True


@dataclass(frozen=True, slots=True)
class DiscoveryOptions:
    """Whether BetterDB Monitor finds the cache.

    Args:
        enabled: Register under ``__betterdb:caches`` and keep a heartbeat.
    """

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ResilienceOptions:
    """How long the cache waits, and for what.

    Args:
        l2_timeout: Seconds that one exchange with Valkey may take before Valkey counts as unavailable.
        breaker_failures: After so many failures in a row lookups no longer ask Valkey,
        breaker_pause: ... except once in so many seconds, to see whether it is back.
        load_timeout: Seconds that one load may take; then every waiter gets ``TimeoutError``. None: no limit.
        max_loads: Most loads that run at once in this process; further ones wait their turn. A load that is
            started from within a load does not count. None: no limit.
        drain_timeout: Seconds that closing waits for loads and writes under way.
        serve_untrusted: Seconds by which ``CoherenceOptions.max_staleness`` is exceeded while Valkey does not answer:
            what is older than it may be is then served as ``source="stale"`` instead of loaded anew.
    """

    l2_timeout: float = 0.25
    breaker_failures: int = 5
    breaker_pause: float = 1.0
    load_timeout: float | None = None
    max_loads: int | None = None
    drain_timeout: float = 5.0
    serve_untrusted: float = 0.0

    def __post_init__(self) -> None:
        for name in ("l2_timeout", "breaker_pause", "drain_timeout"):
            _check_seconds(getattr(self, name), f"ResilienceOptions.{name}")
        if self.serve_untrusted != 0:
            _check_seconds(self.serve_untrusted, "ResilienceOptions.serve_untrusted")
        if self.load_timeout is not None:
            _check_seconds(self.load_timeout, "ResilienceOptions.load_timeout")
        _check_count(self.breaker_failures, "ResilienceOptions.breaker_failures")
        if self.max_loads is not None:
            _check_count(self.max_loads, "ResilienceOptions.max_loads")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How values are written to Valkey.

    Args:
        mode: When a ``store`` of the llm and tool tiers returns: "await" when Valkey has acknowledged it, "behind" when
            it is queued. What is queued is what this process reads; if it does not reach Valkey that is counted as
            ``write_errors``, and a process that dies loses up to ``max_ops`` stores. Everything else, sessions and
            invalidations too, always waits for the acknowledgement.
        max_delay: Seconds that a store behind waits at most for others to share a round trip with.
        max_ops: Most writes in one round trip; so many stores behind do not wait any longer. Also the most of them that
            are unacknowledged at a time: a further one waits.
        max_bytes: Most bytes in one round trip, likewise; a larger value goes alone.
        max_queue_bytes: Most bytes that wait to be written. Beyond it loaded values are dropped and counted, and
            explicit stores wait. Invalidations are never held up.
    """

    mode: WriteMode = "await"
    max_delay: float = 0.005
    max_ops: int = 100
    max_bytes: int = 4 * 1024 * 1024
    max_queue_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.mode not in ("await", "behind"):
            raise UsageError(f"WriteOptions.mode must be 'await' or 'behind', not {self.mode!r}")
        _check_seconds(self.max_delay, "WriteOptions.max_delay")
        for name in ("max_ops", "max_bytes", "max_queue_bytes"):
            _check_count(getattr(self, name), f"WriteOptions.{name}")


class _Registry(Protocol):
    """A ``prometheus_client.CollectorRegistry``, of which this module knows nothing."""

    def register(self, collector: Any) -> None: ...


class _TracerProvider(Protocol):
    """An ``opentelemetry.trace.TracerProvider``, likewise."""

    def get_tracer(self, instrumenting_module_name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class TelemetryOptions:
    """What is shown to Prometheus and OpenTelemetry.

    Args:
        metrics: Whether the cache is reported to Prometheus.
        registry: The ``prometheus_client.CollectorRegistry`` to report to; None: the default one.
        metrics_prefix: What the names of the metrics begin with.
        tracing: Whether operations make spans, where an OpenTelemetry SDK is configured when the cache opens.
        tracer_name: The name of the tracer. BetterDB Monitor shows spans of tracers that begin with ``@betterdb/``.
        tracer_provider: The ``opentelemetry.trace.TracerProvider`` to get it from; None: the global one.
        max_labels: Most tools, and most models, that are shown by name; the others are added up as ``other``. The
            first cache of a name decides for all that report under it.
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
                f"TelemetryOptions.metrics_prefix must be letters, digits, _ and :, not {self.metrics_prefix!r}"
            )
        if not isinstance(self.tracer_name, str) or not self.tracer_name:
            raise UsageError(f"TelemetryOptions.tracer_name must be a name, not {self.tracer_name!r}")
        if self.tracer_provider is not None and not callable(getattr(self.tracer_provider, "get_tracer", None)):
            raise UsageError(f"TelemetryOptions.tracer_provider must be a TracerProvider, not {self.tracer_provider!r}")
        _check_count(self.max_labels, "TelemetryOptions.max_labels")


def _names(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise UsageError(f"LlmOptions.ignore must be a sequence of parameter names, not {value!r}")
    return names


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_seconds(value: float, name: str) -> None:
    if not _is_number(value) or not 0 < value <= _LONGEST_SECONDS:
        raise UsageError(f"{name} must be a number of seconds above 0, at most 100 years")


def _check_count(value: int, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be a whole number above 0, not {value!r}")
