"""The options of a cache: frozen dataclasses, one for each concern, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias

from .errors import UsageError
from .text import shown
from .ttl import Ttl, check_ttl

__all__ = [
    "LONGEST_LEASE_SECONDS",
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
# The longest life of a placeholder that other processes believe.
LONGEST_LEASE_SECONDS: Final = 60.0

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
        if self.ttl is not None:
            check_ttl(self.ttl, f"{type(self).__name__}.ttl")
        if self.on_abandon is not None:
            _check_choice(self, "on_abandon", "cancel", "finish")
        _take_timedelta(self, "l1_ttl")
        _check_seconds(self, "l1_ttl", optional=True)
        _check_counts(self, "max_value_bytes", optional=True)


@dataclass(frozen=True, slots=True)
class TierOptions(_EntryOptions):
    """How a tier keeps its entries: the tool and kv tiers, and the llm tier if ``LlmOptions`` are not needed.

    Args:
        ttl: Lifetime in Valkey: seconds (float), a string such as ``"90s"``, ``"1h30m"``, ``"7d"``, or
            ``NO_EXPIRY``. None takes the cache's ``default_ttl``.
        l1: Whether L1 keeps the entries too.
        l1_ttl: Longest life of a copy in L1, in seconds; None sets no limit of its own. This option bounds how long
            a change made by another process can stay unseen, so a cache without Valkey ignores it.
        on_abandon: The end of a load whose last waiter was cancelled: ``"cancel"`` cancels the load, ``"finish"`` lets
            it end and stores the value. None takes the tier's default: ``"finish"`` for llm, because the tokens of a
            model call are paid for, and ``"cancel"`` for the other tiers.
        max_value_bytes: Most bytes of an entry in Valkey, before compression; None sets no limit. A larger loaded value
            goes to its waiters, is counted and is stored nowhere; an explicit write of a larger value is refused; a
            larger entry of another process is a miss.
        lease: Whether a load takes a lease in Valkey first, so that one process at a time loads a key, and Valkey
            refuses the value of a load that an invalidation by any process has overtaken. Without a lease both hold
            within one process only. Sessions and caches without Valkey have no leases.
        jitter: Fraction, 0 to below 1, by which the cache shortens a lifetime at random, so that entries written
            together do not expire together. An explicit ``NO_EXPIRY`` stays.
        store_when: Called with the loader's result, for llm an LlmResponse. If it returns False, the result goes to its
            waiters and is stored nowhere: for example an answer that was cut off. An exception counts as False, and is
            logged once.
        threads: Whether plain loaders, batch functions included, run in threads (``asyncio.to_thread``), so that a
            blocking loader does not block the event loop. Async loaders run on the event loop in any case.
        compress_above: Entries of more bytes are compressed in Valkey (zstd), if that makes them smaller. None
            compresses none, except exchanges of wrapped clients above 1,024 bytes, where zstd is installed. Only
            tiercache can read compressed entries. Needs the ``compress`` extra.
    """

    lease: bool = field(default=True, kw_only=True)
    jitter: float = field(default=0.0, kw_only=True)
    store_when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    threads: bool = field(default=False, kw_only=True)
    compress_above: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # Not by super(): slots make the decorator return a second class, which super() does not know.
        _EntryOptions.__post_init__(self)
        if not _is_number(self.jitter) or not 0 <= self.jitter < 1:
            kind = type(self).__name__
            raise UsageError(f"{kind}.jitter must be a fraction from 0 to below 1, not {shown(self.jitter)}")
        _check_functions(self, "store_when")
        _check_counts(self, "compress_above", optional=True)


@dataclass(frozen=True, slots=True)
class LlmOptions(TierOptions):
    """How the llm tier keeps its entries, and which request parameters make a key.

    Args:
        ignore: Names of request parameters that do not take part in the key.
        key: A function from the request parameters to the parameters that make the key: requests with equal results
            share an entry. Must return a new mapping. Applied after ``ignore``.

    Calls of wrapped clients have keys of their own, without ``ignore`` and ``key``.
    The other arguments are those of ``TierOptions``.
    """

    ignore: tuple[str, ...] = field(default=(), kw_only=True)
    key: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        TierOptions.__post_init__(self)
        object.__setattr__(self, "ignore", _names(self.ignore))
        _check_functions(self, "key")


@dataclass(frozen=True, slots=True)
class SessionOptions(_EntryOptions):
    """How the session tier keeps its fields.

    The arguments are those of ``TierOptions`` with the same names. ``ttl`` is the window of a field, which each read
    restarts. ``max_value_bytes`` bounds the values that are written; sessions read values of any size.

    The same options apply to checkpoints, the states of graphs: a thread lives for ``ttl`` after its last write.
    """


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
        _check_counts(self, "max_entries", "max_bytes")


@dataclass(frozen=True, slots=True)
class CoherenceOptions:
    """How the L1 of each process follows the changes of the other processes.

    Args:
        max_staleness: Seconds after the acknowledgement of an invalidation from which no process returns the older
            value from L1, even if the connection that announces changes fails. Without an answer from Valkey, L1 serves
            an entry for this time after the entry was loaded or read.
        tracking: Whether Valkey reports changes by other software than tiercache (``CLIENT TRACKING``). "auto": if the
            server allows it. "on": opening the cache fails with L2CommandError if the server does not. "off": never.
            Without tracking, such a change is seen after ``TierOptions.l1_ttl`` at the latest.
        lease_ttl: Seconds, at most 60, that a lease lives unless its holder renews it, which the holder does while it
            loads. Other processes wait for this time at most for a process that has died.
        lease_wait: Most seconds that a load waits for the lease of another process. Then it loads by itself, and its
            value is not stored in Valkey. None: as long as the holder renews the lease.
        stream_wait: Most seconds that a streamed call of a wrapped client waits for the first part of the same stream
            in another process. Then it makes a stream of its own, which is not stored in Valkey; 0 does so at once.
            None: as long as the other process renews its lease.
    """

    max_staleness: float = 3.0
    tracking: TrackingMode = "auto"
    lease_ttl: float = 10.0
    lease_wait: float | None = None
    stream_wait: float | None = None

    def __post_init__(self) -> None:
        _take_timedelta(self, "lease_ttl")
        _check_seconds(self, "max_staleness", "lease_ttl")
        if self.lease_ttl > LONGEST_LEASE_SECONDS:
            raise UsageError(
                f"CoherenceOptions.lease_ttl must be a number of seconds above 0, at most {LONGEST_LEASE_SECONDS:.0f}: "
                "a lease needs no longer life, because its holder renews it"
            )
        _check_seconds(self, "lease_wait", optional=True)
        if self.stream_wait != 0:
            _check_seconds(self, "stream_wait", optional=True)
        _check_choice(self, "tracking", "auto", "on", "off")


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
        _check_seconds(self, "l2_timeout", "breaker_pause", "drain_timeout")
        _check_seconds(self, "load_timeout", optional=True)
        if self.serve_untrusted != 0:
            _check_seconds(self, "serve_untrusted")
        _check_counts(self, "breaker_failures")
        _check_counts(self, "max_loads", optional=True)


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
        _check_choice(self, "mode", "await", "behind")
        _check_seconds(self, "max_delay")
        _check_counts(self, "max_ops", "max_bytes", "max_queue_bytes")


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
        _check_counts(self, "max_labels")


def _names(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise UsageError(f"LlmOptions.ignore must be a sequence of parameter names, not {shown(value)}")
    return names


def _named(options: object, names: Iterable[str], *, optional: bool) -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of options; with ``optional`` leave out those that are None."""
    for name in names:
        value = getattr(options, name)
        if value is not None or not optional:
            yield f"{type(options).__name__}.{name}", value


def _take_timedelta(options: object, name: str) -> None:
    """Replace a timedelta among the options, which is a lifetime, by its seconds."""
    value = getattr(options, name)
    if isinstance(value, timedelta):
        object.__setattr__(options, name, value.total_seconds())


def _check_seconds(options: object, *names: str, optional: bool = False) -> None:
    for name, value in _named(options, names, optional=optional):
        if not _is_number(value) or not 0 < value <= _LONGEST_SECONDS:
            raise UsageError(f"{name} must be a number of seconds above 0, at most 100 years")


def _check_counts(options: object, *names: str, optional: bool = False) -> None:
    for name, value in _named(options, names, optional=optional):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name} must be a whole number above 0, not {shown(value)}")


def _check_functions(options: object, *names: str) -> None:
    for name, value in _named(options, names, optional=True):
        if not callable(value):
            raise UsageError(f"{name} must be callable, not {type(value).__name__}")


def _check_choice(options: object, name: str, *choices: str) -> None:
    value = getattr(options, name)
    if value not in choices:
        *others, last = map(repr, choices)
        raise UsageError(f"{type(options).__name__}.{name} must be {', '.join(others)} or {last}, not {shown(value)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
