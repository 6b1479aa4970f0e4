"""The names of all metrics, spans and span attributes, in one place, because dashboards depend on them.

The full name of a metric is ``{TelemetryOptions.metrics_prefix}_{name}``; the default prefix is ``agent_cache``. The
name of a span is ``agent_cache.{tier}.{method}``. betterdb-agent-cache has the metrics marked "shared" too, with the
same labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

__all__ = [
    "ACTIVE_SESSIONS",
    "ATTRIBUTES",
    "ATTRIBUTE_PREFIX",
    "BREAKER_OPEN",
    "CACHE_COUNTERS",
    "CACHE_GAUGES",
    "CHANGES_HEARD",
    "CONFIG_REFRESH_FAILED",
    "COST_SAVED",
    "DISCOVERY_WRITE_FAILED",
    "HOOK_ERRORS",
    "HOOK_EVENTS_DROPPED",
    "L1_BYTES",
    "L1_DISTRUSTED",
    "L1_ENTRIES",
    "L1_EVICTIONS",
    "L1_TRUSTED",
    "LEVEL_HITS",
    "METRICS",
    "OPERATION_DURATION",
    "OPERATION_ERRORS",
    "OTHER_LABEL",
    "REQUESTS",
    "SPAN_PREFIX",
    "TIER_COUNTERS",
    "WRITE_QUEUE_DEPTH",
    "Metric",
]


class Metric(NamedTuple):
    """One metric: its name without the prefix, its type, its labels and its help text."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_BY_CACHE: Final = ("cache_name",)
_BY_TIER: Final = ("cache_name", "tier")

# The label of every tool or model beyond the first ``TelemetryOptions.max_labels``.
OTHER_LABEL: Final = "other"

REQUESTS: Final = Metric(  # Shared.
    "requests_total",
    "counter",
    ("cache_name", "tier", "result", "tool_name"),
    "Lookups by result: hit or miss. Hits of process memory count too. tool_name is empty except for tools.",
)
OPERATION_DURATION: Final = Metric(  # Shared.
    "operation_duration_seconds",
    "histogram",
    ("cache_name", "tier", "operation"),
    "Duration of operations. Lookups that process memory answers are not timed: see level_hits_total.",
)
COST_SAVED: Final = Metric(  # Shared.
    "cost_saved_total",
    "counter",
    ("cache_name", "tier", "model", "tool_name"),
    "Dollars that the loads of the hit entries had cost.",
)
OPERATION_ERRORS: Final = Metric(
    "operation_errors_total",
    "counter",
    ("cache_name", "tier", "operation"),
    "Operations that raised, without cancelled operations.",
)
LEVEL_HITS: Final = Metric(
    "level_hits_total",
    "counter",
    ("cache_name", "tier", "level"),
    "Hits by the level that answered: l1 (process memory) or l2 (Valkey).",
)

# By the field of TierCounters that the metric shows.
TIER_COUNTERS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "stored_bytes": Metric(  # Shared.
            "stored_bytes_total", "counter", _BY_TIER, "Bytes of the values that were stored, explicitly or by a load."
        ),
        "stale_hits": Metric("stale_hits_total", "counter", _BY_TIER, "Hits that got a value past its TTL or trust."),
        "failed_hits": Metric("failed_hits_total", "counter", _BY_TIER, "Misses that got a remembered error."),
        "refreshes": Metric("refreshes_total", "counter", _BY_TIER, "Loads in the background for a kept value."),
        "refresh_errors": Metric("refresh_errors_total", "counter", _BY_TIER, "Loads in the background that raised."),
        "loads": Metric("loads_total", "counter", _BY_TIER, "Loader calls."),
        "load_errors": Metric("load_errors_total", "counter", _BY_TIER, "Loader calls that raised or timed out."),
        "lease_waits": Metric(
            "lease_waits_total", "counter", _BY_TIER, "Loads that waited for another process to load the key."
        ),
        "coalesced": Metric(
            "coalesced_total", "counter", _BY_TIER, "Misses that waited on a load another caller had started."
        ),
        "overtaken": Metric(
            "overtaken_total",
            "counter",
            _BY_TIER,
            "Loaded values not stored: their key changed during the load.",
        ),
        "l2_errors": Metric("l2_errors_total", "counter", _BY_TIER, "Lookups that Valkey did not answer, or refused."),
        "undecodable": Metric(
            "undecodable_total", "counter", _BY_TIER, "Entries in Valkey that the tier cannot decode, or too large."
        ),
        "fills_dropped": Metric(
            "fills_dropped_total",
            "counter",
            _BY_TIER,
            "Loaded values not written to Valkey: no lease, a full queue, or an open breaker.",
        ),
        "fill_errors": Metric("fill_errors_total", "counter", _BY_TIER, "Loaded values whose write to Valkey failed."),
        "write_errors": Metric(
            "write_errors_total", "counter", _BY_TIER, "Values of write-behind stores whose write to Valkey failed."
        ),
        "too_large": Metric(
            "too_large_total", "counter", _BY_TIER, "Loaded values not stored, because they had too many bytes."
        ),
        "not_admitted": Metric(
            "not_admitted_total", "counter", _BY_TIER, "Loaded values not stored, because admit refused them."
        ),
        "unstorable": Metric(
            "unstorable_total", "counter", _BY_TIER, "Loaded values not stored, because no store can take them."
        ),
    }
)

L1_EVICTIONS: Final = Metric(
    "l1_evictions_total", "counter", _BY_CACHE, "Entries that newer entries pushed out of process memory."
)
L1_DISTRUSTED: Final = Metric(
    "l1_distrusted_total", "counter", _BY_CACHE, "Times L1 was dropped because a change may have been missed."
)
CHANGES_HEARD: Final = Metric(
    "changes_heard_total", "counter", _BY_CACHE, "Changes by other processes that L1 has followed."
)
CONFIG_REFRESH_FAILED: Final = Metric(  # Shared.
    "config_refresh_failed_total", "counter", _BY_CACHE, "Refreshes of the tool policies that failed."
)
DISCOVERY_WRITE_FAILED: Final = Metric(  # Shared.
    "discovery_write_failed_total", "counter", _BY_CACHE, "Writes of the discovery marker or heartbeat that failed."
)
HOOK_ERRORS: Final = Metric("hook_errors_total", "counter", _BY_CACHE, "Calls of hooks that raised.")
HOOK_EVENTS_DROPPED: Final = Metric(
    "hook_events_dropped_total", "counter", _BY_CACHE, "Calls of async hooks that were dropped: too many waited."
)
CACHE_COUNTERS: Final = (
    L1_EVICTIONS,
    L1_DISTRUSTED,
    CHANGES_HEARD,
    CONFIG_REFRESH_FAILED,
    DISCOVERY_WRITE_FAILED,
    HOOK_ERRORS,
    HOOK_EVENTS_DROPPED,
)

ACTIVE_SESSIONS: Final = Metric("active_sessions", "gauge", _BY_CACHE, "Session threads used recently.")  # Shared.
L1_ENTRIES: Final = Metric("l1_entries", "gauge", _BY_CACHE, "Entries in process memory.")
L1_BYTES: Final = Metric("l1_bytes", "gauge", _BY_CACHE, "Accounted bytes of the entries in process memory.")
WRITE_QUEUE_DEPTH: Final = Metric("write_queue_depth", "gauge", _BY_CACHE, "Writes that Valkey has not answered yet.")
L1_TRUSTED: Final = Metric("l1_trusted", "gauge", _BY_CACHE, "Caches whose L1 is known to have followed every change.")
BREAKER_OPEN: Final = Metric("breaker_open", "gauge", _BY_CACHE, "Caches whose breaker takes Valkey for unavailable.")
CACHE_GAUGES: Final = (ACTIVE_SESSIONS, L1_ENTRIES, L1_BYTES, L1_TRUSTED, WRITE_QUEUE_DEPTH, BREAKER_OPEN)

METRICS: Final = (
    REQUESTS,
    OPERATION_DURATION,
    COST_SAVED,
    OPERATION_ERRORS,
    LEVEL_HITS,
    *TIER_COUNTERS.values(),
    *CACHE_COUNTERS,
    *CACHE_GAUGES,
)

SPAN_PREFIX: Final = "agent_cache."

# Operations name their attributes without this prefix.
ATTRIBUTE_PREFIX: Final = "cache."
ATTRIBUTES: Final = frozenset(
    {
        "cache.key",
        "cache.model",
        "cache.tool_name",
        "cache.thread_id",
        "cache.field",
        "cache.hit",
        "cache.source",  # l1, l2, loader or stale; absent for a miss.
        "cache.coalesced",
        "cache.ttl",  # Seconds, rounded up; -1: no expiry.
        "cache.bytes",  # Before compression.
        "cache.deleted_count",
        "cache.pattern",
        "cache.dry_run",
        "cache.field_count",
        "cache.indexed_count",
        "cache.touched_count_approx",
    }
)
