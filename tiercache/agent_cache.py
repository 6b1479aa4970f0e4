"""AgentCache: where the parts are put together. As long as it is because every option is described here, once."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

from .clock import SYSTEM_CLOCK, Clock
from .embedded import EmbeddedValkey
from .engine.engine import Engine
from .engine.entries.counters import CounterBook
from .engine.entries.entry import Group
from .engine.entries.policy import Codec, TierPolicy
from .engine.level2.level2 import Level2
from .engine.level2.queued_write import QueueLimits
from .engine.memory.l1 import L1
from .engine.operations.around_change import Invalidating, Target
from .engine.operations.invalidate import invalidate_group, invalidate_indexed
from .engine.runtime.l2 import Bounds
from .engine.runtime.runtime import Limits
from .errors import TierCacheError, UsageError
from .indexes.names import index_key, tag_groups
from .indexes.reindex import Reindex
from .log import CacheLog
from .monitor.discovery import Discovery
from .monitor.effectiveness import ToolEffectiveness, rate
from .monitor.local_stats import LocalStats
from .monitor.service import MonitorService
from .monitor.statistics import CacheStats, StatsHash, parse
from .options import (
    CoherenceOptions,
    ConnectionOptions,
    DiscoveryOptions,
    L1Options,
    ResilienceOptions,
    TelemetryOptions,
    TierOptions,
    WriteOptions,
)
from .pricing.prices import ModelPrice, PriceTable
from .stores.valkey.settings import Client, Settings, client_from_url
from .stores.valkey.store import ValkeyLevel2
from .telemetry import names
from .telemetry.otel import Tracing
from .telemetry.prometheus import report
from .telemetry.source import CacheSource
from .tiers.kv.entry import KvCodec
from .tiers.kv.tier import ALL_KV, KvTier
from .tiers.llm.entry import LlmCodec, LlmEntry
from .tiers.llm.key import LlmKeys
from .tiers.llm.tier import LlmTier, groups_of_model, model_of
from .tiers.session.entry import SessionCodec
from .tiers.session.tier import SessionTier
from .tiers.tool.entry import ToolCodec
from .tiers.tool.policies import ToolPolicies
from .tiers.tool.tier import ToolTier
from .tiers.values.compression import Compression
from .ttl import Ttl, check_ttl

__all__ = ["AgentCache", "CacheOptions"]

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TIER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class CacheOptions(TypedDict, total=False):
    """The keyword options that every way to make a cache takes; see ``AgentCache``."""

    name: str
    default_ttl: Ttl | None
    llm: TierOptions
    tool: TierOptions
    session: TierOptions
    kv: TierOptions
    l1: L1Options
    coherence: CoherenceOptions
    connection: ConnectionOptions
    writes: WriteOptions
    resilience: ResilienceOptions
    telemetry: TelemetryOptions
    discovery: DiscoveryOptions
    prices: Mapping[str, ModelPrice | tuple[float, float]] | None
    use_default_prices: bool
    require_l2: bool
    clock: Clock


class AgentCache:
    """A cache for the workers of AI agents: process memory in front of Valkey.

    Making one does no I/O and starts no task, so it can be done at module level. It opens itself when first used, or
    by ``open`` or ``async with``. It belongs to the event loop it is used on; once that loop is closed, or in a forked
    process, it starts anew with connections of its own. What is being written when ``asyncio.run`` ends is finished.

    Args:
        client: A ``valkey.asyncio.Valkey``. Only its settings are used: the cache makes connections of its own, and
            leaves the client's alone. None: process memory only.
        name: What the keys in Valkey begin with: 1 to 128 of ``A-Z a-z 0-9 _ . -``, not beginning with ``__``.
        default_ttl: Lifetime where neither call nor tier gives one; None: entries do not expire.
        llm: Options of the llm tier.
        tool: Options of the tool tier; ``ignore`` and ``key`` are the llm tier's alone.
        session: Options of the session tier, likewise and without ``jitter``, ``store_when`` and ``compress_above``.
        kv: Options of the kv tier, as the tool tier's.
        l1: Bounds of process memory.
        coherence: How it follows what other processes change.
        connection: How Valkey is spoken to.
        writes: Whether stores wait for Valkey, and how much one round trip carries.
        resilience: Deadlines and limits.
        telemetry: What Prometheus and OpenTelemetry see of it.
        discovery: Whether the cache registers itself for BetterDB Monitor.
        prices: Prices that win over the bundled table: model to (dollars for 1,000 input tokens, output tokens).
        use_default_prices: False leaves the bundled table out.
        require_l2: Opening fails while Valkey cannot be reached, instead of working without it.
        clock: Where the time comes from, for tests.

    Raises:
        UsageError: An argument is wrong; it names which and why.
    """

    def __init__(
        self,
        client: Client | None,
        *,
        name: str = "betterdb_ac",
        default_ttl: Ttl | None = None,
        llm: TierOptions | None = None,
        tool: TierOptions | None = None,
        session: TierOptions | None = None,
        kv: TierOptions | None = None,
        l1: L1Options | None = None,
        coherence: CoherenceOptions | None = None,
        connection: ConnectionOptions | None = None,
        writes: WriteOptions | None = None,
        resilience: ResilienceOptions | None = None,
        telemetry: TelemetryOptions | None = None,
        discovery: DiscoveryOptions | None = None,
        prices: Mapping[str, ModelPrice | tuple[float, float]] | None = None,
        use_default_prices: bool = True,
        require_l2: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
            raise UsageError(f"name must be 1 to 128 of A-Z a-z 0-9 _ . - and not begin with '__', not {name!r}")
        if default_ttl is not None:
            check_ttl(default_ttl, "default_ttl")
        memory = _checked(l1, "l1", L1Options)
        coherence = _checked(coherence, "coherence", CoherenceOptions)
        multiplexes = _checked(connection, "connection", ConnectionOptions).multiplexed
        writes = _checked(writes, "writes", WriteOptions)
        resilience = _checked(resilience, "resilience", ResilienceOptions)
        telemetry = _checked(telemetry, "telemetry", TelemetryOptions)
        tracing = Tracing(telemetry.tracer_name, telemetry.tracer_provider)
        self._name = name
        self._default_ttl = default_ttl
        self._server: EmbeddedValkey | None = None
        self._multiplexes = multiplexes
        self._l2_timeout = resilience.l2_timeout
        self._prices = PriceTable(prices, use_default=use_default_prices)
        self._tool_policies = ToolPolicies(name, CacheLog(name))
        self._statistics = self._new_statistics()
        listed = _checked(discovery, "discovery", DiscoveryOptions).enabled
        self._discovery = Discovery(name, self._describe) if listed and client is not None else None
        self._reindex = Reindex(name, self._model_of)
        monitor = MonitorService(self._statistics, self._tool_policies, self._reindex, self._discovery)
        self._engine = Engine(
            l1=L1(max_entries=memory.max_entries, max_bytes=memory.max_bytes, max_staleness=coherence.max_staleness),
            connect=None if client is None else partial(self._connect, self._settings(client)),
            limits=_limits(resilience, writes, require_l2=require_l2),
            bounds=_bounds(coherence),
            clock=clock,
            service=None if client is None else monitor,
            find_tracer=tracing.find_tracer if telemetry.tracing else None,
        )
        self._policies: list[TierPolicy] = []
        options = _plain(tool, "tool")
        self._writes_behind = writes.mode == "behind"
        self._tool = ToolTier(
            self._engine,
            self._policy("tool", options, ToolCodec(_compression(options, as_text=True)), finish_abandoned=False),
            self._tool_policies,
            name,
        )
        options = _checked(llm, "llm", TierOptions)
        codec = LlmCodec(_compression(options, as_text=True))
        self._llm = LlmTier(
            self._engine,
            self._policy("llm", options, codec, finish_abandoned=True, groups_of=_groups_of(options)),
            LlmKeys(f"{name}:llm:", ignore=options.ignore, transform=options.key),
            self._prices,
            name,
        )
        self._session = SessionTier(
            self._engine,
            self._policy("session", _for_session(session), SessionCodec(), finish_abandoned=False, is_state=True),
            name,
            in_memory=client is None,
        )
        self._kv_tiers: dict[str, tuple[TierOptions, KvTier]] = {}
        self.tier("kv", kv)
        self._source = self._new_source()
        self._metrics = (
            report(
                self._source,
                registry=telemetry.registry,
                prefix=telemetry.metrics_prefix,
                max_labels=telemetry.max_labels,
            )
            if telemetry.metrics
            else None
        )

    @classmethod
    def from_url(cls, url: str, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache on the Valkey at ``url``: valkey, valkeys (TLS), redis, rediss or unix.

        Raises:
            UsageError: The URL cannot be parsed; it says what one looks like.
        """
        return cls(client_from_url(url), **options)

    @classmethod
    def embedded(cls, data_dir: str | os.PathLike[str] | None = None, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache on a private Valkey that starts with its first use and ends with ``aclose`` or the process.

        Args:
            data_dir: Where the entries are kept across runs; None keeps none.

        Raises:
            UsageError: The ``embedded`` extra is not installed. From the first use: ``data_dir`` is in use.
        """
        server = EmbeddedValkey(data_dir)
        cache = cls.from_url(server.url, **options)
        cache._server = server
        return cache

    @classmethod
    def in_memory(cls, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache of process memory alone: no server, no sockets."""
        return cls(None, **options)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect. Optional: the first use does it.

        Without an answer from Valkey the cache works on from process memory, with one warning, and asks again.

        Raises:
            L2UnavailableError: No answer, and ``require_l2`` is set. The next call tries again.
            L2CommandError: Valkey refused the credentials.
            UsageError: The cache is closed.
            WrongLoopError: It belongs to another event loop that is still open.
        """
        await self._engine.open()

    async def aclose(self) -> None:
        """Finish loads and writes under way, within ``ResilienceOptions.drain_timeout``, and close what was opened.

        Loads still running then are cancelled; who waits for one gets UsageError. A second call does nothing.
        """
        await self._engine.aclose()
        if self._metrics is not None:
            self._metrics.leave(self._source)
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    @property
    def name(self) -> str:
        """The name that the keys begin with."""
        return self._name

    @property
    def llm(self) -> LlmTier:
        """Answers of language models."""
        return self._llm

    @property
    def tool(self) -> ToolTier:
        """Results of tool calls."""
        return self._tool

    @property
    def session(self) -> SessionTier:
        """The state of threads."""
        return self._session

    @property
    def kv(self) -> KvTier:
        """Anything else, by keys of the caller's own."""
        return self._kv_tiers["kv"][1]

    def tier(self, name: str, options: TierOptions | None = None) -> KvTier:
        """Return the kv tier called ``name``: a new one, or the one that was made earlier.

        Args:
            name: 1 to 128 of ``A-Z a-z 0-9 _ -``; not llm, tool or session. "kv" is ``cache.kv``.
            options: Without ``ignore`` and ``key``. None: those it has been made with, the defaults for a new one.

        Raises:
            UsageError: An argument is wrong, or the tier has been made with other options.
        """
        if not isinstance(name, str) or not _TIER_NAME.fullmatch(name) or name in ("llm", "tool", "session"):
            raise UsageError(
                f"name must be 1 to 128 of A-Z a-z 0-9 _ - and not llm, tool or session, which are tiers already, "
                f"not {name!r}"
            )
        made = self._kv_tiers.get(name)
        if made is None:
            # Plain text: the caller's own object is not kept.
            name = str.__str__(name)
            options = _plain(options, name)
            codec = KvCodec(_compression(options, as_text=False))
            policy = self._policy(name, options, codec, finish_abandoned=False)
            made = options, KvTier(self._engine, policy, self._name)
            self._kv_tiers[name] = made
        elif options is not None and _plain(options, name) != made[0]:
            raise UsageError(f"the tier {name!r} has been made with other options: {made[0]}")
        return made[1]

    def clear_l1(self) -> int:
        """Forget what is in process memory, for every tier; return how many entries. Valkey keeps its own."""
        return self._engine.l1.clear()

    async def flush_writes(self) -> None:
        """Return when every write queued so far, fills included, has been answered by Valkey, well or ill."""
        await self._engine.flush_writes()

    async def flush(self, *, include_session: bool = False) -> int:
        """Remove every entry of the llm, tool and kv tiers; return how many there were.

        Args:
            include_session: Remove the sessions too. They are state that is nowhere else, and stay otherwise.

        Statistics, tool policies, and whatever lies under other names, stay.

        Raises:
            L2UnavailableError, L2CommandError: Some may be left in Valkey; this process has forgotten all of them.
        """
        self._engine.l1.clear()
        # Of all kv tiers, also those that only other processes have made.
        clear_kv = partial(invalidate_group, self._engine, ALL_KV, f"{self._name}:__tc:kv:")
        clears: list[Callable[[], Awaitable[int]]] = [self._llm.clear, self._tool.clear, clear_kv]
        if include_session:
            clears.append(self._session.clear)
        with self._engine.operation("flush") as operation:
            count = await _sum_of_all(clears)
            operation.set("deleted_count", count)
        return count

    async def invalidate_tag(self, *tags: str) -> int:
        """Remove every entry that was stored with any of ``tags``, in whichever tier; return how many there were.

        Promise as for ``LlmTier.invalidate``. A tag costs what it has been given to, not what Valkey holds: what has it
        is in its index, and only there.

        Raises:
            L2UnavailableError: They may not be gone from Valkey. It is repeated until they are, and meanwhile this
                process reads no entry of the llm, tool and kv tiers from Valkey: any may be one of them.
            L2CommandError: Valkey refused.
        """
        groups = tag_groups(tags)
        with self._engine.operation("invalidate_tag") as operation:
            count = await _sum_of_all(
                [partial(invalidate_indexed, self._engine, group, index_key(self._name, group)) for group in groups]
            )
            operation.set("deleted_count", count)
        return count

    async def reindex(self) -> int:
        """Add every entry under this name to its index, whoever wrote it; return how many were in none.

        From then on ``LlmTier.invalidate_by_model``, ``ToolTier.invalidate_by_tool`` and the sessions' whole-thread
        methods cost what they touch. A new name needs none of it: it is for one under which there were entries before
        tiercache, or while other software wrote them. Costs a look at every key that Valkey holds and at the value of
        every llm entry; may be done while others write.

        If other software is registered under the name, or was a minute and a half ago, or if Valkey evicts keys, the
        indexes do not count as complete afterwards either, and a warning is logged.

        Raises:
            L2UnavailableError, L2CommandError: Some entries may have been added. To be repeated.
        """
        runtime = await self._engine.open()
        with self._engine.operation("reindex") as operation:
            count = 0 if runtime.level2 is None else await self._reindex.run(runtime.level2)
            operation.set("indexed_count", count)
        return count

    def invalidates(self, *tags: str | Callable[..., str]) -> Invalidating:
        """Return what stands around a change of what tagged entries are made from: ``async with``, or a decorator.

        They are removed before and after; in between this process stores none that is given the tag. Promise and
        errors as for ``invalidate_tag``.

        Args:
            tags: Tags; for a decorator also functions of the call's arguments that return one.
        """

        def target(*given: Any, **named: Any) -> Target:
            names = [tag(*given, **named) if callable(tag) else tag for tag in tags]
            return Target(tag_groups(names), lambda: self.invalidate_tag(*names))

        takes_call = any(callable(tag) for tag in tags)
        if not takes_call:
            target()
        return Invalidating(self._engine, target, takes_call=takes_call)

    async def stats(self) -> CacheStats:
        """Return what all processes have counted under this name, this one up to now.

        Raises:
            L2UnavailableError, L2CommandError: The statistics could not be read.
        """
        runtime = await self._engine.open()
        with self._engine.operation("stats"):
            if runtime.level2 is None:
                fields = self._new_statistics().collect()
            else:
                await self._statistics.send(runtime.level2)
                fields = await self._statistics.read(runtime.level2)
        return parse(fields, self._policy_ttl)

    async def tool_effectiveness(self, *, min_samples: int = 1) -> list[ToolEffectiveness]:
        """Return how well caching pays for each tool, most dollars saved first.

        Args:
            min_samples: Lookups that a tool must have had to be judged.

        Errors as for ``stats``.
        """
        if not isinstance(min_samples, int) or min_samples < 1:
            raise UsageError(f"min_samples must be a whole number above 0, not {min_samples!r}")
        return rate(await self.stats(), self._tool_ttl, min_samples)

    def local_stats(self) -> LocalStats:
        """Return what this process has counted since the cache was made."""
        engine = self._engine
        return LocalStats(
            tiers={policy.tier: policy.counters.total() for policy in self._policies},
            operations=engine.operations.snapshot(),
            l1_entry_count=engine.l1.entry_count,
            l1_bytes=engine.l1.size_bytes,
            l1_evicted_count=engine.l1.evicted_count,
            queued_write_count=engine.queued_write_count,
            degraded=engine.is_degraded,
            trusted=engine.l1.trusted_until > engine.now(),
            distrusted_count=0 if engine.coherence is None else engine.coherence.generation,
            heard_count=0 if engine.coherence is None else engine.coherence.heard_count,
        )

    def __repr__(self) -> str:
        return f"<AgentCache {self._name!r}>"

    async def _connect(self, settings: Settings, origin: str) -> Level2:
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
            settings = self._settings(client_from_url(self._server.url))
        return ValkeyLevel2(settings, timeout=self._l2_timeout, name=self._name, origin=origin)

    def _settings(self, client: Client) -> Settings:
        return Settings.from_client(client, multiplexes=self._multiplexes)

    def _new_statistics(self) -> StatsHash:
        totals = {"session:reads": lambda: self._session.reads, "session:writes": lambda: self._session.writes}
        return StatsHash(self._name, self._books, totals)

    def _books(self) -> Iterator[tuple[str, CounterBook]]:
        for policy in self._policies:
            if policy.tier in ("llm", "tool"):
                yield policy.tier, policy.counters
            elif policy.tier != "session":
                yield "kv", policy.counters

    def _new_source(self) -> CacheSource:
        source = CacheSource(self._name, self._engine, self._policies)
        policies, discovery, session = self._tool_policies, self._discovery, self._session
        source.gauges[names.ACTIVE_SESSIONS.name] = lambda: session.active_count
        source.counters[names.CONFIG_REFRESH_FAILED.name] = lambda: policies.refresh_failed_count
        if discovery is not None:
            source.counters[names.DISCOVERY_WRITE_FAILED.name] = lambda: discovery.write_failed_count
        return source

    def _policy_ttl(self, tool: str) -> int | None:
        policy = self._tool_policies.get(tool)
        return None if policy is None else int(policy.ttl)  # type: ignore[arg-type]

    def _tool_ttl(self, tool: str) -> float | None:
        """The lifetime in force for a tool's results."""
        ttl = self._policy_ttl(tool)
        return next(p for p in self._policies if p.tier == "tool").default_lifetime() if ttl is None else ttl

    def _model_of(self, data: bytes) -> str | None:
        return model_of(next(p for p in self._policies if p.tier == "llm").codec, data)

    def _describe(self) -> dict[str, Any]:
        """The parts of the registration that only the whole cache knows."""
        tiers: dict[str, Any] = {}
        for tier in ("llm", "tool", "session"):
            tiers[tier] = {"enabled": True}
        for policy in self._policies:
            ttl = policy.default_lifetime()
            if policy.tier in tiers and ttl is not None:
                tiers[policy.tier]["ttl_default"] = math.ceil(ttl)
        return {
            "tiers": tiers,
            "has_cost_table": self._prices.has_prices,
            "uses_default_cost_table": self._prices.uses_default,
            "tool_policies": self._tool_policies.names(),
        }

    def _policy(
        self,
        tier: str,
        options: TierOptions,
        codec: Codec,
        *,
        finish_abandoned: bool,
        groups_of: Callable[[Any], tuple[Group, ...]] | None = None,
        is_state: bool = False,
    ) -> TierPolicy:
        policy = TierPolicy(
            tier=tier,
            codec=codec,
            ttl=options.ttl if options.ttl is not None else self._default_ttl,
            l1=options.l1,
            l1_ttl=math.inf if options.l1_ttl is None else float(options.l1_ttl),
            jitter=options.jitter,
            lease=options.lease,
            finish_abandoned=finish_abandoned if options.on_abandon is None else options.on_abandon == "finish",
            groups_of=groups_of,
            store_when=options.store_when,
            is_state=is_state,
            max_value_bytes=options.max_value_bytes,
            writes_behind=self._writes_behind and tier in ("llm", "tool"),
        )
        self._policies.append(policy)
        return policy


async def _sum_of_all(removals: Sequence[Callable[[], Awaitable[int]]]) -> int:
    """Return the sum of what ``removals`` return, each having been tried; raise what the first that failed raised."""
    count = 0
    failure: TierCacheError | None = None
    for remove in removals:
        try:
            count += await remove()
        except TierCacheError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return count


def _limits(options: ResilienceOptions, writes: WriteOptions, *, require_l2: bool) -> Limits:
    return Limits(
        breaker_failures=options.breaker_failures,
        breaker_pause=options.breaker_pause,
        load_timeout=options.load_timeout,
        max_loads=options.max_loads,
        drain_timeout=options.drain_timeout,
        queue=QueueLimits(
            max_delay=writes.max_delay,
            max_ops=writes.max_ops,
            max_bytes=writes.max_bytes,
            max_queue_bytes=writes.max_queue_bytes,
        ),
        serve_untrusted=float(options.serve_untrusted),
        require_l2=require_l2,
    )


def _bounds(options: CoherenceOptions) -> Bounds:
    return Bounds(
        max_staleness=float(options.max_staleness),
        tracking=options.tracking,
        lease_ttl=float(options.lease_ttl),
        lease_wait=options.lease_wait,
    )


def _groups_of(options: TierOptions) -> Callable[[LlmEntry], tuple[Group, ...]] | None:
    """A key function may let requests for several models share an answer: then it is the answer's model that counts."""
    return None if options.key is None else lambda entry: groups_of_model(entry.model)


def _compression(options: TierOptions, *, as_text: bool) -> Compression:
    return Compression(above=options.compress_above, max_bytes=options.max_value_bytes, as_text=as_text)


def _plain(options: TierOptions | None, name: str) -> TierOptions:
    """Return the options of a tier whose keys are not made of a request's parameters."""
    options = _checked(options, name, TierOptions)
    if options.ignore or options.key is not None:
        raise UsageError(f"{name} must be TierOptions without ignore and key, which are the llm tier's alone")
    return options


def _for_session(options: TierOptions | None) -> TierOptions:
    options = _plain(options, "session")
    if options.jitter or options.store_when is not None:
        raise UsageError(
            "session must be TierOptions without jitter and store_when: what is set is kept for its window"
        )
    if options.compress_above is not None:
        raise UsageError("session must be TierOptions without compress_above: others read its values as they are")
    return options


def _checked(options: T | None, name: str, kind: type[T]) -> T:
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise UsageError(f"{name} must be a {kind.__name__}, not {type(options).__name__}")
    return options
