"""Cached tools: functions whose results are entries of the tool tier.

A call has the entry of ``cache.tool.get_or_load(tool, args)`` with the arguments of the call as ``args``: by the names
of the parameters, with defaults, and with the members of ``**kwargs`` beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, Protocol, Unpack, overload

from ...agents.run_scopes import components_in_run
from ...decorators.cached import Cached, Operations
from ...decorators.cached_generator import CachedGenerator
from ...decorators.functions import check_async, is_generator
from ...decorators.options import CachedToolOptions, decoration
from ...engine.call import Loaded
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.rules import TierRules
from ...errors import UsageError
from ...scopes import Components
from ...text import shown
from ..keys.fingerprint import fingerprint
from ..keys.key import HANDLE_BYTES, ToolKey
from ..keys.lookup import KeyLookup
from ..runtime_settings import SettingsTable
from ..tier import Tier
from ..values.unstorable import unstorable
from ..values.wire import MOST_DOLLARS
from .entry import encode_tool
from .key import ToolKeyLookup, check_tool
from .loader import T
from .result import ToolResult

__all__ = ["CachedToolDecorator", "CachingTier", "check_cost"]

P = ParamSpec("P")


class CachedToolDecorator(Protocol):
    """The decorator that ``cached`` with options returns."""

    @overload
    def __call__(self, function: Callable[P, AsyncIterator[T]], /) -> CachedGenerator[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Cached[P, T]: ...


class CachingTier(Tier[ToolKey, ToolResult[Any]]):
    """The part of the tool tier that decorates functions."""

    def __init__(self, engine: Engine, rules: TierRules, settings: SettingsTable, name: str) -> None:
        self._settings = settings
        super().__init__(engine, rules, name, f"{name}:tool:")
        self._lookup = ToolKeyLookup(self._prefix, rules, engine.l1)
        self._function_keys: KeyLookup[ToolKey] = KeyLookup(engine.l1, fingerprint, lambda key: HANDLE_BYTES)

    @overload
    def cached(self, function: Callable[P, AsyncIterator[T]], /) -> CachedGenerator[P, T]: ...

    @overload
    def cached(self, function: Callable[P, Awaitable[T]], /) -> Cached[P, T]: ...

    @overload
    def cached(self, name: str | None = None, /, **options: Unpack[CachedToolOptions]) -> CachedToolDecorator: ...

    def cached(self, name: Any = None, /, **options: Unpack[CachedToolOptions]) -> Any:
        """Decorate an async function that is a tool, so that its results are cached.

        Used as ``@cache.tool.cached`` or ``@cache.tool.cached("get_weather", ttl=60)``. The entries are those of
        ``get_or_load`` with the tool and the arguments by name. So the arguments are JSON: a tuple makes the key of a
        list.

        Args:
            name: The name of the tool. None takes the name of the function.
            options: Those of ``CachedOptions`` and of ``CachedToolOptions``.

        Raises:
            UsageError: An option is wrong, or the function is not async.

        An async generator function becomes a ``CachedGenerator``: the result is the list of its items.
        """

        def decorate(function: Any, tool: str | None = None) -> Cached[Any, Any] | CachedGenerator[Any, Any]:
            check_async(function, "cache.sync.tool.cached", generators=True)
            cached = self._cached(function, tool, options)
            return CachedGenerator(cached) if is_generator(function) else cached

        return decorate(name) if callable(name) else lambda function: decorate(function, name)

    def _cached(self, function: Callable[..., Any], tool: str | None, options: CachedToolOptions) -> Cached[Any, Any]:
        """Return the function, async or plain, with its results cached."""
        given = decoration(options, CachedToolOptions.__optional_keys__, own=("cost",))
        cost = options.get("cost")
        if cost is not None:
            check_cost(cost)
        tier = self._with_freshness(given.freshness)
        return Cached(function, _Entries(tier, function.__name__ if tool is None else tool, cost), given)

    def _run_key(self, tool: Any, args: Any) -> ToolKey:
        """Return the key of a call whose entry belongs to the present run alone."""
        if type(tool) is ToolKey:
            raise UsageError("per_run needs the tool and its args: a key has been made without the run")
        components = components_in_run(self._rules.scopes.components(), self._engine.log)
        return self._lookup.within(tool, args, components)

    def _encode(self, key: ToolKey, value: object, cost: float | None) -> Loaded:
        """Return the entry of a result and its bytes; raise UsageError if ``value`` is not JSON."""
        now_ms = int(self._engine.wall() * 1000)
        if cost is None:
            cost = self._settings.tool_cost(key.tool)
        entry, data = encode_tool(value=value, tool=key.tool, args_json=key._args, stored_at_ms=now_ms, cost=cost)
        return Loaded(entry, data)

    def _loaded(self, key: ToolKey, value: object, cost: float | None) -> Loaded:
        """Return a result that a loader returned, not to be stored if ``store_when`` refuses it."""
        store = self._may_store(value)
        try:
            return self._encode(key, value, cost)._replace(store=store)
        # An object of the loader's own may raise any exception. The engine counts the value as ``unstorable``.
        except Exception as error:
            return unstorable(value, error, self._engine.wall(), cost)._replace(store=store)

    async def invalidate_by_tool(self, tool: str, *, sweep: bool = False) -> int:
        """Remove every result of a tool from both levels, as ``ToolTier.invalidate_by_tool``."""
        raise NotImplementedError


class _Entries:
    """The results of one tool, as ``FunctionEntries``.

    Args:
        tool: The name of the tool.
        cost: Dollars that a call costs, or None.
    """

    own_tags: tuple[str, ...] = ()
    spreads = True
    operations = Operations("check", "store", "invalidate")

    def __init__(self, tier: CachingTier, tool: str, cost: float | None) -> None:
        check_tool(tool)
        self.tier = tier
        self.lookup = tier._function_keys
        self.scope = str.__str__(tool)
        self._cost = cost

    def key(self, arguments: dict[str, Any], instance: str | None, own: str | None, components: Components) -> ToolKey:
        return self.tier._lookup.within(self.scope, arguments, components)

    def loaded(self, key: ToolKey, value: Any) -> Loaded:
        return self.tier._loaded(key, value, self._cost)

    def given(self, key: ToolKey, value: Any) -> Loaded:
        return self.tier._encode(key, value, self._cost)

    def value(self, entry: Entry) -> Any:
        return entry.value.value()

    async def clear(self) -> int:
        return await self.tier.invalidate_by_tool(self.scope)


def check_cost(cost: object) -> None:
    """Refuse a cost that is not dollars from 0 to a million. Raises UsageError."""
    if not isinstance(cost, int | float) or isinstance(cost, bool) or not 0 <= cost <= MOST_DOLLARS:
        raise UsageError(f"cost must be dollars from 0 to a million, not {shown(cost)}")
