"""AgentCache: the public class. ``assembly`` builds its parts; this module documents every option, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypedDict, Unpack, cast

from .adapters.http.wrapping import WrapsClients
from .agents.starting import StartsAgentRuns
from .assembly import Assembly
from .cache_operations import CacheOperations, local_stats
from .clock import SYSTEM_CLOCK, Clock
from .configurable import Configurable
from .embedded import EmbeddedValkey
from .engine.operations.around_change import Invalidating
from .hooks import RegistersHooks
from .identity import KeepsIdentity
from .monitor.applications import DEFAULT_NAME
from .monitor.effectiveness import ToolEffectiveness
from .monitor.local_stats import LocalStats
from .monitor.statistics import CacheStats
from .options import (
    CoherenceOptions,
    ConnectionOptions,
    DiscoveryOptions,
    L1Options,
    ResilienceOptions,
    TelemetryOptions,
    WriteOptions,
)
from .pricing.prices import ModelPrice
from .settings import CacheSettings
from .shared_parts import NO_COPIES, SharedParts
from .stores.valkey.settings import Client, client_from_url
from .sync.cache import SyncCache
from .sync.face import SyncFace
from .tier_options import LlmOptions, SessionOptions, TierOptions
from .tiers.checkpoints.tier import CheckpointTier
from .tiers.golden import GoldenReport
from .tiers.kv.decorates import DecoratesFunctions
from .tiers.kv.tier import KvTier
from .tiers.llm.tier import LlmTier
from .tiers.session.tier import SessionTier
from .tiers.tool.tier import ToolTier
from .ttl import Ttl

__all__ = ["AgentCache", "CacheOptions"]


class CacheOptions(TypedDict, total=False):
    """The keyword options that every way to make a cache takes; see ``AgentCache``."""

    name: str
    default_ttl: Ttl | None
    llm: LlmOptions | TierOptions
    tool: TierOptions
    session: SessionOptions | TierOptions
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
    clients: Mapping[str, Client | str] | None
    clock: Clock


class AgentCache(DecoratesFunctions, RegistersHooks, Configurable, StartsAgentRuns, KeepsIdentity, WrapsClients):
    """A cache for the workers of AI agents: L1, process memory, in front of L2, Valkey.

    Making a cache does no I/O and starts no task, so a module can make one at its top level. The cache opens itself at
    its first use, or by ``open`` or ``async with``. A cache belongs to the event loop that uses it. When that loop is
    closed, and in a forked process, the cache starts again with new connections. Writes in progress when
    ``asyncio.run`` ends are finished.

    Args:
        client: A ``valkey.asyncio.Valkey``, or None for process memory only. The cache takes the client's settings,
            makes connections of its own, and leaves the client's connections alone.
        name: The prefix of the keys in Valkey: 1 to 128 of ``A-Z a-z 0-9 _ . -``, not beginning with ``__``.
        default_ttl: Lifetime where neither call nor tier gives one; None: entries do not expire.
        llm: Options of the llm tier: LlmOptions, or TierOptions where ``ignore`` and ``key`` are not needed.
        tool: Options of the tool tier.
        session: Options of the session tier: SessionOptions, or TierOptions without the options that sessions lack.
        kv: Options of the kv tier.
        l1: Bounds of process memory.
        coherence: How this process follows the changes of other processes.
        connection: How the cache connects to Valkey.
        writes: Whether stores wait for Valkey, and how much one round trip carries.
        resilience: Deadlines and limits.
        telemetry: Metrics for Prometheus and spans for OpenTelemetry.
        discovery: Whether the cache registers itself for BetterDB Monitor.
        prices: Prices that win over the bundled table: model to (dollars for 1,000 input tokens, output tokens).
        use_default_prices: False leaves the bundled table out.
        require_l2: Whether opening fails while Valkey cannot be reached. Otherwise the cache works without Valkey.
        clients: Servers of single tiers, by the tier's name: a client as above, or a URL. For example ``{"session":
            "valkey://state:6379/1"}`` keeps the session tier, with checkpoints and the stores of frameworks, on a
            server that evicts nothing. Each server has an L1 of its own, with the bounds of ``l1``. Every process of
            the cache needs the same clients. Calls on the whole cache, as ``flush`` and ``invalidate_tag``, go to
            every server; statistics and settings are on the first one alone.
        clock: The source of time, for tests.

    Raises:
        UsageError: An argument is wrong. The message names the argument and the reason.
    """

    def __init__(
        self,
        client: Client | None,
        *,
        name: str = DEFAULT_NAME,
        default_ttl: Ttl | None = None,
        llm: LlmOptions | TierOptions | None = None,
        tool: TierOptions | None = None,
        session: SessionOptions | TierOptions | None = None,
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
        clients: Mapping[str, Client | str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        settings = CacheSettings(
            name=name,
            default_ttl=default_ttl,
            llm=llm,
            tool=tool,
            session=session,
            kv=kv,
            l1=l1,
            coherence=coherence,
            connection=connection,
            writes=writes,
            resilience=resilience,
            telemetry=telemetry,
            discovery=discovery,
            prices=prices,
            use_default_prices=use_default_prices,
            require_l2=require_l2,
            clients=clients,
            clock=clock,
        )
        self._name = name
        self._parts = Assembly(SharedParts(client, settings))
        self._operations = CacheOperations(self._parts, name)
        self._sync_face = SyncFace(self._parts, name)
        RegistersHooks.__init__(self, self._parts.shared.hooks)
        Configurable.__init__(self, self._operations)
        StartsAgentRuns.__init__(self, self._parts.shared.log, clock, self._operations.invalidate_tag)
        WrapsClients.__init__(self, self._parts.exchanges, self._sync_face, self._parts.shared.log)
        self._sync = SyncCache(self._sync_face, name, self._client_calls.calls)
        self._sides = self._parts.sides
        self._llm = self._parts.llm
        self._tool = self._parts.tool
        self._session = self._parts.session
        self._kv = self._parts.kv_tier("kv")

    @classmethod
    def from_url(cls, url: str, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache on the Valkey at ``url``: valkey, valkeys (TLS), redis, rediss or unix.

        Raises:
            UsageError: The URL cannot be parsed; the message shows the form of a URL.
        """
        return cls(client_from_url(url), **options)

    @classmethod
    def embedded(cls, data_dir: str | os.PathLike[str] | None = None, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache on a private Valkey, which starts at the first use and ends at ``aclose`` or with the process.

        Args:
            data_dir: Folder that keeps the entries across runs, or None to keep none.

        Raises:
            UsageError: The ``embedded`` extra is not installed. The first use raises it if ``data_dir`` is in use.
        """
        server = EmbeddedValkey(data_dir)
        cache = cls.from_url(server.url, **options)
        cache._parts.shared.server = server
        return cache

    @classmethod
    def in_memory(cls, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache of process memory alone: no server, no sockets."""
        return cls(None, **options)

    @classmethod
    def null(cls, **options: Unpack[CacheOptions]) -> AgentCache:
        """Return a cache that stores no llm, tool and kv entries: no server, no sockets.

        Every lookup misses and every load runs; concurrent callers of one key still share one load. Stores are accepted
        and dropped. Session state is no copy of other data: it stays in process memory, as with ``in_memory``.
        """
        return cls(cast("Client", NO_COPIES), **options)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect to Valkey. The first use connects too, so this call is optional.

        If Valkey does not answer, the cache logs one warning, works degraded, and asks Valkey again later. If the call
        fails or is cancelled, it closes its tasks and connections, unless other calls wait for the same opening.

        Raises:
            L2UnavailableError: No answer, and ``require_l2`` is set. The next call tries again.
            L2CommandError: Valkey refused the credentials.
            UsageError: The cache is closed.
            WrongLoopError: The cache belongs to another event loop that is still open.
        """
        await self._parts.open()

    async def aclose(self) -> None:
        """Finish loads and writes within ``ResilienceOptions.drain_timeout``, and close the connections.

        Loads that still run after that are cancelled, and their waiters get UsageError. This closes ``sync`` too, and
        ends its thread. A second call does nothing.
        """
        await self._sync_face.aclose()
        await self._parts.aclose()
        await self._parts.stop_server()

    @property
    def name(self) -> str:
        """The name of the cache, with which its keys begin."""
        return self._name

    @property
    def llm(self) -> LlmTier:
        """The tier for answers of language models."""
        return self._llm

    @property
    def tool(self) -> ToolTier:
        """The tier for results of tool calls."""
        return self._tool

    @property
    def session(self) -> SessionTier:
        """The tier for the state of threads."""
        return self._session

    @property
    def checkpoints(self) -> CheckpointTier:
        """The tier for the states of graphs, which savers of frameworks use."""
        return self._parts.checkpoints

    @property
    def kv(self) -> KvTier:
        """The tier for all other values, by keys that the caller chooses."""
        return self._kv

    @property
    def sync(self) -> SyncCache:
        """The same cache for plain code: every method, without ``await``. See ``SyncCache``."""
        return self._sync

    def tier(self, name: str, options: TierOptions | None = None) -> KvTier:
        """Return the kv tier ``name``, made now or by an earlier call.

        Args:
            name: 1 to 128 of ``A-Z a-z 0-9 _ -``; not llm, tool or session. "kv" is ``cache.kv``.
            options: None takes the options that the tier was made with, or the defaults for a new tier.

        Raises:
            UsageError: An argument is wrong, or an earlier call made the tier with other options.
        """
        return self._parts.kv_tier(name, options)

    def clear_l1(self) -> int:
        """Clear L1 for every tier, that of ``sync`` too; return how many entries it had. Valkey keeps its entries."""
        return self._sides.clear_l1()

    async def flush_writes(self) -> None:
        """Return when Valkey has answered every write queued so far, fills included, with success or an error."""
        await self._sides.flush_writes()

    async def flush(self, *, include_session: bool = False) -> int:
        """Remove every entry of the llm, tool and kv tiers, and every pin; return how many there were.

        Args:
            include_session: Whether to remove the sessions too. Sessions are state and exist nowhere else.

        Statistics, tool policies, and all keys under other names stay.

        Raises:
            L2UnavailableError, L2CommandError: Some entries may be left in Valkey; L1 of this process has none.
        """
        return await self._operations.flush(include_session=include_session)

    async def verify(self, file: str | os.PathLike[str]) -> GoldenReport:
        """Compare the answers of the llm and tool tiers, pins among them, with those of a golden file.

        The report is true if the cache has every answer as expected. Statistics and entries stay as they are.

        Args:
            file: JSON Lines in UTF-8, one object for each expected answer: ``{"tier": "llm", "params": {...},
                "response": "..."}`` or ``{"tier": "tool", "tool": "...", "args": {...}, "value": ...}``.

        Raises:
            UsageError: A line is wrong; the message has its number. No answer has been looked up.
            OSError: The file cannot be read.
            L2UnavailableError: Valkey did not answer.
        """
        return await self._operations.verify(file)

    async def invalidate_tag(self, *tags: str) -> int:
        """Remove every entry that was stored with any of ``tags``, of all tiers; return how many there were.

        The promise is that of ``LlmTier.invalidate``. The cost grows with the number of entries that have the tag, not
        with the number of keys in Valkey: the index of the tag has the keys of these entries.

        Raises:
            L2UnavailableError: The entries may still be in Valkey. This process repeats the invalidation until Valkey
                acknowledges it, and reads no llm, tool or kv entry from Valkey until then: any could have the tag.
            L2CommandError: Valkey refused the invalidation.
        """
        return await self._operations.invalidate_tag(*tags)

    async def reindex(self) -> int:
        """Add every entry under this name to its index, also of other software; return how many were in no index.

        Afterwards the cost of ``LlmTier.invalidate_by_model``, ``ToolTier.invalidate_by_tool`` and of the session
        methods for whole threads grows only with the entries that they touch. A new name needs no reindex: call it for
        a name that had entries before tiercache used it, or whose entries other software writes. The reindex looks at
        every key that Valkey holds and at the value of every llm entry. Other processes may write at the same time.

        The indexes stay incomplete, and a warning is logged, if other software is registered under the name or was in
        the last minute and a half, or if Valkey evicts keys.

        Raises:
            L2UnavailableError, L2CommandError: Some entries may have been added. Call it again.
        """
        return await self._operations.reindex()

    def invalidates(self, *tags: str | Callable[..., str]) -> Invalidating:
        """Return a guard for a change of the source data of tagged entries: ``async with``, or a decorator.

        The guard removes the entries before and after the change. Between the two this process stores no entry with
        the tag. The promise and the errors are those of ``invalidate_tag``.

        Args:
            tags: Tags. A decorator also takes functions that return a tag from the arguments of the decorated call.
        """
        return self._operations.invalidates(*tags)

    async def stats(self) -> CacheStats:
        """Return the statistics of all processes under this name, including every call of this process up to now.

        The calls of ``sync`` are included.

        Raises:
            L2UnavailableError, L2CommandError: The statistics could not be read.
        """
        return await self._operations.stats()

    async def tool_effectiveness(self, *, min_samples: int = 1) -> list[ToolEffectiveness]:
        """Return how well caching pays for each tool, the tool with the most dollars saved first.

        Args:
            min_samples: Lookups that a tool needs to be rated, at least 1.

        The errors are those of ``stats``.
        """
        return await self._operations.tool_effectiveness(min_samples=min_samples)

    def local_stats(self) -> LocalStats:
        """Return the counts of this process since the cache was made, those of ``sync`` too. Any thread may call it."""
        return local_stats(self._parts.shared)

    def __del__(self) -> None:
        # The constructor may have failed before it set the sides.
        if hasattr(self, "_sides"):
            self._sides.warn_if_left_open()

    def __repr__(self) -> str:
        return f"<AgentCache {self._name!r}>"
