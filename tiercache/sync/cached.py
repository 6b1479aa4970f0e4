"""Cached functions for plain code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ..agents.run import PLACE, answer_plain_call
from ..decorators.cached import Cached, CallCounts
from ..decorators.cached_many import CachedMany
from ..decorators.functions import check_plain
from ..decorators.method_signature import MethodSignature
from ..engine.operations.explain import Explanation
from .face import SyncFace
from .scoped import ScopedFace

__all__ = ["SyncCached", "SyncCachedMany", "decorate_plain"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
Q = ParamSpec("Q")


def _method(function: Any, cached: Any) -> Any:
    """Return ``function`` with ``cached``, which its own decorated function has made of an instance."""
    if cached is function._cached:
        return function
    method = object.__new__(type(function))
    method.__dict__.update(function.__dict__, _cached=cached)
    return method


class SyncCached(Generic[P, R]):
    """A plain function whose values are cached: the methods of ``Cached`` for plain code.

    Results and errors are those of ``Cached``. The function runs where the loader of ``SyncLlmTier.get_or_load`` does.
    The functions among the options run on the private event loop: they must not block it.
    """

    __signature__ = MethodSignature()

    def __init__(self, function: Callable[P, R], face: SyncFace, cached: Cached[Any, Any]) -> None:
        self._face = face
        self._cached = cached
        self._scoped = ScopedFace(face, cached._scopes)
        functools.update_wrapper(self, function)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> SyncCached[P, R]: ...

    @overload
    def __get__(
        self: SyncCached[Concatenate[S, Q], R], instance: S, owner: type[S] | None = None
    ) -> SyncCached[Q, R]: ...

    @overload
    def __get__(
        self: SyncCached[Concatenate[type[S], Q], R], instance: S, owner: type[S] | None = None
    ) -> SyncCached[Q, R]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the method of ``instance``."""
        return _method(self, self._cached.__get__(instance, owner))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value of a call; on a miss, call the function, as ``Cached``."""
        if self._is_in_run():
            return cast(R, self._cached._entries.value(self.result(*args, **kwargs)._entry))
        return cast(R, self._scoped.run(partial(self._cached, *args, **kwargs)))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in any case, and store its value, as ``Cached.refresh``."""
        return cast(R, self._scoped.run(partial(self._cached.refresh, *args, **kwargs)))

    def result(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Return the value of a call as the tier's result, as ``Cached.result``."""
        answer = partial(self._scoped.run, partial(self._cached.result, *args, **kwargs))
        if not self._is_in_run():
            return answer()
        return answer_plain_call(self._cached._entries.scope, self.key(*args, **kwargs), answer)

    def _is_in_run(self) -> bool:
        """Return whether a run of an agent counts the next call. With ``when`` it may be no call of the cache."""
        return self._cached._is_tool and self._cached._options.when is None and PLACE.get() is not None

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key in Valkey of a call, as ``Cached.key``."""
        return self._scoped.call(self._cached.key, *args, **kwargs)

    def is_cached(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether a call would find its value, as ``Cached.is_cached``."""
        return self._scoped.run(partial(self._cached.is_cached, *args, **kwargs))

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store the value of a call, as ``Cached.set``."""
        self._scoped.run(partial(self._cached.set, value, *args, **kwargs))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the value of a call; return whether there was one, as ``Cached.invalidate``."""
        return self._scoped.run(partial(self._cached.invalidate, *args, **kwargs))

    def clear(self) -> int:
        """Remove the values of all calls; return how many there were, as ``Cached.clear``."""
        return self._face.run(self._cached.clear)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return where the value of a call is, as ``Cached.explain``."""
        return self._scoped.run(partial(self._cached.explain, *args, **kwargs))

    def metrics(self) -> CallCounts:
        """Return the counts of the function's calls since it was decorated, as ``Cached.metrics``."""
        return self._cached.metrics()

    def __repr__(self) -> str:
        return repr(self._cached)


class SyncCachedMany(Generic[T, P, R]):
    """A plain function of many items whose values are cached: the methods of ``CachedMany`` for plain code."""

    __signature__ = MethodSignature()

    def __init__(
        self, function: Callable[Concatenate[list[T], P], R], face: SyncFace, cached: CachedMany[Any, Any, Any]
    ) -> None:
        self._face = face
        self._cached = cached
        self._scoped = ScopedFace(face, cached._scopes)
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the method of ``instance``."""
        return _method(self, self._cached.__get__(instance, owner))

    def __call__(self, items: Iterable[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the values of items; load all that neither level has by one call, as ``CachedMany``."""
        return cast(R, self._scoped.run(partial(self._cached, items, *args, **kwargs)))

    def invalidate(self, items: Iterable[T], /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Remove the values of items; return how many there were, as ``CachedMany.invalidate``."""
        return self._scoped.run(partial(self._cached.invalidate, items, *args, **kwargs))

    def clear(self) -> int:
        """Remove the values of all items; return how many there were, as ``CachedMany.clear``."""
        return self._face.run(self._cached.clear)

    def key(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key in Valkey of the value of one item, as ``CachedMany.key``."""
        return self._scoped.call(self._cached.key, item, *args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._cached)


def decorate_plain(
    function: Callable[P, R], face: SyncFace, decorate: Callable[[Callable[P, R]], Cached[Any, Any]]
) -> SyncCached[P, R]:
    """Return ``function`` with its values cached, as ``decorate`` does for a tier of the face.

    Raises:
        UsageError: ``function`` is async, or is no function; or from ``decorate``.
    """
    check_plain(function)
    return SyncCached(function, face, decorate(function))
