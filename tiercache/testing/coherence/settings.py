"""The settings of a replica, and the options of its cache."""

from __future__ import annotations

import dataclasses
import random
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from ...agent_cache import AgentCache
from ...options import (
    CoherenceOptions,
    DiscoveryOptions,
    ResilienceOptions,
    TelemetryOptions,
    TrackingMode,
    WriteOptions,
)
from ...tier_options import TierOptions
from .subjects import SUBJECTS

__all__ = [
    "CACHE_NAME",
    "CROWD",
    "FAILED_LOADS",
    "OPTIONS",
    "TRACKINGS",
    "MissingError",
    "ReplicaSettings",
    "Tracking",
    "Writes",
    "tracking_of",
]

Writes: TypeAlias = Literal["await", "behind", "both"]
Tracking: TypeAlias = TrackingMode | Literal["mixed"]

# The kinds of tracking of one run, in turn, if they are mixed.
TRACKINGS: Final[tuple[TrackingMode, ...]] = ("interest", "broadcast", "off")

CACHE_NAME: Final = "coherence"
# The kv tier of the keys that only fill the server's table of tracked keys.
CROWD: Final = "crowd"

# Longest delay of a write-behind store, in seconds: most reads of the author meet the queued store.
_BEHIND_DELAY: Final = 0.03

# Entries do not expire during a run, so that only changes remove them. Abandoned loads go on.
_LONG: Final = 3600.0
OPTIONS: Final = TierOptions(ttl=_LONG, l1_ttl=_LONG, on_abandon="finish")


class MissingError(Exception):
    """The error of a load that fails: its argument is the value that the load has found. Caches may remember it."""


# Options with which entries expire during a run, are served stale, are refreshed early, and errors are remembered.
_REMEMBERED: Final[dict[type[Exception], float]] = {MissingError: _LONG}
_FRESHNESS: Final = {
    "ttl": 0.3,
    "stale_for": _LONG,
    "retry_pause": 0.02,
    "early_refresh": 1.0,
    "cache_errors": _REMEMBERED,
}
# The fraction of the loads of one key that fail then.
FAILED_LOADS: Final = 0.1


def tracking_of(tracking: Tracking, number: int) -> TrackingMode:
    """Return the kind of tracking of the replica ``number``."""
    return TRACKINGS[number % len(TRACKINGS)] if tracking == "mixed" else tracking


class ReplicaSettings(Struct, frozen=True):
    """The settings of a replica, in this process or another.

    Attributes:
        url: The URL of Valkey through the proxy, for the cache.
        server_url: The URL of Valkey without the proxy, for other software.
        database_url: The URL of the database.
        number: The replica's number, 0 to ``count`` - 1.
        count: The number of replicas.
        seed: The seed of the run.
        writes: Whether the stores of the llm and tool tiers await Valkey or are write-behind stores; with "both", about
            every second replica writes behind.
        life: How many replicas of this number have left the run before.
        l1_ttl: Seconds after which L1 forgets an entry.
        freshness: Whether the caches serve stale values and remember errors.
    """

    url: str
    server_url: str
    database_url: str
    number: int
    count: int
    seed: int
    max_staleness: float
    lease_ttl: float
    tracking: TrackingMode
    writes: Writes = "both"
    life: int = 0
    l1_ttl: float = _LONG
    freshness: bool = False

    @property
    def name(self) -> str:
        """The replica's name in the history."""
        return f"r{self.number}" + (f".{self.life}" if self.life else "")

    @property
    def writes_behind(self) -> bool:
        """Whether the stores of the llm and tool tiers are write-behind stores."""
        if self.writes != "both":
            return self.writes == "behind"
        return random.Random(f"{self.seed}/{self.number}/writes").random() < 0.5

    def cache(self) -> AgentCache:
        """Return a new cache on ``url``."""
        state = dataclasses.replace(OPTIONS, l1_ttl=self.l1_ttl)
        options = dataclasses.replace(state, **_FRESHNESS) if self.freshness else state  # type: ignore[arg-type]
        cache = AgentCache.from_url(
            self.url,
            name=CACHE_NAME,
            llm=options,
            tool=options,
            session=state,
            coherence=CoherenceOptions(
                max_staleness=self.max_staleness, tracking=self.tracking, lease_ttl=self.lease_ttl
            ),
            # A short pause: as long as the breaker is open, lookups skip Valkey and can show no violation there.
            resilience=ResilienceOptions(l2_timeout=0.25, breaker_pause=0.05),
            telemetry=TelemetryOptions(metrics=False, tracing=False),
            discovery=DiscoveryOptions(enabled=False),
            writes=WriteOptions(mode="behind" if self.writes_behind else "await", max_delay=_BEHIND_DELAY),
        )
        for role in {subject.role for subject in SUBJECTS if subject.tier == "kv"}:
            cache.tier(role, self._of_role(role, options))
        cache.tier(CROWD, state)
        return cache

    def _of_role(self, role: str, options: TierOptions) -> TierOptions:
        """Return the options of the kv tier of a role."""
        if role == "foreign" and self.freshness:
            # A copy past its TTL does not notice changes by other software, so only errors are remembered.
            return dataclasses.replace(OPTIONS, l1_ttl=self.l1_ttl, cache_errors=_REMEMBERED)
        # In this tier abandoned loads are cancelled.
        return dataclasses.replace(options, on_abandon="cancel") if role == "hot" else options
