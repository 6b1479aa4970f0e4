"""Cached model calls: functions whose answers are entries of the llm tier.

A call has the entry of ``cache.llm.get_or_load(params)`` with the arguments of the call as ``params``: by the names of
the parameters, with defaults, and with the members of ``**kwargs`` beside them. A function with the one parameter
``params`` takes the params as they are.
"""

from __future__ import annotations

import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from ...agents.run_scopes import components_in_run
from ...decorators.cached import Cached, Operations
from ...decorators.cached_generator import CachedGenerator
from ...decorators.functions import check_async, is_generator, name_of
from ...decorators.options import CachedOptions, decoration
from ...engine.call import Loaded
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.rules import TierRules
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...scopes import Components
from ...text import encode_id, shown
from ..keys.fingerprint import fingerprint
from ..keys.key import HANDLE_BYTES, LlmKey, is_unchanged
from ..keys.lookup import KeyLookup
from ..tagged import entries_with_tag
from ..tier import Tier
from .entry import LlmEntry
from .key import LlmKeyLookup, LlmKeys
from .result import LlmResponse, LlmResult

__all__ = ["CachedModelDecorator", "CachingTier"]

Q = ParamSpec("Q")
R = TypeVar("R", str, LlmResponse)

_PARAMS: Final = ("params",)


class CachedModelDecorator(Protocol):
    """The decorator that ``cached`` with options returns."""

    @overload
    def __call__(self, function: Callable[Q, AsyncIterator[str]], /) -> CachedGenerator[Q, str]: ...

    @overload
    def __call__(self, function: Callable[Q, Awaitable[R]], /) -> Cached[Q, R]: ...


class CachingTier(Tier[LlmKey, LlmResult]):
    """The part of the llm tier that decorates functions."""

    def __init__(self, engine: Engine, rules: TierRules, keys: LlmKeys, name: str) -> None:
        super().__init__(engine, rules, name, f"{name}:llm:")
        self._keys = keys
        self._lookup = LlmKeyLookup(keys, rules, engine.l1)
        self._function_keys: KeyLookup[LlmKey] = KeyLookup(engine.l1, fingerprint, lambda key: HANDLE_BYTES)

    def _run_key(self, params: Any) -> LlmKey:
        """Return the key of a request whose entry belongs to the present run alone."""
        if type(params) is LlmKey:
            raise UsageError("per_run needs the params: a key has been made without the run")
        components = components_in_run(self._rules.scopes.components(), self._engine.log)
        return self._lookup.within(params, components)

    def _full_key(self, params: Any) -> str:
        """Return the key in Valkey, also of params for which no answer can be stored."""
        if isinstance(params, str):
            return self._keys.check(params)
        if type(params) is LlmKey:
            return self._lookup.of(params).key
        return self._keys.key(params, self._rules.scopes.components())

    def _is_unchanged(self, key: LlmKey, params: Mapping[str, Any] | LlmKey) -> bool:
        """Return whether ``params`` still make ``key``: the answer to another request must not be stored under it."""
        warning = "The params of a request were changed while its answer was loaded: the answer is not stored"
        now = self._lookup.within
        return is_unchanged(key.key, lambda: now(params, key._components).key, self._engine.log.warn_once, warning)

    @overload
    def cached(self, function: Callable[Q, AsyncIterator[str]], /) -> CachedGenerator[Q, str]: ...

    @overload
    def cached(self, function: Callable[Q, Awaitable[R]], /) -> Cached[Q, R]: ...

    @overload
    def cached(self, /, **options: Unpack[CachedOptions]) -> CachedModelDecorator: ...

    def cached(self, function: Any = None, /, **options: Unpack[CachedOptions]) -> Any:
        """Decorate an async function that calls a model, so that its answers are cached.

        Used as ``@cache.llm.cached`` or ``@cache.llm.cached(ttl="1h")``. The entries are those of ``get_or_load`` with
        the arguments by name as ``params``, so that the function has the parameters ``model`` and ``messages``; or with
        the argument ``params``, if this is its only parameter.

        The function is annotated with what it returns: ``str``, or ``LlmResponse``, which has tokens and blocks too.

        Args:
            options: Those of ``CachedOptions``.

        Raises:
            UsageError: An option is wrong, or the function is not async, or has another annotation.

        An async generator function of the parts of an answer, each a str, becomes a ``CachedGenerator``. The answer is
        the joined text, with one text block for each part.
        """

        def decorate(function: Any) -> Cached[Any, Any] | CachedGenerator[Any, Any]:
            check_async(function, "cache.sync.llm.cached", generators=True)
            cached = self._cached(function, options)
            return CachedGenerator(cached) if is_generator(function) else cached

        return decorate if function is None else decorate(function)

    def _cached(self, function: Callable[..., Any], options: CachedOptions) -> Cached[Any, Any]:
        """Return the function, async or plain, with its answers cached."""
        given = decoration(options, CachedOptions.__optional_keys__)
        name, tier = name_of(function, None), self._with_freshness(given.freshness)
        if is_generator(function):
            entries: _Entries = _PartEntries(tier, name, returns_response=False)
        else:
            entries = _Entries(tier, name, returns_response=_returned(function))
        return Cached(function, entries, given)

    def _loaded_answer(self, model: str, answer: object) -> Loaded:
        """Return the answer that a loader returned."""
        raise NotImplementedError

    def _unstorable(self, model: str, response: str, answer: LlmResponse) -> LlmEntry:
        """Return the entry of an answer that no store takes, for the callers that wait for it."""
        raise NotImplementedError


class _Entries:
    """The answers of one function, as ``FunctionEntries``.

    Args:
        name: The name of the function.
        returns_response: Whether the function returns an LlmResponse, and not a str.
    """

    spreads = True
    operations = Operations("check", "store", "invalidate")

    def __init__(self, tier: CachingTier, name: str, *, returns_response: bool) -> None:
        self.tier = tier
        self.lookup = tier._function_keys
        self.scope = name
        self.own_tags = (f"function:{encode_id(name)}",)
        self._returns_response = returns_response

    def key(self, arguments: dict[str, Any], instance: str | None, own: str | None, components: Components) -> LlmKey:
        params = arguments["params"] if tuple(arguments) == _PARAMS else arguments
        return self.tier._lookup.within(params, components)

    def loaded(self, key: LlmKey, value: Any) -> Loaded:
        return self.tier._loaded_answer(key.model, value)

    def given(self, key: LlmKey, value: Any) -> Loaded:
        loaded = self.tier._loaded_answer(key.model, value)
        if loaded.refusal is not None:
            raise UsageError(f"the answer cannot be stored: {loaded.refusal}") from loaded.refusal
        return loaded

    def value(self, entry: Entry) -> Any:
        if not self._returns_response:
            return entry.value.response
        result = LlmResult("", "l1", entry, 0.0)
        return LlmResponse(result.response, content_blocks=result.content_blocks, tokens=result.tokens)

    async def clear(self) -> int:
        (group,) = tag_groups(self.own_tags)
        return await self.tier._remove_group("clear", entries_with_tag(self.tier._name, group))


class _PartEntries(_Entries):
    """The answers of one generator, as ``FunctionEntries``: a value is the list of the parts of an answer."""

    def loaded(self, key: LlmKey, value: Any) -> Loaded:
        blocks = [{"type": "text", "text": part} for part in value]
        if all(isinstance(part, str) for part in value):
            return super().loaded(key, LlmResponse("".join(value), content_blocks=blocks))
        refusal = UsageError(f"the generator {self.scope} must yield the parts of an answer, each a str")
        entry = self.tier._unstorable(key.model, "", LlmResponse("", content_blocks=blocks))
        return Loaded(entry, b"", refusal=refusal)

    def given(self, key: LlmKey, value: Any) -> Loaded:
        loaded = self.loaded(key, value)
        if loaded.refusal is not None:
            raise UsageError(f"the answer cannot be stored: {loaded.refusal}") from loaded.refusal
        return loaded

    def value(self, entry: Entry) -> list[Any]:
        blocks = LlmResult("", "l1", entry, 0.0).content_blocks
        if blocks is None:
            # Another function, or ``store``, has stored the answer as text alone.
            return [entry.value.response] if entry.value.response else []
        return [block.get("text", "") for block in blocks if block.get("type") == "text"]


def _returned(function: Callable[..., Any]) -> bool:
    """Return whether ``function`` returns an LlmResponse, and not a str. Raises UsageError for another annotation."""
    try:
        returned = typing.get_type_hints(function).get("return")
    # The names in an annotation may be unknown at run time, and it may be any expression.
    except Exception:
        returned = None
    if returned is str:
        return False
    if returned is LlmResponse:
        return True
    raise UsageError(f"{shown(function)} must be annotated with what it returns: str or LlmResponse")
