"""Cached generators for plain code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ..decorators.cached import Cached, CallCounts
from ..decorators.cached_generator import CachedGenerator
from ..decorators.functions import check_plain, is_generator
from ..decorators.items import ItemIterator
from ..decorators.method_signature import MethodSignature
from ..engine.operations.explain import Explanation
from ..portal.portal import PortalIterator
from .cached import SyncCached, decorate_plain
from .face import SyncFace
from .scoped import ScopedFace

__all__ = ["SyncCachedGenerator", "SyncItemIterator", "decorate_items"]

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
Q = ParamSpec("Q")


class SyncItemIterator(PortalIterator[T]):
    """The items of one call of a plain cached generator: ``ItemIterator`` for plain code, with ``close``."""


class SyncCachedGenerator(Generic[P, T]):
    """A plain generator function whose items are cached: the methods of ``CachedGenerator`` for plain code.

    Results and errors are those of ``CachedGenerator``. The generator makes each item in the thread of a reader that
    waits for the item. A generator that its last reader leaves is closed in another thread.
    """

    __signature__ = MethodSignature()

    def __init__(self, function: Callable[P, Iterator[T]], face: SyncFace, cached: CachedGenerator[Any, Any]) -> None:
        self._face = face
        self._cached = cached
        self._scoped = ScopedFace(face, cached._single._scopes)
        functools.update_wrapper(self, function)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> SyncCachedGenerator[P, T]: ...

    @overload
    def __get__(
        self: SyncCachedGenerator[Concatenate[S, Q], T], instance: S, owner: type[S] | None = None
    ) -> SyncCachedGenerator[Q, T]: ...

    @overload
    def __get__(
        self: SyncCachedGenerator[Concatenate[type[S], Q], T], instance: S, owner: type[S] | None = None
    ) -> SyncCachedGenerator[Q, T]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the method of ``instance``."""
        cached = self._cached.__get__(instance, owner)
        if cached is self._cached:
            return self
        method = object.__new__(type(self))
        method.__dict__.update(self.__dict__, _cached=cached)
        return method

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SyncItemIterator[T]:
        """Return an iterator over the items of a call, as ``CachedGenerator``."""
        return self._iterator(self._scoped.call(self._cached, *args, **kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> SyncItemIterator[T]:
        """Return an iterator that runs the generator in any case, as ``CachedGenerator.refresh``."""
        return self._iterator(self._scoped.call(self._cached.refresh, *args, **kwargs))

    def _iterator(self, items: ItemIterator[T]) -> SyncItemIterator[T]:
        return SyncItemIterator(self._face.portal, lambda: items)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key in Valkey of a call, as ``CachedGenerator.key``."""
        return self._scoped.call(self._cached.key, *args, **kwargs)

    def is_cached(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether a call would find its items, as ``CachedGenerator.is_cached``."""
        return self._scoped.run(partial(self._cached.is_cached, *args, **kwargs))

    def set(self, items: Iterable[T], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store the items of a call, as ``CachedGenerator.set``."""
        # In this thread: the items may come from a generator, which must not block the private loop.
        self._scoped.run(partial(self._cached.set, list(items), *args, **kwargs))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the items of a call; return whether there were any, as ``CachedGenerator.invalidate``."""
        return self._scoped.run(partial(self._cached.invalidate, *args, **kwargs))

    def clear(self) -> int:
        """Remove the items of all calls; return the number of these calls, as ``CachedGenerator.clear``."""
        return self._face.run(self._cached.clear)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return where the items of a call are, as ``CachedGenerator.explain``."""
        return self._scoped.run(partial(self._cached.explain, *args, **kwargs))

    def metrics(self) -> CallCounts:
        """Return the counts of the function's calls, as ``CachedGenerator.metrics``."""
        return self._cached.metrics()

    def __repr__(self) -> str:
        return repr(self._cached)


def decorate_items(
    function: Callable[..., Any], face: SyncFace, decorate: Callable[[Callable[..., Any]], Cached[Any, Any]]
) -> SyncCached[Any, Any] | SyncCachedGenerator[Any, Any]:
    """Return a plain function, or a plain generator function, with its values or its items cached.

    Raises:
        UsageError: ``function`` is async, or is no function; or from ``decorate``.
    """
    if not is_generator(function):
        return decorate_plain(function, face, decorate)
    check_plain(function, generators=True)
    return SyncCachedGenerator(function, face, CachedGenerator(decorate(function)))
