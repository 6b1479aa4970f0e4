"""Memoized functions: functions whose values are entries of a kv tier.

The key of a call is ``{function}:{version}:{own}``. ``{own}`` is the SHA-256 of the typed JSON of the arguments, or the
text that the decorator's ``key`` makes. Every entry has the tag ``function:{function}``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from ...decorators.cached import Cached, Operations
from ...decorators.cached_generator import CachedGenerator
from ...decorators.cached_many import CachedMany
from ...decorators.functions import check_async, is_generator, name_of
from ...decorators.options import MemoizeManyOptions, MemoizeOptions, decoration
from ...decorators.typed_values import typed_json
from ...engine.call import Loaded
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.rules import TierRules
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...scopes import Components
from ...text import check_name, encode_id, shown
from ..keys.fingerprint import fingerprint
from ..keys.key import HANDLE_BYTES
from ..keys.lookup import KeyLookup
from ..tagged import entries_with_tag
from ..tier import Tier
from ..values.json_types import Json, KvValue
from ..values.unstorable import unstorable
from .entry import encode_kv
from .key import KvKey, KvKeys
from .result import KvResult

__all__ = ["MemoizeDecorator", "MemoizingTier"]

P = ParamSpec("P")
R = TypeVar("R", bound=KvValue)
J = TypeVar("J", bound=Json)
I = TypeVar("I")  # noqa: E741 - an item
Many = TypeVar("Many", bound=Sequence[KvValue] | Mapping[Any, KvValue])

# Bytes of the name of a function in a key, and of the text that the decorator's ``key`` makes. A longer one stands in
# the key as its hash.
_LONGEST_NAME: Final = 150
_LONGEST_TEXT: Final = 150
# The name in a key of the text that stands for the instance of a method: no parameter has it.
_INSTANCE: Final = "<instance>"


class MemoizeDecorator(Protocol):
    """The decorator that ``memoize`` with options returns."""

    @overload
    def __call__(self, function: Callable[P, AsyncIterator[J]], /) -> CachedGenerator[P, J]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Cached[P, R]: ...


class MemoizingTier(Tier[KvKey, KvResult[Any]]):
    """The part of a kv tier that decorates functions."""

    def __init__(self, engine: Engine, rules: TierRules, name: str, keys: KvKeys) -> None:
        super().__init__(engine, rules, name, keys.prefix)
        self._keys = keys
        self._prefixes = keys.prefixes
        self._function_keys: KeyLookup[KvKey] = KeyLookup(engine.l1, fingerprint, lambda key: HANDLE_BYTES)

    @overload
    def memoize(self, function: Callable[P, AsyncIterator[J]], /) -> CachedGenerator[P, J]: ...

    @overload
    def memoize(self, function: Callable[P, Awaitable[R]], /) -> Cached[P, R]: ...

    @overload
    def memoize(self, /, **options: Unpack[MemoizeOptions]) -> MemoizeDecorator: ...

    def memoize(self, function: Any = None, /, **options: Unpack[MemoizeOptions]) -> Any:
        """Decorate an async function, so that its values are cached, each under the arguments of its call.

        Used as ``@tier.memoize`` or ``@tier.memoize(ttl=60)``. Arguments of 1, True, 1.0 and "1" make different keys,
        and so do a tuple and a list. Values are those of ``set``; another value reaches the caller, and is not stored.

        Args:
            options: Those of ``CachedOptions`` and of ``MemoizeOptions``.

        Raises:
            UsageError: An option is wrong, ``key`` has a field that is no parameter, or the function is not async.

        An async generator function becomes a ``CachedGenerator``: its value is the list of its items.
        """

        def decorate(function: Any) -> Cached[Any, Any] | CachedGenerator[Any, Any]:
            check_async(function, "cache.sync.memoize", generators=True)
            cached = self._memoized(function, options)
            return CachedGenerator(cached) if is_generator(function) else cached

        return decorate if function is None else decorate(function)

    @overload
    def memoize_many(
        self, function: Callable[Concatenate[list[I], P], Awaitable[Many]], /
    ) -> CachedMany[I, P, Many]: ...

    @overload
    def memoize_many(
        self, /, **options: Unpack[MemoizeManyOptions]
    ) -> Callable[[Callable[Concatenate[list[I], P], Awaitable[Many]]], CachedMany[I, P, Many]]: ...

    def memoize_many(self, function: Any = None, /, **options: Unpack[MemoizeManyOptions]) -> Any:
        """Decorate an async function of many items, so that each value is cached under its item.

        The first parameter takes a list of items. The function returns a list of their values, in the same order, or a
        dict of items to values, and is annotated with that. A call asks for each item once, and calls the function with
        the items that neither level has. The other arguments belong to every key.

        Args:
            options: Those of ``MemoizeManyOptions``.

        Raises:
            UsageError: As for ``memoize``; or the function is not annotated with a list or a dict. A call raises it if
                the function returns another number of values, or lacks an item.
        """

        def decorate(function: Any) -> CachedMany[Any, Any, Any]:
            check_async(function, "cache.sync.memoize_many")
            return self._memoized_many(function, options)

        return decorate if function is None else decorate(function)

    def _memoized_many(self, function: Callable[..., Any], options: MemoizeManyOptions) -> CachedMany[Any, Any, Any]:
        """Return the function of many items, async or plain, with its values cached."""
        for name in options:
            if name not in MemoizeManyOptions.__optional_keys__:
                raise UsageError(f"memoize_many has no option {name!r}")
        for tag in options.get("tags", ()):
            check_name(tag, "a tag")
        single = self._memoized(function, cast(MemoizeOptions, options))
        tier: Any = self
        return CachedMany(function, single, tier, self._keys.given)

    def _memoized(self, function: Callable[..., Any], options: MemoizeOptions) -> Cached[Any, Any]:
        """Return the function, async or plain, with its values cached."""
        given = decoration(options, MemoizeOptions.__optional_keys__, own=("name", "version"))
        name = name_of(function, options.get("name"))
        return Cached(function, _Entries(self._with_freshness(given.freshness), name, options.get("version", 1)), given)


class _Entries:
    """The values of one function, as ``FunctionEntries``.

    Args:
        name: The name of the function.
        version: The version of the function, which is part of every key.
    """

    spreads = False
    operations = Operations("exists", "set", "delete")

    def __init__(self, tier: MemoizingTier, name: str, version: int | str) -> None:
        self.tier = tier
        self.lookup = tier._function_keys
        encoded = encode_id(name)
        if len(encoded.encode()) > _LONGEST_NAME:
            encoded = sha256(name.encode()).hexdigest()
        self.scope = f"{encoded}:{encode_id(_version(version))}"
        self._counters = tier._rules.counters.of(name)
        self.own_tags = (f"function:{encoded}",)

    def key(self, arguments: dict[str, Any], instance: str | None, own: str | None, components: Components) -> KvKey:
        if own is None:
            values = arguments if instance is None else {**arguments, _INSTANCE: instance}
            text = sha256(typed_json(values)).hexdigest()
        else:
            text = own if instance is None else f"{encode_id(instance)}:{own}"
            if len(text.encode()) > _LONGEST_TEXT:
                text = sha256(text.encode()).hexdigest()
        key = self.tier._keys.within(f"{self.scope}:{text}", components)
        return KvKey(key.key, self._counters, key.groups)

    def loaded(self, key: KvKey, value: Any) -> Loaded:
        try:
            loaded = self.given(key, value)
        # An object of the function's own may raise any exception. The engine counts the value as ``unstorable``.
        except Exception as error:
            loaded = unstorable(value, error, self.tier._engine.wall())
        return loaded if self.tier._may_store(value) else loaded._replace(store=False)

    def given(self, key: KvKey, value: Any) -> Loaded:
        entry, data = encode_kv(value, "the function's value", self.tier._engine.wall())
        return Loaded(entry, data)

    def value(self, entry: Entry) -> Any:
        return entry.value.value()

    async def clear(self) -> int:
        (group,) = tag_groups(self.own_tags)
        return await self.tier._remove_group("clear", entries_with_tag(self.tier._name, group))


def _version(version: object) -> str:
    if isinstance(version, bool) or not isinstance(version, int | str) or version == "":
        raise UsageError(f"version must be a whole number or a text that is not empty, not {shown(version)}")
    return str(version)
