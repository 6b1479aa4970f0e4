"""Cached functions of many items: each value is cached under its own item, and one call loads all that are missing."""

from __future__ import annotations

import functools
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, get_origin

from ..errors import UsageError
from ..text import shown
from ..ttl import Ttl
from .cached import Cached
from .method_signature import MethodSignature

__all__ = ["CachedMany", "ManyTier"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class ManyTier(Protocol):
    """The operations of a kv tier on many keys."""

    async def _get_or_load_many(
        self, full_keys: Sequence[str], loader: Any, *, ttl: Ttl | None, tags: Sequence[str]
    ) -> dict[str, Any]:
        """Return the values by keys in Valkey; load the missing ones by one call of ``loader``.

        Args:
            loader: Called with the caller's keys of the values, which ``given`` returns.
        """
        ...

    async def _delete_many(self, full_keys: Sequence[str]) -> int:
        """Remove the values by keys in Valkey; return how many there were."""
        ...


class CachedMany(Generic[T, P, R]):
    """A function of many items whose values are cached, each under its item. Decorators make it.

    It is called as the function is: with the items, and with the other arguments, which belong to every key. The
    result has the form that the function returns: a list in the order of the items, or a dict of items to values.

    Every method raises UsageError for arguments that cannot be part of a key, TypeError for arguments that the function
    does not take, and the errors of the kv tier's method of the same purpose.

    Args:
        function: The function.
        single: The function as if it took one item: it makes the keys.
        tier: The tier.
        given: Returns the tier's own text of a key in Valkey.
    """

    __signature__ = MethodSignature()

    def __init__(
        self,
        function: Callable[Concatenate[list[T], P], Awaitable[R]],
        single: Cached[Any, Any],
        tier: ManyTier,
        given: Callable[[str], str],
    ) -> None:
        self._function = function
        self._single = single
        self._tier = tier
        self._given = given
        self._scopes = single._scopes
        self._returns_dict = _returns_dict(function)
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the method of ``instance``."""
        single = self._single.__get__(instance, owner)
        if single is self._single:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, _single=single)
        return bound

    async def __call__(self, items: Iterable[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the values of items; load all that neither level has by one call of the function."""
        given = list(items)
        keys = self._keys(given, args, kwargs)
        items_by_key = dict(zip(keys, given, strict=True))
        items_by_given = {self._given(key): item for key, item in items_by_key.items()}

        async def load(missing: list[str]) -> list[Any]:
            asked = [items_by_given[key] for key in missing]
            instance, loaders = self._single._instance, self._single._entries.tier._loaders
            return self._in_order(await loaders.call(self._function, *instance, asked.copy(), *args, **kwargs), asked)

        ttl, tags = self._single._options.ttl, (*self._single._entries.own_tags, *self._single._options.tags)
        values = await self._tier._get_or_load_many(list(items_by_key), load, ttl=ttl, tags=cast(Sequence[str], tags))
        if self._returns_dict:
            return cast(R, {item: values[key] for key, item in items_by_key.items()})
        return cast(R, [values[key] for key in keys])

    async def invalidate(self, items: Iterable[T], /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Remove the values of items from both levels; return how many there were."""
        return await self._tier._delete_many(list(dict.fromkeys(self._keys(items, args, kwargs))))

    async def clear(self) -> int:
        """Remove the values of all items from both levels; return how many there were."""
        return await self._single.clear()

    def key(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key in Valkey of the value of one item."""
        return self._single.key(item, *args, **kwargs)

    def _keys(self, items: Iterable[T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        """Return the keys in Valkey of the values of items, all of one scope."""
        scopes = self._scopes
        with scopes.given(scopes.components()):
            return [self._single.key(item, *args, **kwargs) for item in items]

    def __repr__(self) -> str:
        return f"<CachedMany {self._single._entries.scope}>"

    def _in_order(self, values: object, items: Sequence[Any]) -> list[Any]:
        """Return what the function has returned for ``items`` as a list in their order.

        Raises:
            UsageError: It has another length, or lacks an item.
        """
        if isinstance(values, Mapping):
            for item in items:
                if item not in values:
                    raise UsageError(f"{self._function.__name__} returned no value for {shown(item)}")
            return [values[item] for item in items]
        if not isinstance(values, list | tuple):
            raise UsageError(f"{self._function.__name__} must return a list or a dict, not {type(values).__name__}")
        if len(values) != len(items):
            raise UsageError(f"{self._function.__name__} returned {len(values)} values for {len(items)} items")
        return list(values)


def _returns_dict(function: Callable[..., Any]) -> bool:
    """Return whether ``function`` returns a dict, and not a list. Raises UsageError for another annotation."""
    try:
        returned: Any = typing.get_type_hints(function).get("return")
    # The names in an annotation may be unknown at run time, and it may be any expression.
    except Exception:
        returned = None
    kind = get_origin(returned) or returned
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return True
    if isinstance(kind, type) and issubclass(kind, Sequence) and not issubclass(kind, str | bytes):
        return False
    raise UsageError(f"{shown(function)} must be annotated with what it returns: a list, or a dict of items to values")
