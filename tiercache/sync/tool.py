"""The tool tier for plain code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, ParamSpec, Protocol, Unpack, overload

from ..agents.run import PLACE, answer_plain_call
from ..decorators.options import CachedToolOptions
from ..engine.call import Mode
from ..engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, BatchFunction, KeywordBatchLoader
from ..engine.operations.explain import Explanation
from ..identity import KeepsIdentity
from ..portal.portal import PortalIterator
from ..tiers.entries import Entry
from ..tiers.keys.key import ToolKey
from ..tiers.pinning import Pin
from ..tiers.tool.key import ABSENT
from ..tiers.tool.loader import T, ToolLoader
from ..tiers.tool.policies import ToolPolicy
from ..tiers.tool.result import ToolResult
from ..tiers.tool.tier import ToolTier
from ..tiers.values.json_types import Storable
from ..tiers.warm import Items, OnProgress, WarmReport
from ..ttl import Ttl
from .cached import SyncCached
from .cached_generator import SyncCachedGenerator, decorate_items
from .face import SyncFace
from .guard import SyncInvalidating
from .scoped import ScopedFace
from .warm import items_of_caller

__all__ = ["SyncCachedToolDecorator", "SyncToolTier"]

P = ParamSpec("P")


class SyncCachedToolDecorator(Protocol):
    """The decorator that ``cached`` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Iterator[T]], /) -> SyncCachedGenerator[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, T], /) -> SyncCached[P, T]: ...


class SyncToolTier(KeepsIdentity):
    """``cache.sync.tool``: the methods of ``ToolTier`` for plain code, with the same arguments, results and errors."""

    def __init__(self, face: SyncFace, tier: ToolTier) -> None:
        self._face = face
        self._tier = tier
        self._scoped = ScopedFace(face, tier._rules.scopes)
        # Its overloads refuse the union of their arguments.
        self._any_tier: Any = tier

    def key(self, tool: str, args: Any) -> ToolKey:
        """Return the key of a call with ``args`` as they are now, as ``ToolTier.key``."""
        return self._scoped.call(self._tier.key, tool, args)

    @overload
    def cached(self, function: Callable[P, Iterator[T]], /) -> SyncCachedGenerator[P, T]: ...

    @overload
    def cached(self, function: Callable[P, T], /) -> SyncCached[P, T]: ...

    @overload
    def cached(self, name: str | None = None, /, **options: Unpack[CachedToolOptions]) -> SyncCachedToolDecorator: ...

    def cached(self, name: Any = None, /, **options: Unpack[CachedToolOptions]) -> Any:
        """Decorate a plain function that is a tool, so that its results are cached, as ``ToolTier.cached``."""

        def decorate(function: Any, tool: str | None = None) -> SyncCached[Any, Any] | SyncCachedGenerator[Any, Any]:
            return decorate_items(function, self._face, lambda function: self._tier._cached(function, tool, options))

        return decorate(name) if callable(name) else lambda function: decorate(function, name)

    @overload
    def check(self, tool: ToolKey, /) -> ToolResult[Any]: ...

    @overload
    def check(self, tool: str, args: Any) -> ToolResult[Any]: ...

    def check(self, tool: str | ToolKey, args: Any = ABSENT) -> ToolResult[Any]:
        """Look up the result of a call, as ``ToolTier.check``."""
        return self._scoped.run(partial(self._any_tier.check, tool, args))

    @overload
    def get_or_load(
        self, tool: ToolKey, loader: ToolLoader[T], /, *, mode: Literal["only_cached"]
    ) -> ToolResult[T | None]: ...

    @overload
    def get_or_load(
        self, tool: str, args: Any, loader: ToolLoader[T], *, mode: Literal["only_cached"]
    ) -> ToolResult[T | None]: ...

    @overload
    def get_or_load(
        self,
        tool: ToolKey,
        loader: ToolLoader[T],
        /,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> ToolResult[T]: ...

    @overload
    def get_or_load(
        self,
        tool: str,
        args: Any,
        loader: ToolLoader[T],
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> ToolResult[T]: ...

    def get_or_load(
        self,
        tool: str | ToolKey,
        args: Any,
        loader: Any = ABSENT,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> ToolResult[Any]:
        """Return the result of a call; on a miss, make the call at most once at a time, as ``ToolTier.get_or_load``.

        Args:
            loader: As there. It runs where the loader of ``SyncLlmTier.get_or_load`` does.
        """
        load = partial(
            self._any_tier.get_or_load, tool, args, loader, ttl=ttl, cost=cost, tags=tags, mode=mode, per_run=per_run
        )
        if PLACE.get() is None:
            return self._scoped.run(load)
        # The run counts a key alone. After a key, the loader stands for the args.
        if per_run:
            key = self._scoped.call(self._tier._run_key, tool, args)
        else:
            key = tool if isinstance(tool, ToolKey) else self.key(tool, args)
        given = args if loader is ABSENT else loader
        return answer_plain_call(key.tool, key.key, partial(self._scoped.run, load), given)

    def batch_loader(
        self,
        fn: BatchFunction[dict[str, Any], T],
        *,
        window: float = BATCH_WINDOW,
        max_size: int = BATCH_SIZE,
    ) -> KeywordBatchLoader[T]:
        """Return a loader for ``get_or_load`` of this tier alone, as ``ToolTier.batch_loader``.

        Args:
            fn: As there. A plain ``fn`` runs in the thread of one of the callers that wait for the batch.
        """
        return self._tier.batch_loader(fn, window=window, max_size=max_size)

    @overload
    def store(
        self,
        tool: ToolKey,
        response: Storable,
        /,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str: ...

    @overload
    def store(
        self,
        tool: str,
        args: Any,
        response: Storable,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str: ...

    def store(
        self,
        tool: str | ToolKey,
        args: Any,
        response: Any = ABSENT,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store the result of a call; return its key, as ``ToolTier.store``."""
        key: str = self._scoped.run(partial(self._any_tier.store, tool, args, response, ttl=ttl, cost=cost, tags=tags))
        return key

    @overload
    def invalidate(self, tool: ToolKey, /) -> bool: ...

    @overload
    def invalidate(self, tool: str, args: Any) -> bool: ...

    def invalidate(self, tool: str | ToolKey, args: Any = ABSENT) -> bool:
        """Remove the result of a call; return whether it was there, as ``ToolTier.invalidate``."""
        existed: bool = self._scoped.run(partial(self._any_tier.invalidate, tool, args))
        return existed

    @overload
    def invalidates(self, tool: ToolKey, /) -> SyncInvalidating: ...

    @overload
    def invalidates(self, tool: str, args: Any) -> SyncInvalidating: ...

    def invalidates(self, tool: str | ToolKey, args: Any = ABSENT) -> SyncInvalidating:
        """Return a guard for a change of the source of a result, as ``ToolTier.invalidates``."""
        return SyncInvalidating(self._face, self._face.call(self._any_tier.invalidates, tool, args), self._scoped)

    @overload
    def explain(self, tool: ToolKey, /) -> Explanation: ...

    @overload
    def explain(self, tool: str, args: Any) -> Explanation: ...

    def explain(self, tool: str | ToolKey, args: Any = ABSENT) -> Explanation:
        """Return where the result of a call is, as ``ToolTier.explain``."""
        explanation: Explanation = self._scoped.run(partial(self._any_tier.explain, tool, args))
        return explanation

    def invalidate_by_tool(self, tool: str, *, sweep: bool = False) -> int:
        """Remove every result of ``tool``; return how many, as ``ToolTier.invalidate_by_tool``."""
        return self._face.run(partial(self._tier.invalidate_by_tool, tool, sweep=sweep))

    @overload
    def pin(self, tool: ToolKey, value: Storable, /, *, cost: float | None = None) -> str: ...

    @overload
    def pin(self, tool: str, args: Any, value: Storable, *, cost: float | None = None) -> str: ...

    def pin(self, tool: str | ToolKey, args: Any, value: Any = ABSENT, *, cost: float | None = None) -> str:
        """Give a call an approved result, which wins over the tool and the cache, as ``ToolTier.pin``."""
        key: str = self._scoped.run(partial(self._any_tier.pin, tool, args, value, cost=cost))
        return key

    @overload
    def unpin(self, tool: ToolKey, /) -> bool: ...

    @overload
    def unpin(self, tool: str, args: Any) -> bool: ...

    def unpin(self, tool: str | ToolKey, args: Any = ABSENT) -> bool:
        """Remove the pin of a call; return whether there was one, as ``ToolTier.unpin``."""
        existed: bool = self._scoped.run(partial(self._any_tier.unpin, tool, args))
        return existed

    def pins(self) -> list[Pin]:
        """Return the pins of the tier, as ``ToolTier.pins``."""
        return self._face.run(self._tier.pins)

    def set_policy(self, tool: str, policy: ToolPolicy) -> None:
        """Give the results of ``tool`` a lifetime of their own, as ``ToolTier.set_policy``."""
        self._face.run(partial(self._tier.set_policy, tool, policy))

    def get_policy(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool`` as this process knows it, or None, as ``ToolTier.get_policy``."""
        return self._tier.get_policy(tool)

    def refresh_policies(self) -> bool:
        """Read the policies of all tools from Valkey, as ``ToolTier.refresh_policies``."""
        return self._face.run(self._tier.refresh_policies)

    @overload
    def warm(
        self,
        items: Items[tuple[str, Any]],
        loader: ToolLoader[Any],
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[str, Any]]: ...

    @overload
    def warm(
        self,
        items: Items[tuple[str, Any, ToolLoader[Any]]],
        loader: None = None,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[str, Any, ToolLoader[Any]]]: ...

    def warm(
        self,
        items: Items[Any],
        loader: ToolLoader[Any] | None = None,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Any]:
        """Load the entries that the cache lacks ahead of their callers, as ``ToolTier.warm``.

        Args:
            items: As there. Plain items are read in the thread of the caller.
            loader: As there. Plain loaders run in new threads, and ``on_progress`` on the private thread.
        """
        warm: Any = partial(
            self._tier.warm, ttl=ttl, cost=cost, tags=tags, concurrency=concurrency, on_progress=on_progress
        )
        report: WarmReport[Any] = self._scoped.run(partial(warm, items_of_caller(items), loader))
        return report

    @overload
    def inspect(self, tool: ToolKey, /) -> Entry: ...

    @overload
    def inspect(self, tool: str, args: Any) -> Entry: ...

    def inspect(self, tool: str | ToolKey, args: Any = ABSENT) -> Entry:
        """Return the entry of a call in both levels, as ``ToolTier.inspect``."""
        entry: Entry = self._scoped.run(partial(self._any_tier.inspect, tool, args))
        return entry

    def scan(self, match: str | None = None) -> Iterator[Entry]:
        """Return an iterator over the entries of this tier, as ``ToolTier.scan``."""
        entries = self._scoped.call(self._tier.scan, match)
        return PortalIterator(self._face.portal, lambda: entries)

    def clear(self) -> int:
        """Remove every entry of the tier; return how many there were, as ``ToolTier.clear``."""
        return self._face.run(self._tier.clear)
