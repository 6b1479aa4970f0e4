"""The llm tier for plain code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from ..decorators.options import CachedOptions
from ..engine.call import Mode
from ..engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, ArgumentBatchLoader, BatchFunction
from ..engine.operations.explain import Explanation
from ..identity import KeepsIdentity
from ..portal.portal import PortalIterator
from ..tiers.entries import Entry
from ..tiers.keys.key import LlmKey
from ..tiers.llm.loader import LlmAnswer, LlmLoader, PlainLlmLoader
from ..tiers.llm.result import LlmResponse, LlmResult
from ..tiers.llm.tier import LlmTier
from ..tiers.pinning import Pin
from ..tiers.warm import Items, OnProgress, WarmReport
from ..ttl import Ttl
from .cached import SyncCached
from .cached_generator import SyncCachedGenerator, decorate_items
from .face import SyncFace
from .guard import SyncInvalidating
from .scoped import ScopedFace
from .warm import items_of_caller

__all__ = ["SyncCachedModelDecorator", "SyncLlmTier"]

P = TypeVar("P", bound=Mapping[str, Any])
Q = ParamSpec("Q")
R = TypeVar("R", str, LlmResponse)


class SyncCachedModelDecorator(Protocol):
    """The decorator that ``cached`` with options returns."""

    @overload
    def __call__(self, function: Callable[Q, Iterator[str]], /) -> SyncCachedGenerator[Q, str]: ...

    @overload
    def __call__(self, function: Callable[Q, R], /) -> SyncCached[Q, R]: ...


class SyncLlmTier(KeepsIdentity):
    """``cache.sync.llm``: the methods of ``LlmTier`` for plain code, with the same arguments, results and errors."""

    def __init__(self, face: SyncFace, tier: LlmTier) -> None:
        self._face = face
        self._tier = tier
        self._scoped = ScopedFace(face, tier._rules.scopes)

    def key(self, params: Mapping[str, Any]) -> LlmKey:
        """Return the key of ``params`` as they are now, as ``LlmTier.key``."""
        return self._scoped.call(self._tier.key, params)

    @overload
    def cached(self, function: Callable[Q, Iterator[str]], /) -> SyncCachedGenerator[Q, str]: ...

    @overload
    def cached(self, function: Callable[Q, R], /) -> SyncCached[Q, R]: ...

    @overload
    def cached(self, /, **options: Unpack[CachedOptions]) -> SyncCachedModelDecorator: ...

    def cached(self, function: Any = None, /, **options: Unpack[CachedOptions]) -> Any:
        """Decorate a plain function that calls a model, so that its answers are cached, as ``LlmTier.cached``."""

        def decorate(function: Any) -> SyncCached[Any, Any] | SyncCachedGenerator[Any, Any]:
            return decorate_items(function, self._face, lambda function: self._tier._cached(function, options))

        return decorate if function is None else decorate(function)

    def check(self, params: Mapping[str, Any] | LlmKey) -> LlmResult:
        """Look up the answer to ``params``, as ``LlmTier.check``."""
        return self._scoped.run(partial(self._tier.check, params))

    @overload
    def get_or_load(
        self,
        params: LlmKey,
        loader: PlainLlmLoader,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> LlmResult: ...

    @overload
    def get_or_load(
        self,
        params: P,
        loader: LlmLoader[P],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> LlmResult: ...

    @overload
    def get_or_load(
        self,
        params: Mapping[str, Any] | LlmKey,
        loader: Awaitable[LlmAnswer],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> LlmResult: ...

    def get_or_load(
        self,
        params: Any,
        loader: LlmLoader[Any] | Awaitable[LlmAnswer],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> LlmResult:
        """Return the answer to ``params``; on a miss, load it at most once at a time, as ``LlmTier.get_or_load``.

        Args:
            loader: As there. A plain loader runs in this thread; where this thread joins the load of another thread,
                it runs there. An async loader runs on the private event loop.
        """
        # The overloads, each of which takes one kind of loader, have checked it.
        load: Any = loader
        return self._scoped.run(
            partial(self._tier.get_or_load, params, load, ttl=ttl, tags=tags, mode=mode, per_run=per_run)
        )

    def batch_loader(
        self, fn: BatchFunction[P, LlmAnswer], *, window: float = BATCH_WINDOW, max_size: int = BATCH_SIZE
    ) -> ArgumentBatchLoader[P, LlmAnswer]:
        """Return a loader for ``get_or_load`` of this tier alone, as ``LlmTier.batch_loader``.

        Args:
            fn: As there. A plain ``fn`` runs in the thread of one of the callers that wait for the batch.
        """
        return self._tier.batch_loader(fn, window=window, max_size=max_size)

    def store(
        self,
        params: Mapping[str, Any] | LlmKey,
        response: str,
        *,
        ttl: Ttl | None = None,
        tokens: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store an answer; return its key, as ``LlmTier.store``."""
        return self._scoped.run(partial(self._tier.store, params, response, ttl=ttl, tokens=tokens, tags=tags))

    def store_multipart(
        self,
        params: Mapping[str, Any] | LlmKey,
        blocks: Sequence[Mapping[str, Any]],
        *,
        ttl: Ttl | None = None,
        tokens: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store an answer made of content blocks, as ``LlmTier.store_multipart``."""
        return self._scoped.run(partial(self._tier.store_multipart, params, blocks, ttl=ttl, tokens=tokens, tags=tags))

    def invalidate(self, params: Mapping[str, Any] | LlmKey | str) -> bool:
        """Remove the answer to ``params``; return whether it was there, as ``LlmTier.invalidate``."""
        return self._scoped.run(partial(self._tier.invalidate, params))

    def invalidates(
        self, params: Mapping[str, Any] | LlmKey | str | Callable[..., Mapping[str, Any] | LlmKey | str]
    ) -> SyncInvalidating:
        """Return a guard for a change of the source of an answer, as ``LlmTier.invalidates``."""
        return SyncInvalidating(self._face, self._face.call(self._tier.invalidates, params), self._scoped)

    def invalidate_by_model(self, model: str, *, sweep: bool = False) -> int:
        """Remove every answer of ``model``; return how many, as ``LlmTier.invalidate_by_model``."""
        return self._face.run(partial(self._tier.invalidate_by_model, model, sweep=sweep))

    def explain(self, params: Mapping[str, Any] | LlmKey | str) -> Explanation:
        """Return where the answer to ``params`` is, as ``LlmTier.explain``."""
        return self._scoped.run(partial(self._tier.explain, params))

    def pin(
        self,
        params: Mapping[str, Any] | LlmKey,
        response: str | LlmResponse | Sequence[Mapping[str, Any]],
    ) -> str:
        """Give ``params`` an approved answer, which wins over the model and the cache, as ``LlmTier.pin``."""
        return self._scoped.run(partial(self._tier.pin, params, response))

    def unpin(self, params: Mapping[str, Any] | LlmKey | str) -> bool:
        """Remove the pin of ``params``; return whether there was one, as ``LlmTier.unpin``."""
        return self._scoped.run(partial(self._tier.unpin, params))

    def pins(self) -> list[Pin]:
        """Return the pins of the tier, as ``LlmTier.pins``."""
        return self._face.run(self._tier.pins)

    @overload
    def warm(
        self,
        items: Items[Mapping[str, Any]],
        loader: LlmLoader[Any],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Mapping[str, Any]]: ...

    @overload
    def warm(
        self,
        items: Items[tuple[Mapping[str, Any] | LlmKey, LlmLoader[Any]]],
        loader: None = None,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[Mapping[str, Any] | LlmKey, LlmLoader[Any]]]: ...

    def warm(
        self,
        items: Items[Any],
        loader: LlmLoader[Any] | None = None,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Any]:
        """Load the entries that the cache lacks ahead of their callers, as ``LlmTier.warm``.

        Args:
            items: As there. Plain items are read in the thread of the caller.
            loader: As there. Plain loaders run in new threads, and ``on_progress`` on the private thread.
        """
        warm: Any = partial(self._tier.warm, ttl=ttl, tags=tags, concurrency=concurrency, on_progress=on_progress)
        report: WarmReport[Any] = self._scoped.run(partial(warm, items_of_caller(items), loader))
        return report

    def inspect(self, params: Mapping[str, Any] | LlmKey | str) -> Entry:
        """Return the entry of the answer to ``params`` in both levels, as ``LlmTier.inspect``."""
        return self._scoped.run(partial(self._tier.inspect, params))

    def scan(self, match: str | None = None) -> Iterator[Entry]:
        """Return an iterator over the entries of this tier, as ``LlmTier.scan``."""
        entries = self._scoped.call(self._tier.scan, match)
        return PortalIterator(self._face.portal, lambda: entries)

    def clear(self) -> int:
        """Remove every entry of the tier; return how many there were, as ``LlmTier.clear``."""
        return self._face.run(self._tier.clear)
