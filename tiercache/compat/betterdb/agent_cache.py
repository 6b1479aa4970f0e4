"""AgentCache with betterdb-agent-cache's options and methods, on a cache of tiercache."""

from __future__ import annotations

from collections.abc import Iterator

from ...adapters.caches import check_cache, log_of
from ...agent_cache import AgentCache as TierCache
from ...errors import UsageError
from ...identity import KeepsIdentity
from ...options import DiscoveryOptions, TelemetryOptions
from ...text import shown
from ...tier_options import SessionOptions, TierOptions
from ...ttl import Ttl
from .failures import valkey_errors
from .tiers.llm_cache import LlmCache
from .tiers.session_store import SessionStore
from .tiers.tool_cache import ToolCache
from .types import AgentCacheOptions, AgentCacheStats, ConfigRefreshOptions, ToolEffectivenessEntry
from .types import DiscoveryOptions as TheirDiscoveryOptions

__all__ = ["AgentCache", "tiercache_of"]

_TIERS = ("llm", "tool", "session")


class AgentCache(KeepsIdentity):
    """The cache of betterdb-agent-cache: ``llm``, ``tool`` and ``session``, with its methods and their results.

    It holds no entries itself: everything is done by a cache of tiercache, which ``tiercache`` returns.

    Args:
        options: The options, or a ``tiercache.AgentCache`` that was made with tiercache's own options.
        sweeps: Whether methods for a whole model, tool or thread look at every key of the server, as those of
            betterdb-agent-cache do. False trusts the indexes: for a name that no betterdb-agent-cache uses any more,
            after ``tiercache.AgentCache.reindex``.

    Raises:
        AgentCacheUsageError: An option is wrong. The message names the option and the reason.
    """

    def __init__(self, options: AgentCacheOptions | TierCache, *, sweeps: bool = True) -> None:
        self._cache = options if isinstance(options, TierCache) else _made(options)
        self.llm = LlmCache(self._cache, sweeps=sweeps)
        self.tool = ToolCache(self._cache, sweeps=sweeps)
        self.session = SessionStore(self._cache, sweeps=sweeps)

    @property
    def tiercache(self) -> TierCache:
        """The cache of tiercache on which this one stands. Both may be used side by side."""
        return self._cache

    async def ensure_discovery_ready(self) -> None:
        """Return once the cache is registered for BetterDB Monitor, if it registers and Valkey answers.

        Raises:
            AgentCacheUsageError: The name is registered for another kind of cache.
        """
        await self._cache.open()

    async def stats(self) -> AgentCacheStats:
        """Return the statistics of all processes under this name.

        Raises:
            ValkeyCommandError: The statistics could not be read.
        """
        with valkey_errors("HGETALL"):
            return await self._cache.stats()

    async def tool_effectiveness(self) -> list[ToolEffectivenessEntry]:
        """Return how well caching pays for each tool, most dollars saved first. Errors as for ``stats``."""
        with valkey_errors("HGETALL"):
            return await self._cache.tool_effectiveness()

    async def flush(self) -> None:
        """Remove every entry of every tier, and the state of all threads. Statistics and tool policies stay.

        Raises:
            ValkeyCommandError: Some entries may be left in Valkey.
        """
        with valkey_errors("SCAN"):
            await self._cache.flush(include_session=True)

    async def shutdown(self) -> None:
        """Finish the writes and close the connections of the cache. The client stays open."""
        await self._cache.aclose()

    def __repr__(self) -> str:
        return f"<AgentCache {self._cache.name!r} of tiercache.compat.betterdb>"


def tiercache_of(cache: object) -> TierCache:
    """Return the cache of tiercache under ``cache``, which is of this package or of tiercache.

    Raises:
        UsageError: ``cache`` is something else.
    """
    return cache.tiercache if isinstance(cache, AgentCache) else check_cache(cache)


def _made(options: object) -> TierCache:
    """Return the cache that ``options`` describe."""
    if not isinstance(options, AgentCacheOptions):
        kind = type(options)
        raise UsageError(
            "options must be an AgentCacheOptions of tiercache.compat.betterdb, or a tiercache.AgentCache, not "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    if options.client is None:
        raise UsageError(
            "client must be a valkey.asyncio.Valkey; for memory alone, pass AgentCache.in_memory() of tiercache"
        )
    ttls = {tier: _ttl(options, tier) for tier in _TIERS}
    unknown = sorted(set(options.tier_defaults or ()) - set(_TIERS))
    if unknown:
        raise UsageError(f"tier_defaults must be for {', '.join(_TIERS)}, not {shown(unknown[0])}")
    telemetry = options.telemetry
    cache = TierCache(
        options.client,
        name=options.name,
        default_ttl=options.default_ttl,
        llm=TierOptions(ttl=ttls["llm"]),
        tool=TierOptions(ttl=ttls["tool"]),
        session=SessionOptions(ttl=ttls["session"]),
        prices=options.cost_table or None,
        use_default_prices=options.use_default_cost_table,
        telemetry=TelemetryOptions(
            registry=telemetry.registry,
            metrics_prefix=telemetry.metrics_prefix,
            tracer_name=telemetry.tracer_name,
        ),
        discovery=DiscoveryOptions(enabled=options.discovery.enabled),
    )
    for warning in _unused(options):
        log_of(cache).warning(warning)
    return cache


def _ttl(options: AgentCacheOptions, tier: str) -> Ttl | None:
    defaults = (options.tier_defaults or {}).get(tier)
    return None if defaults is None else defaults.ttl


def _unused(options: AgentCacheOptions) -> Iterator[str]:
    """Yield a warning for each option that the caller has changed and the cache does not use."""
    if options.config_refresh != ConfigRefreshOptions():
        yield "config_refresh is not used: the cache reads tool policies when they change, or every second"
    if options.discovery != TheirDiscoveryOptions(enabled=options.discovery.enabled):
        yield "heartbeat_interval_ms and include_tool_policies are not used: the heartbeat is written every 30 s"
