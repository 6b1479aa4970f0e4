"""The kv tiers for plain code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from ..decorators.functions import check_plain
from ..decorators.options import MemoizeManyOptions, MemoizeOptions
from ..engine.call import Mode
from ..engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, ArgumentBatchLoader, BatchFunction
from ..engine.operations.explain import Explanation
from ..identity import KeepsIdentity
from ..portal.portal import PortalIterator
from ..tiers.entries import Entry
from ..tiers.kv.result import KvResult
from ..tiers.kv.tier import KvBatchLoader, KvLoader, KvTier
from ..tiers.result import MissType
from ..tiers.values.json_types import Json, KvValue, StorableInKv
from ..tiers.warm import Items, OnProgress, WarmReport
from ..ttl import Ttl
from .cached import SyncCached, SyncCachedMany
from .cached_generator import SyncCachedGenerator, decorate_items
from .face import SyncFace
from .guard import SyncInvalidating
from .scoped import ScopedFace
from .warm import items_of_caller

__all__ = ["SyncKvTier", "SyncMemoizeDecorator"]

P = ParamSpec("P")
R = TypeVar("R", bound=KvValue)
I = TypeVar("I")  # noqa: E741 - an item
Many = TypeVar("Many", bound=Sequence[KvValue] | Mapping[Any, KvValue])
T = TypeVar("T", bound=KvValue)
J = TypeVar("J", bound=Json)


class SyncMemoizeDecorator(Protocol):
    """The decorator that ``memoize`` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Iterator[J]], /) -> SyncCachedGenerator[P, J]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncCached[P, R]: ...


class SyncKvTier(KeepsIdentity):
    """``cache.sync.kv``, or a tier of ``cache.sync.tier``: the methods of ``KvTier`` for plain code.

    Arguments, results and errors are those of ``KvTier``.
    """

    def __init__(self, face: SyncFace, tier: KvTier) -> None:
        self._face = face
        self._tier = tier
        self._scoped = ScopedFace(face, tier._rules.scopes)

    def get(self, key: str, default: Any = None) -> Any:
        """Look up the value of ``key``; return ``default`` if there is no value, as ``KvTier.get``."""
        return self._scoped.run(partial(self._tier.get, key, default))

    def exists(self, key: str) -> bool:
        """Return whether ``get`` would find a value, as ``KvTier.exists``."""
        return self._scoped.run(partial(self._tier.exists, key))

    def set(self, key: str, value: StorableInKv, *, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> None:
        """Store a value, as ``KvTier.set``."""
        self._scoped.run(partial(self._tier.set, key, value, ttl=ttl, tags=tags))

    def delete(self, key: str) -> bool:
        """Remove a value; return whether it was there, as ``KvTier.delete``."""
        return self._scoped.run(partial(self._tier.delete, key))

    def invalidates(self, key: str | Callable[..., str]) -> SyncInvalidating:
        """Return a guard for a change of the source of a value, as ``KvTier.invalidates``."""
        return SyncInvalidating(self._face, self._face.call(self._tier.invalidates, key), self._scoped)

    @overload
    def memoize(self, function: Callable[P, Iterator[J]], /) -> SyncCachedGenerator[P, J]: ...

    @overload
    def memoize(self, function: Callable[P, R], /) -> SyncCached[P, R]: ...

    @overload
    def memoize(self, /, **options: Unpack[MemoizeOptions]) -> SyncMemoizeDecorator: ...

    def memoize(self, function: Any = None, /, **options: Unpack[MemoizeOptions]) -> Any:
        """Decorate a plain function, so that its values are cached, as ``KvTier.memoize``."""

        def decorate(function: Any) -> SyncCached[Any, Any] | SyncCachedGenerator[Any, Any]:
            return decorate_items(function, self._face, lambda function: self._tier._memoized(function, options))

        return decorate if function is None else decorate(function)

    @overload
    def memoize_many(self, function: Callable[Concatenate[list[I], P], Many], /) -> SyncCachedMany[I, P, Many]: ...

    @overload
    def memoize_many(
        self, /, **options: Unpack[MemoizeManyOptions]
    ) -> Callable[[Callable[Concatenate[list[I], P], Many]], SyncCachedMany[I, P, Many]]: ...

    def memoize_many(self, function: Any = None, /, **options: Unpack[MemoizeManyOptions]) -> Any:
        """Decorate a plain function of many items, so that each value is cached, as ``KvTier.memoize_many``."""

        def decorate(function: Any) -> SyncCachedMany[Any, Any, Any]:
            check_plain(function)
            return SyncCachedMany(function, self._face, self._tier._memoized_many(function, options))

        return decorate if function is None else decorate(function)

    def explain(self, key: str) -> Explanation:
        """Return where the value of ``key`` is, as ``KvTier.explain``."""
        return self._scoped.run(partial(self._tier.explain, key))

    @overload
    def get_or_load(  # type: ignore[overload-overlap]
        self, key: str, loader: KvLoader[T], *, mode: Literal["only_cached"]
    ) -> KvResult[T | MissType]: ...

    @overload
    def get_or_load(
        self,
        key: str,
        loader: KvLoader[T],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> KvResult[T]: ...

    def get_or_load(
        self,
        key: str,
        loader: KvLoader[Any],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> KvResult[Any]:
        """Return the value of ``key``; on a miss, load it at most once at a time, as ``KvTier.get_or_load``.

        Args:
            loader: As there. It runs where the loader of ``SyncLlmTier.get_or_load`` does.
        """
        load: Any = self._tier.get_or_load
        return self._scoped.run(partial(load, key, loader, ttl=ttl, tags=tags, mode=mode))

    def batch_loader(
        self, fn: BatchFunction[str, T], *, window: float = BATCH_WINDOW, max_size: int = BATCH_SIZE
    ) -> ArgumentBatchLoader[str, T]:
        """Return a loader for ``get_or_load`` of this tier alone, as ``KvTier.batch_loader``.

        Args:
            fn: As there. A plain ``fn`` runs in the thread of one of the callers that wait for the batch.
        """
        return self._tier.batch_loader(fn, window=window, max_size=max_size)

    def get_many(self, keys: Iterable[str], default: Any = None) -> dict[str, Any]:
        """Return the value of each key, or ``default``, as ``KvTier.get_many``."""
        return self._scoped.run(partial(self._tier.get_many, keys, default))

    def set_many(
        self, mapping: Mapping[str, StorableInKv], *, ttl: Ttl | None = None, tags: Sequence[str] = ()
    ) -> None:
        """Store the values of a mapping, as ``KvTier.set_many``."""
        self._scoped.run(partial(self._tier.set_many, mapping, ttl=ttl, tags=tags))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove values; return how many there were, as ``KvTier.delete_many``."""
        return self._scoped.run(partial(self._tier.delete_many, keys))

    def delete_pattern(self, pattern: str, *, dry_run: bool = False) -> int:
        """Remove the values whose keys match a pattern; return how many there were, as ``KvTier.delete_pattern``."""
        return self._scoped.run(partial(self._tier.delete_pattern, pattern, dry_run=dry_run))

    def get_or_load_many(
        self, keys: Iterable[str], loader: KvBatchLoader[T], *, ttl: Ttl | None = None, tags: Sequence[str] = ()
    ) -> dict[str, T]:
        """Return the value of each key; load the missing keys by one call, as ``KvTier.get_or_load_many``."""
        return self._scoped.run(partial(self._tier.get_or_load_many, keys, loader, ttl=ttl, tags=tags))

    @overload
    def warm(
        self,
        items: Items[str],
        loader: KvLoader[Any],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[str]: ...

    @overload
    def warm(
        self,
        items: Items[tuple[str, KvLoader[Any]]],
        loader: None = None,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[str, KvLoader[Any]]]: ...

    def warm(
        self,
        items: Items[Any],
        loader: KvLoader[Any] | None = None,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Any]:
        """Load the entries that the cache lacks ahead of their callers, as ``KvTier.warm``.

        Args:
            items: As there. Plain items are read in the thread of the caller.
            loader: As there. Plain loaders run in new threads, and ``on_progress`` on the private thread.
        """
        warm: Any = partial(self._tier.warm, ttl=ttl, tags=tags, concurrency=concurrency, on_progress=on_progress)
        report: WarmReport[Any] = self._scoped.run(partial(warm, items_of_caller(items), loader))
        return report

    def inspect(self, key: str) -> Entry:
        """Return the entry of ``key`` in both levels, as ``KvTier.inspect``."""
        return self._scoped.run(partial(self._tier.inspect, key))

    def scan(self, match: str | None = None) -> Iterator[Entry]:
        """Return an iterator over the entries of this tier, as ``KvTier.scan``."""
        entries = self._scoped.call(self._tier.scan, match)
        return PortalIterator(self._face.portal, lambda: entries)

    def clear(self) -> int:
        """Remove every entry of the tier; return how many there were, as ``KvTier.clear``."""
        return self._face.run(self._tier.clear)
