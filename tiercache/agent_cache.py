"""AgentCache: where the parts are put together."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack

from .embedded import EmbeddedValkey
from .engine.clock import SYSTEM_CLOCK, Clock
from .engine.engine import Engine
from .engine.l1 import L1
from .engine.level2 import Level2
from .engine.policy import Codec, TierPolicy
from .engine.runtime import Limits
from .engine.ttl import Ttl, check_ttl
from .errors import UsageError
from .l2.connect import Client, Settings, client_from_url
from .l2.store import ValkeyLevel2
from .options import L1Options, ResilienceOptions, TierOptions
from .pricing.prices import ModelPrice, PriceTable
from .stats import LocalStats
from .tiers.llm import LlmTier
from .tiers.llm_entry import LlmCodec
from .tiers.llm_key import LlmKeys
from .tiers.tool import ToolTier
from .tiers.tool_entry import ToolCodec

__all__ = ["AgentCache", "CacheOptions"]

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class CacheOptions(TypedDict, total=False):
    """The keyword options that every way to make a cache takes; see ``AgentCache``."""

    name: str
    default_ttl: Ttl | None
    llm: TierOptions
    tool: TierOptions
    l1: L1Options
    resilience: ResilienceOptions
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
        l1: Bounds of process memory.
        resilience: Deadlines and limits.
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
        l1: L1Options | None = None,
        resilience: ResilienceOptions | None = None,
        prices: Mapping[str, ModelPrice | tuple[float, float]] | None = None,
        use_default_prices: bool = True,
        require_l2: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
            raise UsageError(f"name must be 1 to 128 of A-Z a-z 0-9 _ . - and not begin with '__', not {name!r}")
        if default_ttl is not None:
            check_ttl(default_ttl, "default_ttl")
        bounds = _checked(l1, "l1", L1Options)
        resilience = _checked(resilience, "resilience", ResilienceOptions)
        self._name = name
        self._default_ttl = default_ttl
        self._server: EmbeddedValkey | None = None
        self._l2_timeout = resilience.l2_timeout
        self._engine = Engine(
            l1=L1(max_entries=bounds.max_entries, max_bytes=bounds.max_bytes),
            connect=None if client is None else partial(self._connect, Settings.from_client(client)),
            limits=_limits(resilience, require_l2=require_l2),
            clock=clock,
        )
        self._policies: list[TierPolicy] = []
        self._tool = ToolTier(
            self._engine,
            self._policy("tool", _for_tool(tool), ToolCodec(), finish_abandoned=False),
            f"{name}:tool:",
        )
        options = _checked(llm, "llm", TierOptions)
        prefix = f"{name}:llm:"
        self._llm = LlmTier(
            self._engine,
            self._policy("llm", options, LlmCodec(), finish_abandoned=True),
            LlmKeys(prefix, ignore=options.ignore, transform=options.key),
            PriceTable(prices, use_default=use_default_prices),
            prefix,
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

    def clear_l1(self) -> int:
        """Forget what is in process memory, for every tier; return how many entries. Valkey keeps its own."""
        return self._engine.l1.clear()

    async def flush_writes(self) -> None:
        """Return when every write queued so far, fills included, has been answered by Valkey, well or ill."""
        await self._engine.flush_writes()

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
        )

    def __repr__(self) -> str:
        return f"<AgentCache {self._name!r}>"

    async def _connect(self, settings: Settings) -> Level2:
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
        return ValkeyLevel2(settings, timeout=self._l2_timeout)

    def _policy(self, tier: str, options: TierOptions, codec: Codec, *, finish_abandoned: bool) -> TierPolicy:
        policy = TierPolicy(
            tier=tier,
            codec=codec,
            ttl=options.ttl if options.ttl is not None else self._default_ttl,
            l1=options.l1,
            l1_ttl=math.inf if options.l1_ttl is None else float(options.l1_ttl),
            jitter=options.jitter,
            finish_abandoned=finish_abandoned if options.on_abandon is None else options.on_abandon == "finish",
        )
        self._policies.append(policy)
        return policy


def _limits(options: ResilienceOptions, *, require_l2: bool) -> Limits:
    return Limits(
        breaker_failures=options.breaker_failures,
        breaker_pause=options.breaker_pause,
        load_timeout=options.load_timeout,
        max_loads=options.max_loads,
        drain_timeout=options.drain_timeout,
        max_queue_bytes=options.max_queue_bytes,
        require_l2=require_l2,
    )


def _for_tool(options: TierOptions | None) -> TierOptions:
    options = _checked(options, "tool", TierOptions)
    if options.ignore or options.key is not None:
        raise UsageError("tool must be TierOptions without ignore and key, which are the llm tier's alone")
    return options


def _checked(options: T | None, name: str, kind: type[T]) -> T:
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise UsageError(f"{name} must be a {kind.__name__}, not {type(options).__name__}")
    return options
