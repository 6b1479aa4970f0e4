"""SyncCache: the operations of a whole cache for plain code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from ..agents.starting import StartsSyncAgentRuns
from ..cache_operations import local_stats
from ..decorators.options import MemoizeManyOptions, MemoizeOptions
from ..engine.call import Mode
from ..hooks import RegistersHooks
from ..identity import KeepsIdentity
from ..monitor.effectiveness import ToolEffectiveness
from ..monitor.local_stats import LocalStats
from ..monitor.statistics import CacheStats
from ..scopes import Scope
from ..tier_options import TierOptions
from ..tiers.golden import GoldenReport
from ..tiers.runtime_settings import RuntimeSettings
from ..tiers.values.json_types import Json, KvValue
from ..ttl import Ttl
from .cached import SyncCached, SyncCachedMany
from .cached_generator import SyncCachedGenerator
from .checkpoints import SyncCheckpointTier
from .face import SyncFace
from .guard import SyncInvalidating
from .kv import SyncKvTier, SyncMemoizeDecorator
from .llm import SyncLlmTier
from .session import SyncSessionTier
from .tool import SyncToolTier

__all__ = ["SyncCache"]

P = ParamSpec("P")
R = TypeVar("R", bound=KvValue)
J = TypeVar("J", bound=Json)
I = TypeVar("I")  # noqa: E741 - an item
Many = TypeVar("Many", bound=Sequence[KvValue] | Mapping[Any, KvValue])


class SyncCache(RegistersHooks, StartsSyncAgentRuns, KeepsIdentity):
    """``cache.sync``: the same cache for plain (blocking) code and any number of threads.

    Every method has the arguments, the results and the errors of the method of the same name of ``AgentCache``, and of
    its tiers. The work runs on a private event loop, on a thread that starts at the first use. The async face of the
    cache need not be open. Where both faces are in use, each sees the changes of the other at once.

    Use it in a ``with`` block, or call ``close`` at the end; ``AgentCache.aclose`` closes it too.

    Every method raises UsageError on a closed cache, and in an async loader of ``cache.sync``, which runs on the
    private loop itself. A cache of process memory alone has one face: the other face raises UsageError.
    """

    def __init__(self, face: SyncFace, name: str, calls: Callable[..., AbstractContextManager[None]]) -> None:
        RegistersHooks.__init__(self, face.main.shared.hooks)
        shared = face.main.shared
        StartsSyncAgentRuns.__init__(self, shared.log, shared.settings.clock, self.invalidate_tag)
        self._face = face
        self._name = name
        self._calls = calls

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect to Valkey. The first use connects too, so this call is optional. Errors as ``AgentCache.open``."""
        self._face.run(self._face.parts.open)

    def close(self) -> None:
        """Finish loads and writes within ``ResilienceOptions.drain_timeout``, and end the private thread.

        Unless the async face is open on an event loop, the whole cache is closed. If it is open, it goes on, until
        ``AgentCache.aclose``. A second call does nothing.
        """
        self._face.close()

    @property
    def name(self) -> str:
        """The name of the cache, with which its keys begin."""
        return self._name

    @property
    def llm(self) -> SyncLlmTier:
        """The tier for answers of language models."""
        return SyncLlmTier(self._face, self._face.parts.llm)

    @property
    def tool(self) -> SyncToolTier:
        """The tier for results of tool calls."""
        return SyncToolTier(self._face, self._face.parts.tool)

    @property
    def session(self) -> SyncSessionTier:
        """The tier for the state of threads."""
        return SyncSessionTier(self._face, self._face.parts.session)

    @property
    def checkpoints(self) -> SyncCheckpointTier:
        """The tier for the states of graphs, which savers of frameworks use."""
        return SyncCheckpointTier(self._face, self._face.parts.checkpoints)

    @property
    def kv(self) -> SyncKvTier:
        """The tier for all other values, by keys that the caller chooses."""
        return self.tier("kv")

    def tier(self, name: str, options: TierOptions | None = None) -> SyncKvTier:
        """Return the kv tier ``name``, made now or by an earlier call, as ``AgentCache.tier``."""
        return SyncKvTier(self._face, self._face.kv_tier(name, options))

    @overload
    def memoize(self, function: Callable[P, Iterator[J]], /) -> SyncCachedGenerator[P, J]: ...

    @overload
    def memoize(self, function: Callable[P, R], /) -> SyncCached[P, R]: ...

    @overload
    def memoize(self, /, *, tier: str = "memo", **options: Unpack[MemoizeOptions]) -> SyncMemoizeDecorator: ...

    def memoize(self, function: Any = None, /, *, tier: str = "memo", **options: Unpack[MemoizeOptions]) -> Any:
        """Decorate a plain function or generator, so that its values are cached, as ``AgentCache.memoize``."""
        decorate = self.tier(tier).memoize(**options)
        return decorate if function is None else decorate(function)

    @overload
    def memoize_many(self, function: Callable[Concatenate[list[I], P], Many], /) -> SyncCachedMany[I, P, Many]: ...

    @overload
    def memoize_many(
        self, /, *, tier: str = "memo", **options: Unpack[MemoizeManyOptions]
    ) -> Callable[[Callable[Concatenate[list[I], P], Many]], SyncCachedMany[I, P, Many]]: ...

    def memoize_many(
        self, function: Any = None, /, *, tier: str = "memo", **options: Unpack[MemoizeManyOptions]
    ) -> Any:
        """Decorate a plain function of many items, each of whose values is cached, as ``AgentCache.memoize_many``."""
        decorate = self.tier(tier).memoize_many(**options)
        return decorate if function is None else decorate(function)

    def calls(
        self,
        *,
        mode: Mode | None = None,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: Scope | None = None,
        stateful: bool | None = None,
    ) -> AbstractContextManager[None]:
        """Return a context whose options count for the calls within it, on both faces, as ``AgentCache.calls``."""
        return self._calls(mode=mode, ttl=ttl, tags=tags, scope=scope, stateful=stateful)

    def clear_l1(self) -> int:
        """Clear L1 of both faces; return how many entries it had, as ``AgentCache.clear_l1``."""
        return self._face.call(self._face.parts.sides.clear_l1)

    def flush_writes(self) -> None:
        """Return when Valkey has answered every write of this face queued so far, as ``AgentCache.flush_writes``."""
        self._face.run(self._face.parts.sides.flush_writes)

    def flush(self, *, include_session: bool = False) -> int:
        """Remove every entry of the llm, tool and kv tiers; return how many, as ``AgentCache.flush``."""
        return self._face.run(partial(self._face.operations.flush, include_session=include_session))

    def verify(self, file: str | os.PathLike[str]) -> GoldenReport:
        """Compare the answers of the cache with those of a golden file, as ``AgentCache.verify``."""
        return self._face.run(partial(self._face.operations.verify, file))

    def invalidate_tag(self, *tags: str) -> int:
        """Remove every entry that was stored with any of ``tags``, as ``AgentCache.invalidate_tag``."""
        return self._face.run(partial(self._face.operations.invalidate_tag, *tags))

    def reindex(self) -> int:
        """Add every entry under this name to its index, as ``AgentCache.reindex``."""
        return self._face.run(self._face.operations.reindex)

    def invalidates(self, *tags: str | Callable[..., str]) -> SyncInvalidating:
        """Return a guard for a change of the source data of tagged entries, as ``AgentCache.invalidates``."""
        return SyncInvalidating(self._face, self._face.operations.invalidates(*tags))

    def configure(self, tier: str, settings: RuntimeSettings | None, *, tool: str | None = None) -> None:
        """Change the settings of a tier or of one tool, in every process, as ``AgentCache.configure``."""
        self._face.run(partial(self._face.operations.configure, tier, settings, tool))

    def settings(self, tier: str, *, tool: str | None = None) -> RuntimeSettings | None:
        """Return the settings of a tier or of a tool, as ``AgentCache.settings``."""
        return self._face.operations.settings(tier, tool)

    def refresh_settings(self) -> bool:
        """Read the settings of all tiers and tools from Valkey, as ``AgentCache.refresh_settings``."""
        return self._face.run(self._face.operations.refresh_settings)

    def stats(self) -> CacheStats:
        """Return the statistics of all processes under this name, as ``AgentCache.stats``, with both faces' calls."""
        return self._face.run(self._face.operations.stats)

    def tool_effectiveness(self, *, min_samples: int = 1) -> list[ToolEffectiveness]:
        """Return how well caching pays for each tool, as ``AgentCache.tool_effectiveness``."""
        return self._face.run(partial(self._face.operations.tool_effectiveness, min_samples=min_samples))

    def local_stats(self) -> LocalStats:
        """Return the counts of both faces in this process, as ``AgentCache.local_stats``."""
        return local_stats(self._face.main.shared)

    def __repr__(self) -> str:
        return f"<SyncCache {self._name!r}>"
