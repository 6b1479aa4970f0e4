"""The options of the decorators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from msgspec import Struct

from ..errors import UsageError
from ..scopes import Scope, check_scope
from ..text import check_name, shown
from ..tier_options import TierOptions
from ..ttl import Ttl, check_ttl

__all__ = ["CachedOptions", "CachedToolOptions", "Decoration", "MemoizeManyOptions", "MemoizeOptions", "decoration"]


class CachedOptions(TypedDict, total=False):
    """The options of every decorator.

    Attributes:
        ttl: Lifetime of a value: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None takes the
            tier's, then the cache's.
        tags: Names by which the values can be invalidated together with other entries; or functions of the arguments
            of a call that return a name.
        ignore: Names of parameters that do not belong to the key.
        when: Function of the arguments of a call that returns whether the cache takes part in the call.
        store_when: Function of a value that returns whether the cache stores it.
        sources: Functions, async or plain, that are called with the arguments of a call on a miss, in this order,
            before the function. The first that returns another value than ``MISS`` ends the search. One that raises is
            passed over.
        scope: A name that keeps the values apart from those of other scopes, or a function that returns the name of
            the present call. None takes the tier's.
        per_run: Whether the values belong to the present run of ``AgentCache.agent`` alone, and end with it.
        stale_for, retry_pause, early_refresh, cache_errors: As for ``TierOptions``. None takes the tier's.
    """

    ttl: Ttl | None
    tags: Sequence[str | Callable[..., str]]
    ignore: Sequence[str]
    when: Callable[..., bool] | None
    store_when: Callable[[Any], bool] | None
    sources: Sequence[Callable[..., Any]]
    scope: Scope | None
    per_run: bool
    stale_for: float | None
    retry_pause: float | None
    early_refresh: float | None
    cache_errors: Mapping[type[Exception], float] | None


class CachedToolOptions(CachedOptions, total=False):
    """The options of ``tool.cached``, beside those of every decorator.

    Attributes:
        cost: Dollars that a call costs; each later hit counts them as saved.
    """

    cost: float | None


class MemoizeOptions(CachedOptions, total=False):
    """The options of ``memoize``, beside those of every decorator.

    Attributes:
        key: The key of a call, instead of all its arguments: a template such as ``"user:{user_id}:{text:hash}"``, or
            a function of the arguments that returns a text.
        version: A part of every key, 1 without it: a new version finds no value of an earlier one.
        name: Name of the function in its keys. None takes its module and its qualified name.
        instance_key: For a method: returns the text that stands for the instance in the key. None: the instances share
            their values.
    """

    key: str | Callable[..., str] | None
    version: int | str
    name: str | None
    instance_key: Callable[[Any], str] | None


class MemoizeManyOptions(TypedDict, total=False):
    """The options of ``memoize_many``.

    Attributes:
        ttl, tags, ignore, key, version, name, instance_key, scope: As for ``memoize``, with one item instead of the
            items. The tags are names alone.
    """

    ttl: Ttl | None
    tags: Sequence[str]
    ignore: Sequence[str]
    key: str | Callable[..., str] | None
    version: int | str
    name: str | None
    instance_key: Callable[[Any], str] | None
    scope: Scope | None


class Decoration(Struct, frozen=True, kw_only=True):
    """The options of one decoration, with their defaults. The attributes are those of ``MemoizeOptions``."""

    key: str | Callable[..., str] | None = None
    ttl: Ttl | None = None
    tags: Sequence[str | Callable[..., str]] = ()
    ignore: Sequence[str] = ()
    when: Callable[..., bool] | None = None
    store_when: Callable[[Any], bool] | None = None
    instance_key: Callable[[Any], str] | None = None
    sources: Sequence[Callable[..., Any]] = ()
    scope: Scope | None = None
    per_run: bool = False
    stale_for: float | None = None
    retry_pause: float | None = None
    early_refresh: float | None = None
    cache_errors: Mapping[type[Exception], float] | None = None

    @property
    def freshness(self) -> dict[str, Any]:
        """The options of freshness that were given, by name."""
        names = ("stale_for", "retry_pause", "early_refresh", "cache_errors")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def check(self) -> None:
        """Refuse wrong options. Raises UsageError, which names the option."""
        TierOptions(**self.freshness)
        if self.ttl is not None:
            check_ttl(self.ttl)
        if self.scope is not None:
            check_scope(self.scope)
        if not isinstance(self.per_run, bool):
            raise UsageError(f"per_run must be True or False, not {shown(self.per_run)}")
        for name in ("when", "store_when", "instance_key"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise UsageError(f"{name} must be a function, not {shown(given)}")
        for source in self.sources:
            if not callable(source):
                raise UsageError(f"sources must be functions, not {shown(source)}")
        if isinstance(self.tags, str):
            raise UsageError("tags must be a sequence of names and functions, not a str")
        for tag in self.tags:
            if not callable(tag):
                check_name(tag, "a tag")
        if self.key is not None and not isinstance(self.key, str) and not callable(self.key):
            raise UsageError(f"key must be a template or a function, not {shown(self.key)}")


def decoration(given: Mapping[str, Any], known: frozenset[str], own: Sequence[str] = ()) -> Decoration:
    """Return the options of one decoration.

    Args:
        given: The options of the caller.
        known: The names of the options that the decorator has.
        own: The names of those which the decorator itself handles.

    Raises:
        UsageError: An option is wrong, or not known.
    """
    for name in given:
        if name not in known:
            raise UsageError(f"the decorator has no option {name!r}; it has: {', '.join(sorted(known))}")
    made = Decoration(**{name: value for name, value in given.items() if name not in own})
    made.check()
    return made
