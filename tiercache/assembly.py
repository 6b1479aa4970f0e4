"""The assembly: builds the parts of a cache from its options. No connection is made and no task is started here."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

from .clock import Clock
from .embedded import EmbeddedValkey
from .engine.coherence.placeholders import is_placeholder
from .engine.engine import Engine
from .engine.entries.counters import OTHER, CounterBook
from .engine.entries.entry import Group
from .engine.entries.rules import Codec, TierRules
from .engine.level2.level2 import Level2
from .engine.runtime.options import EngineOptions
from .engine.runtime.runtime import Server
from .errors import UsageError
from .indexes.foreign_writes import ForeignWrites
from .indexes.reindex import Reindex
from .log import CacheLog
from .monitor.discovery import Discovery
from .monitor.service import MonitorService
from .monitor.statistics import StatsHash
from .options import (
    CoherenceOptions,
    ConnectionOptions,
    DiscoveryOptions,
    L1Options,
    LlmOptions,
    ResilienceOptions,
    SessionOptions,
    TelemetryOptions,
    TierOptions,
    WriteOptions,
)
from .pricing.prices import ModelPrice, PriceTable
from .stores.valkey.logins import Logins
from .stores.valkey.settings import Client, Settings, client_from_url
from .stores.valkey.store import ValkeyLevel2
from .telemetry import names
from .telemetry.otel import Tracing
from .telemetry.prometheus import CacheCollector, report
from .telemetry.source import CacheSource
from .text import shown
from .tiers.keys.key import groups_of_model
from .tiers.kv.entry import KvCodec
from .tiers.kv.tier import KvTier
from .tiers.llm.codec import LlmCodec
from .tiers.llm.entry import LlmEntry
from .tiers.llm.exchanges import Exchanges
from .tiers.llm.key import LlmKeys
from .tiers.llm.tier import LlmTier
from .tiers.session.entry import SessionCodec
from .tiers.session.tier import SessionTier
from .tiers.stored import StoredEntries
from .tiers.tool.entry import ToolCodec
from .tiers.tool.policies import ToolPolicies
from .tiers.tool.tier import ToolTier
from .tiers.values.compression import Compression
from .ttl import Ttl, check_ttl

__all__ = ["Assembly", "CacheSettings"]

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TIER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The options of one cache as its caller gave them; see ``AgentCache``. None takes the defaults."""

    name: str
    default_ttl: Ttl | None
    llm: LlmOptions | TierOptions | None
    tool: TierOptions | None
    session: SessionOptions | TierOptions | None
    kv: TierOptions | None
    l1: L1Options | None
    coherence: CoherenceOptions | None
    connection: ConnectionOptions | None
    writes: WriteOptions | None
    resilience: ResilienceOptions | None
    telemetry: TelemetryOptions | None
    discovery: DiscoveryOptions | None
    prices: Mapping[str, ModelPrice | tuple[float, float]] | None
    use_default_prices: bool
    require_l2: bool
    clock: Clock

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
            raise UsageError(f"name must be 1 to 128 of A-Z a-z 0-9 _ . - and not begin with '__', not {shown(name)}")
        if self.default_ttl is not None:
            check_ttl(self.default_ttl, "default_ttl")


class Assembly:
    """The parts of one cache.

    Args:
        client: The caller's client, or None for a cache of process memory alone.

    Attributes:
        engine: The levels.
        log: The log of the cache.
        llm, tool, session: The tiers; ``kv_tier`` returns the kv tiers.
        exchanges: The exchanges of the llm tier.
        tier_rules: The rules of every tier made so far.
        statistics: The statistics hash of the whole fleet.
        reindex: Makes the indexes complete.
        server: The private Valkey of an embedded cache, or None.
    """

    def __init__(self, client: Client | None, settings: CacheSettings) -> None:
        self._settings = settings
        self._name = name = settings.name
        self.log = CacheLog(name)
        self._has_l2 = client is not None
        self._connection = _checked(settings.connection, "connection", ConnectionOptions)
        self._coherence = _checked(settings.coherence, "coherence", CoherenceOptions)
        self._writes = _checked(settings.writes, "writes", WriteOptions)
        self._resilience = _checked(settings.resilience, "resilience", ResilienceOptions)
        telemetry = _checked(settings.telemetry, "telemetry", TelemetryOptions)
        self.server: EmbeddedValkey | None = None
        self.tier_rules: list[TierRules] = []
        self._prices = PriceTable(settings.prices, use_default=settings.use_default_prices)
        self._tool_policies = ToolPolicies(name, self.log)
        self.statistics = self.new_statistics()
        self.reindex = Reindex(name, StoredEntries(self._model_of), self.log)
        listed = _checked(settings.discovery, "discovery", DiscoveryOptions).enabled
        self._discovery = Discovery(name, self._describe, self.log) if listed and client is not None else None
        self.engine = self._new_engine(client, telemetry)
        self.tool = self._new_tool_tier()
        self.llm = self._new_llm_tier()
        self.exchanges = self._new_exchanges()
        self.session = self._new_session_tier()
        self._kv_tiers: dict[str, tuple[TierOptions, KvTier]] = {}
        self.kv_tier("kv", settings.kv)
        self._source = self._new_source()
        self._collector = self._report(telemetry) if telemetry.metrics else None

    # The engine

    def _new_engine(self, client: Client | None, telemetry: TelemetryOptions) -> Engine:
        settings = self._settings
        tracing = Tracing(telemetry.tracer_name, telemetry.tracer_provider, self.log)
        return Engine(
            self.log,
            None if client is None else self._new_server(self._connection_settings(client)),
            EngineOptions(
                l1=_checked(settings.l1, "l1", L1Options),
                coherence=self._coherence,
                writes=self._writes,
                resilience=self._resilience,
                require_l2=settings.require_l2,
            ),
            clock=settings.clock,
            find_tracer=tracing.find_tracer if telemetry.tracing else lambda: None,
            on_start=self._start_reporting,
        )

    def _new_server(self, connection: Settings) -> Server:
        async def connect(origin: str) -> Level2:
            used = connection
            if self.server is not None:
                await asyncio.to_thread(self.server.start)
                used = self._connection_settings(client_from_url(self.server.url))
            return ValkeyLevel2(used, timeout=self._resilience.l2_timeout, name=self._name, origin=origin)

        indexes = self.reindex, ForeignWrites(self._name, self.reindex, self.log)
        service = MonitorService(self.statistics, self._tool_policies, indexes, self._discovery, self.log)
        return Server(connect, service)

    def _connection_settings(self, client: Client) -> Settings:
        logins = Logins(self._resilience.breaker_pause, self._settings.clock.monotonic)
        return Settings.from_client(client, multiplexes=self._connection.multiplexed, logins=logins)

    async def open(self) -> None:
        """Open the engine; close everything again if that fails or is cancelled. Errors as for ``AgentCache.open``."""
        try:
            await self.engine.open(gives_up=True)
        except BaseException:
            if self.engine.runtime is None:
                await self._stop_server()
            raise

    async def aclose(self) -> None:
        """Close the engine, report nothing to Prometheus any more, and stop the private Valkey."""
        await self.engine.aclose()
        if self._collector is not None:
            self._collector.leave(self._source)
        await self._stop_server()

    async def _stop_server(self) -> None:
        if self.server is not None:
            await asyncio.to_thread(self.server.stop)

    # The tiers

    def _new_tool_tier(self) -> ToolTier:
        options = _tier_options(self._settings.tool, "tool")
        codec = ToolCodec(self._compression(options, as_text=True))
        return ToolTier(self.engine, self._new_rules("tool", options, codec), self._tool_policies, self._name)

    def _new_llm_tier(self) -> LlmTier:
        options = _llm_options(self._settings.llm)
        codec = LlmCodec(self._compression(options, as_text=True))
        rules = self._new_rules("llm", options, codec, finish_abandoned=True, groups_of=_groups_of(options))
        keys = LlmKeys(f"{self._name}:llm:", ignore=options.ignore, transform=options.key)
        return LlmTier(self.engine, rules, keys, self._prices, self._name)

    def _new_exchanges(self) -> Exchanges:
        options, rules = _llm_options(self._settings.llm), self._rules_of("llm")
        given = self.engine, rules, self._prices, self._name, self._coherence
        return Exchanges(
            *given,
            # A whole answer is paid for in any case. A stream that no reader wants costs until it ends.
            streams_finish=options.on_abandon == "finish",
        )

    def _new_session_tier(self) -> SessionTier:
        options = _session_options(self._settings.session)
        rules = self._new_rules("session", options, SessionCodec(), is_state=True)
        return SessionTier(self.engine, rules, self._name, in_memory=not self._has_l2)

    def kv_tier(self, name: str, options: TierOptions | None = None) -> KvTier:
        """Return the kv tier ``name``, made now or earlier. Arguments and errors as for ``AgentCache.tier``."""
        if not isinstance(name, str) or not _TIER_NAME.fullmatch(name) or name in ("llm", "tool", "session"):
            raise UsageError(
                f"name must be 1 to 128 of A-Z a-z 0-9 _ - and not llm, tool or session, which are tiers already, "
                f"not {shown(name)}"
            )
        made = self._kv_tiers.get(name)
        if made is None:
            # A plain str: the cache keeps no object of the caller's.
            name = str.__str__(name)
            options = _tier_options(options, name)
            codec = KvCodec(self._compression(options, as_text=False))
            made = options, KvTier(self.engine, self._new_rules(name, options, codec), self._name)
            self._kv_tiers[name] = made
        elif options is not None and _tier_options(options, name) != made[0]:
            raise UsageError(f"the tier {name!r} has been made with other options: {made[0]}")
        return made[1]

    def _new_rules(
        self,
        tier: str,
        options: TierOptions | SessionOptions,
        codec: Codec,
        *,
        finish_abandoned: bool = False,
        groups_of: Callable[[Any], tuple[Group, ...]] | None = None,
        is_state: bool = False,
    ) -> TierRules:
        of_tier = options if isinstance(options, TierOptions) else TierOptions()
        rules = TierRules(
            tier=tier,
            codec=codec,
            ttl=options.ttl if options.ttl is not None else self._settings.default_ttl,
            l1=options.l1,
            # A copy in L1 must not outlive Valkey's entry. Without Valkey there is no other entry.
            l1_ttl=math.inf if options.l1_ttl is None or not self._has_l2 else float(options.l1_ttl),
            jitter=of_tier.jitter,
            lease=of_tier.lease and self._has_l2,
            finish_abandoned=finish_abandoned if options.on_abandon is None else options.on_abandon == "finish",
            groups_of=groups_of,
            store_when=of_tier.store_when,
            threads=of_tier.threads,
            is_state=is_state,
            max_value_bytes=options.max_value_bytes,
            writes_behind=self._writes.mode == "behind" and tier in ("llm", "tool"),
        )
        self.tier_rules.append(rules)
        return rules

    def _compression(self, options: TierOptions, *, as_text: bool) -> Compression:
        return Compression(
            above=options.compress_above, max_bytes=options.max_value_bytes, as_text=as_text, log=self.log
        )

    # Statistics and telemetry

    def new_statistics(self) -> StatsHash:
        """Return a statistics hash of which nothing has been sent yet."""
        totals = {"session:reads": lambda: self.session.reads, "session:writes": lambda: self.session.writes}
        return StatsHash(self._name, self._books, totals, self.log)

    def _books(self) -> Iterator[tuple[str, CounterBook]]:
        for rules in self.tier_rules:
            if rules.tier in ("llm", "tool"):
                yield rules.tier, rules.counters
            elif rules.tier != "session":
                yield "kv", rules.counters

    def _new_source(self) -> CacheSource:
        source = CacheSource(self._name, self.engine, self.tier_rules, self.log)
        policies, discovery, session = self._tool_policies, self._discovery, self.session
        source.gauges[names.ACTIVE_SESSIONS.name] = lambda: session.active_count
        source.counters[names.CONFIG_REFRESH_FAILED.name] = lambda: policies.refresh_failed_count
        if discovery is not None:
            source.counters[names.DISCOVERY_WRITE_FAILED.name] = lambda: discovery.write_failed_count
        return source

    def _report(self, options: TelemetryOptions) -> CacheCollector | None:
        return report(
            self._source, registry=options.registry, prefix=options.metrics_prefix, max_labels=options.max_labels
        )

    def _start_reporting(self) -> None:
        if self._collector is not None:
            self._collector.start(self._source)

    def policy_ttl(self, tool: str) -> int | None:
        """Return the seconds of a tool's policy, or None if the tool has no policy."""
        policy = self._tool_policies.get(tool)
        return None if policy is None else int(policy.ttl)  # type: ignore[arg-type]

    def tool_ttl(self, tool: str) -> float | None:
        """Return the lifetime of a tool's results in seconds, or None for no expiry."""
        ttl = self.policy_ttl(tool)
        return self._rules_of("tool").default_lifetime() if ttl is None else ttl

    def _model_of(self, data: bytes) -> str | None:
        rules = self._rules_of("llm")
        assert isinstance(rules.codec, LlmCodec)
        model = rules.codec.model_of(data)
        # No lookup has read the entry, so that no model is known for it.
        rules.counters.of(OTHER).undecodable += model is None and not is_placeholder(data)
        return model

    def _rules_of(self, tier: str) -> TierRules:
        return next(rules for rules in self.tier_rules if rules.tier == tier)

    def _describe(self) -> dict[str, Any]:
        """Return the fields of the registration that depend on the cache's options."""
        tiers: dict[str, Any] = {tier: {"enabled": True} for tier in ("llm", "tool", "session")}
        for rules in self.tier_rules:
            ttl = rules.default_lifetime()
            if rules.tier in tiers and ttl is not None:
                tiers[rules.tier]["ttl_default"] = math.ceil(ttl)
        return {
            "tiers": tiers,
            "has_cost_table": self._prices.has_prices,
            "uses_default_cost_table": self._prices.uses_default,
            "tool_policies": self._tool_policies.names(),
        }


def _groups_of(options: LlmOptions) -> Callable[[LlmEntry], tuple[Group, ...]] | None:
    """A key function may let requests for several models share an answer; the answer's own model then counts."""
    return None if options.key is None else lambda entry: groups_of_model(entry.model)


def _tier_options(options: TierOptions | None, name: str) -> TierOptions:
    options = _checked(options, name, TierOptions)
    if isinstance(options, LlmOptions):
        raise UsageError(f"{name} must be a TierOptions, not a LlmOptions: ignore and key are the llm tier's alone")
    return options


def _llm_options(options: TierOptions | None) -> LlmOptions:
    options = _checked(options, "llm", TierOptions)
    if isinstance(options, LlmOptions):
        return options
    return LlmOptions(**{name: getattr(options, name) for name in _fields(TierOptions)})


def _session_options(options: SessionOptions | TierOptions | None) -> SessionOptions:
    if isinstance(options, TierOptions):
        is_of_llm = isinstance(options, LlmOptions) or options.threads
        if is_of_llm or options.jitter or options.store_when is not None or options.compress_above is not None:
            raise UsageError(
                "session must be a SessionOptions: a session has no jitter, store_when, threads, compress_above, "
                "ignore and key"
            )
        # Options that a session takes too are taken from a TierOptions.
        return SessionOptions(**{name: getattr(options, name) for name in _fields(SessionOptions)})
    return _checked(options, "session", SessionOptions)


def _checked(options: T | None, name: str, kind: type[T]) -> T:
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise UsageError(f"{name} must be a {kind.__name__}, not {type(options).__name__}")
    return options


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))
