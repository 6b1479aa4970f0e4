"""The decorators of a whole cache, which keep values in a kv tier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from ...decorators.cached import Cached
from ...decorators.cached_generator import CachedGenerator
from ...decorators.cached_many import CachedMany
from ...decorators.options import MemoizeManyOptions, MemoizeOptions
from ...tier_options import TierOptions
from ..values.json_types import Json, KvValue
from .memoized import MemoizeDecorator
from .tier import KvTier

__all__ = ["DecoratesFunctions"]

P = ParamSpec("P")
R = TypeVar("R", bound=KvValue)
J = TypeVar("J", bound=Json)
I = TypeVar("I")  # noqa: E741 - an item
Many = TypeVar("Many", bound=Sequence[KvValue] | Mapping[Any, KvValue])


class DecoratesFunctions:
    """The decorators of ``AgentCache``."""

    def tier(self, name: str, options: TierOptions | None = None) -> KvTier:
        """Return a kv tier, as ``AgentCache.tier``."""
        raise NotImplementedError

    @overload
    def memoize(self, function: Callable[P, AsyncIterator[J]], /) -> CachedGenerator[P, J]: ...

    @overload
    def memoize(self, function: Callable[P, Awaitable[R]], /) -> Cached[P, R]: ...

    @overload
    def memoize(self, /, *, tier: str = "memo", **options: Unpack[MemoizeOptions]) -> MemoizeDecorator: ...

    def memoize(self, function: Any = None, /, *, tier: str = "memo", **options: Unpack[MemoizeOptions]) -> Any:
        """Decorate an async function or generator, so that its values are cached. See ``KvTier.memoize``.

        Used as ``@cache.memoize`` or ``@cache.memoize(ttl="1h", ignore=["session"])``. ``cache.sync.memoize`` decorates
        plain functions.

        Args:
            tier: The kv tier of the values, as for ``tier``.
            options: Those of ``KvTier.memoize``.
        """
        decorate = self.tier(tier).memoize(**options)
        return decorate if function is None else decorate(function)

    @overload
    def memoize_many(
        self, function: Callable[Concatenate[list[I], P], Awaitable[Many]], /
    ) -> CachedMany[I, P, Many]: ...

    @overload
    def memoize_many(
        self, /, *, tier: str = "memo", **options: Unpack[MemoizeManyOptions]
    ) -> Callable[[Callable[Concatenate[list[I], P], Awaitable[Many]]], CachedMany[I, P, Many]]: ...

    def memoize_many(
        self, function: Any = None, /, *, tier: str = "memo", **options: Unpack[MemoizeManyOptions]
    ) -> Any:
        """Decorate an async function of many items, each of whose values is cached. See ``KvTier.memoize_many``."""
        decorate = self.tier(tier).memoize_many(**options)
        return decorate if function is None else decorate(function)
