"""Cached functions: what the decorators of all tiers share.

A call of a cached function goes through the tier of the decorator, as ``get_or_load`` of the tier does:

1. The fingerprint of the arguments finds the key of an earlier call. Otherwise the arguments are bound to the names of
   the parameters, and the tier makes the key.
2. If L1 has the entry, the call returns its value, without a task, a lock or an await.
3. Otherwise the tier looks in Valkey, and calls the sources and then the function at most once at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Concatenate, Final, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from ..agents.run import PLACE, answer_in_run
from ..agents.run_scopes import RunScopes
from ..engine.call import Loaded, LoadFunction, Mode
from ..engine.entries.entry import Entry
from ..engine.operations.explain import Explanation
from ..errors import UsageError
from ..scopes import Components
from ..text import check_name, encode_id, shown
from ..tiers.keys.fingerprint import fingerprint
from ..tiers.keys.key import is_unchanged
from ..tiers.keys.lookup import KeyLookup
from ..tiers.result import MISS
from ..tiers.tier import MadeLoad, Tier
from .arguments import Signature
from .key_template import KeyTemplate
from .method_signature import MethodSignature
from .options import Decoration

__all__ = ["Cached", "CallCounts", "FunctionEntries", "Operations"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Q = ParamSpec("Q")

_SERIAL: Final = count()


class Operations(NamedTuple):
    """The names of the tier's methods whose counters and spans the methods of a decorated function share."""

    lookup: str
    store: str
    remove: str


class FunctionEntries(Protocol):
    """The entries of one function in a tier: what differs between the decorators of the tiers.

    Attributes:
        tier: The tier.
        lookup: The known keys of the tier's functions.
        scope: The name of the function, and its version.
        own_tags: Tags of every entry of the function.
        spreads: Whether the members of ``**kwargs`` are arguments of their own.
        operations: The names of the tier's methods.
    """

    @property
    def tier(self) -> Tier[Any, Any]: ...

    @property
    def lookup(self) -> KeyLookup[Any]: ...

    @property
    def scope(self) -> str: ...

    @property
    def own_tags(self) -> tuple[str, ...]: ...

    @property
    def spreads(self) -> bool: ...

    @property
    def operations(self) -> Operations: ...

    def key(self, arguments: dict[str, Any], instance: str | None, own: str | None, components: Components) -> Any:
        """Return the key of a call.

        Args:
            arguments: The arguments by the names of the parameters.
            instance: The text that stands for the instance of a method, or None.
            own: The text that the caller's ``key`` has made, or None.
            components: The components of the key.
        """
        ...

    def loaded(self, key: Any, value: Any) -> Loaded:
        """Return the result of a load that returned ``value``."""
        ...

    def given(self, key: Any, value: Any) -> Loaded:
        """Return a value to store. Raises UsageError for a value that cannot be stored."""
        ...

    def value(self, entry: Entry) -> Any:
        """Return the value of an entry, for one caller."""
        ...

    async def clear(self) -> int:
        """Remove every entry of the function; return how many there were."""
        ...


@dataclass(slots=True)
class CallCounts:
    """Counts of the calls of one function in this process.

    Attributes:
        l1_hits, l2_hits: Calls whose value came from process memory (a pin counts here), or from Valkey.
        misses: Calls whose value came from the function.
        coalesced: Calls, among the misses, that waited for a load which another caller had started.
        errors: Calls that raised.
        skipped: Calls in which the cache took no part, because of ``when``.
    """

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    coalesced: int = 0
    errors: int = 0
    skipped: int = 0


class Cached(Generic[P, R]):
    """A function whose values are cached; called as the function itself. Decorators make it.

    Two calls share a value if their arguments have the same names, types and contents, however they are spelled. The
    methods that take the arguments of a call take them as the function does. As the attribute of a class it is a
    method: ``instance.method.key(...)`` needs no instance among the arguments.

    Every method raises UsageError for arguments that cannot be part of a key, TypeError for arguments that the function
    does not take, and the errors of the tier's method of the same purpose.
    """

    __signature__ = MethodSignature()

    def __init__(self, function: Callable[P, Awaitable[R]], entries: FunctionEntries, options: Decoration) -> None:
        self._function = function
        self._entries = entries
        self._options = options
        self._signature = Signature(function, options.ignore, spreads=entries.spreads)
        if options.instance_key is not None and not self._signature.is_method:
            raise UsageError(f"instance_key is for methods, and {shown(function)} has no parameter 'self' or 'cls'")
        self._template = KeyTemplate(options.key, self._signature.names) if isinstance(options.key, str) else None
        # The instance, of a method that was looked up on one.
        self._instance: tuple[Any, ...] = ()
        self._instance_text: str | None = None
        # Not the name alone: another function of the same name may have other parameters.
        self._scope = f"{entries.scope}#{next(_SERIAL)}"
        scopes = entries.tier._rules.scopes.of_function(options.scope)
        self._scopes = RunScopes(scopes, entries.tier._engine.log) if options.per_run else scopes
        self._calls = self._scopes.calls
        self._counts = CallCounts()
        # Whether the arguments alone decide on the call, so that their fingerprint stands for it.
        self._is_quick = options.when is None and not options.tags and not callable(options.key)
        # Whether a run of an agent counts the calls.
        self._is_tool = entries.tier.tier == "tool"
        functools.update_wrapper(self, function)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Cached[P, R]: ...

    @overload
    def __get__(self: Cached[Concatenate[S, Q], R], instance: S, owner: type[S] | None = None) -> Cached[Q, R]: ...

    @overload
    def __get__(
        self: Cached[Concatenate[type[S], Q], R], instance: S, owner: type[S] | None = None
    ) -> Cached[Q, R]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the method of ``instance``."""
        if instance is None or self._instance:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, _instance=(instance,))
        if self._options.instance_key is not None:
            text = self._options.instance_key(instance)
            bound._instance_text = check_name(text, "the text that instance_key returned")
            bound._scope = f"{self._scope}:{encode_id(text)}"
        return bound

    # Calls

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value of a call; on a miss, call the function at most once at a time among all processes."""
        if self._is_quick and not (self._is_tool and PLACE.get() is not None):
            found = fingerprint((args, kwargs))
            place = self._place(self._scopes.components()) if self._calls.is_used else self._scope
            key = None if found is None else self._entries.lookup.known.find((place, found))
            if key is not None:
                engine = self._entries.tier._engine
                entry = engine.hit(key.key, engine.now(), key._counters)
                if entry is not None:
                    self._counts.l1_hits += 1
                    if engine.tracer is not None:
                        engine.trace_hit(f"{self._entries.tier.tier}.get_or_load", **key.attributes)
                    return cast(R, self._entries.value(entry))
        bound, rest = self._method(args)
        when = self._options.when
        if when is not None and not when(*bound._instance, *rest, **kwargs):
            self._counts.skipped += 1
            return cast(R, await bound._function(*bound._instance, *rest, **kwargs))
        return cast(R, await bound._value(rest, kwargs, "use"))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in any case, and store its value; return the value."""
        bound, rest = self._method(args)
        return cast(R, await bound._value(rest, kwargs, "refresh"))

    async def result(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Return the value of a call as the tier's result, which has its source, age and ttl."""
        bound, rest = self._method(args)
        return await bound._result(rest, kwargs, "use")

    # Entries

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key in Valkey of a call."""
        bound, rest = self._method(args)
        return bound._key(rest, kwargs).key  # type: ignore[no-any-return]

    async def is_cached(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether a call would find its value. Counts as a lookup."""
        bound, rest = self._method(args)
        tier, name, key = self._entries.tier, self._entries.operations.lookup, bound._key(rest, kwargs)
        return tier._hit(name, key) is not None or (await tier._find(name, key)).entry is not None

    async def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store the value of a call; return once Valkey has acknowledged the write. Wins over loads in progress."""
        bound, rest = self._method(args)
        key = bound._key(rest, kwargs)
        tags = self._entries.own_tags + bound._tags(rest, kwargs)
        name, loaded = self._entries.operations.store, self._entries.given(key, value)
        await self._entries.tier._store(name, key, loaded, self._options.ttl, tags, "value")

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the value of a call from both levels; return whether either level had it."""
        bound, rest = self._method(args)
        return await self._entries.tier._remove(self._entries.operations.remove, bound._key(rest, kwargs).key)

    async def clear(self) -> int:
        """Remove the values of all calls from both levels; return how many there were."""
        return await self._entries.clear()

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return where the value of a call is, and how the call would be answered. Counts and changes nothing."""
        bound, rest = self._method(args)
        return await self._entries.tier._explain(bound._key(rest, kwargs))

    def metrics(self) -> CallCounts:
        """Return the counts of the function's calls since it was decorated."""
        return replace(self._counts)

    def __repr__(self) -> str:
        return f"<Cached {self._entries.scope}>"

    # The way of a call

    def _method(self, args: tuple[Any, ...]) -> tuple[Cached[Any, Any], tuple[Any, ...]]:
        """Return the function with its instance, and the other arguments, of a call of any spelling."""
        if self._signature.is_method and not self._instance and args:
            return self.__get__(args[0]), args[1:]
        return self, args

    async def _value(self, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode) -> Any:
        return self._entries.value((await self._result(args, kwargs, mode))._entry)

    async def _result(self, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode) -> Any:
        components = self._scopes.components()
        key = self._key_within(args, kwargs, components)
        tags = self._tags(args, kwargs)
        load = partial(self._load, key, (args, kwargs), components, tags, mode)
        if self._is_tool and (place := PLACE.get()) is not None:
            answer = partial(self._answer, key, load, tags, mode)
            return await answer_in_run(place, self._entries.scope, key.key, answer)
        return await self._answer(key, load, tags, mode)

    async def _answer(self, key: Any, load: Callable[[], Awaitable[Any]], tags: tuple[str, ...], mode: Mode) -> Any:
        result = self._entries.tier._hit_for_load(key, self._function, self._options.ttl, tags, mode)
        if result is None:
            return await load()
        self._count(result)
        return result

    async def _load(self, key: Any, call: Any, components: Components, tags: tuple[str, ...], mode: Mode) -> Any:
        load = MadeLoad(self._load_function(key, call[0], call[1], components))
        tags = self._entries.own_tags + tags
        try:
            result = await self._entries.tier._load(key, self._function, load, self._options.ttl, tags, mode)
        except Exception:
            self._counts.errors += 1
            raise
        self._count(result)
        return result

    def _count(self, result: Any) -> None:
        counts = self._counts
        if result.source in ("l1", "pin"):
            counts.l1_hits += 1
        elif result.hit:
            counts.l2_hits += 1
        else:
            counts.misses += 1
            counts.coalesced += result.coalesced

    def _load_function(
        self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], components: Components
    ) -> LoadFunction:
        async def load() -> Loaded:
            value = await self._called(args, kwargs)
            loaded = self._entries.loaded(key, value)
            may_store = loaded.store and self._may_store(value) and self._is_unchanged(key, args, kwargs, components)
            return loaded if may_store else loaded._replace(store=False)

        return load

    async def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of the first source that has one, or else of the function."""
        loaders = self._entries.tier._loaders
        for source in self._options.sources:
            try:
                value = await loaders.call(source, *self._instance, *args, **kwargs)
            # A source may raise any exception: the next one is asked.
            except Exception as error:
                self._warn(f"a source of {self._entries.scope} raised, and the next one is asked: %r", error)
            else:
                if value is not MISS:
                    return value
        return await loaders.call(self._function, *self._instance, *args, **kwargs)

    def _may_store(self, value: object) -> bool:
        store_when = self._options.store_when
        if store_when is None:
            return True
        try:
            return bool(store_when(value))
        # The caller's function may raise any exception; the waiters get the loaded value in any case.
        except Exception as error:
            self._warn(f"store_when of {self._entries.scope} raised, so the value is not stored: %r", error)
            return False

    def _is_unchanged(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], components: Components) -> bool:
        """Return whether the arguments still make ``key``: the value of another call must not be stored under it."""
        warning = f"the arguments of {self._entries.scope} were changed during the call: its value is not stored"
        return is_unchanged(key.key, lambda: self._key_within(args, kwargs, components).key, self._warn, warning)

    def _warn(self, text: str, *args: object) -> None:
        self._entries.tier._engine.log.warn_once(text, *args)

    # Keys and tags

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the key of a call that is made now, known or made."""
        return self._key_within(args, kwargs, self._scopes.components())

    def _key_within(self, args: tuple[Any, ...], kwargs: dict[str, Any], components: Components) -> Any:
        own = self._options.key
        if callable(own):
            text = check_name(own(*self._instance, *args, **kwargs), "the text that key returned")
            return self._entries.key(self._bound_arguments((args, kwargs)), self._instance_text, text, components)
        call = (args, kwargs)
        found = fingerprint(call)
        place = self._place(components)
        known = None if found is None else self._entries.lookup.known.find((place, found))
        return known or self._entries.lookup.make(call, found, partial(self._make_key, components), place)

    def _place(self, components: Components) -> Hashable:
        """Return the place of the known keys of this function with ``components``."""
        return (self._scope, components) if components else self._scope

    def _make_key(self, components: Components, call: tuple[tuple[Any, ...], dict[str, Any]], is_exact: bool) -> Any:
        arguments = self._bound_arguments(call)
        text = None if self._template is None else self._template.key(arguments)
        return self._entries.key(arguments, self._instance_text, text, components)

    def _bound_arguments(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
        args, kwargs = call
        # A method whose first parameter has another name than ``self`` has its instance as an argument: always None.
        instance = (None,) if self._signature.is_method or self._instance else ()
        return self._signature.bind(instance + args, kwargs)

    def _tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """Return the tags of a call."""
        tags = self._options.tags
        own = tuple(tag(*self._instance, *args, **kwargs) if callable(tag) else tag for tag in tags)
        return own + self._scopes.tags
