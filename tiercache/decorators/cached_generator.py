"""Cached generators: a call replays the stored items, follows the generator that runs, or starts the generator.

The items are one value, a list, of the tier of the decorator. A load records them (``streams.recording``): every reader
gets the items so far, and then each item as it comes. The generator runs in the task of its load, and goes on to its
next item when a reader waits for that item. The list is stored when the generator has ended.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ..engine.call import Loaded, Mode
from ..engine.entries.entry import Entry
from ..engine.entries.lookup import Lookup
from ..engine.operations.explain import Explanation
from ..engine.operations.get_or_load import Loads
from ..errors import UsageError
from ..streams.live import Sharing
from ..streams.recorded_load import RecordedLoad, Show
from ..streams.recording import Recording
from .cached import Cached, CallCounts
from .items import Begun, ItemHead, ItemHeadForm, ItemIterator, Source, Unshared, direct, encode_item, items_of
from .method_signature import MethodSignature
from .plain_generator import PlainGenerator

__all__ = ["CachedGenerator"]

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
Q = ParamSpec("Q")


class CachedGenerator(Generic[P, T]):
    """A generator function whose items are cached; called as the function itself. Decorators make it.

    A call returns an iterator over the items, which are new objects for every reader. Two calls share their items as
    the calls of ``Cached`` share a value, and the methods that take the arguments of a call are those of ``Cached``.

    Args:
        single: The function as if it returned the list of its items: it makes the keys, and keeps the options.

    Raises:
        UsageError: The options have ``sources``, which return whole values.
    """

    __signature__ = MethodSignature()

    def __init__(self, single: Cached[Any, Any]) -> None:
        if single._options.sources:
            raise UsageError("sources are for functions that return a value: a generator cannot have sources")
        for name in single._options.freshness:
            raise UsageError(f"{name} is for functions that return a value: L1 serves no stale items of a generator")
        tier = single._entries.tier
        coherence, limit = tier._engine.coherence, tier._rules.max_value_bytes
        self._single = single
        self._is_async = inspect.isasyncgenfunction(single._function)
        self._rules = replace(tier._rules, finish_abandoned=tier._rules.streams_finish)
        self._max_bytes = math.inf if limit is None else limit
        sharing = Sharing(
            tier._name, ItemHeadForm(), coherence.lease_ttl, coherence.stream_wait, max_bytes=self._max_bytes
        )
        self._loads = Loads(tier._engine, partial(RecordedLoad, sharing=sharing))
        functools.update_wrapper(self, single)
        # The generator function itself, and not its decorated form, which caches whole values.
        self.__wrapped__ = vars(single)["__wrapped__"]

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> CachedGenerator[P, T]: ...

    @overload
    def __get__(
        self: CachedGenerator[Concatenate[S, Q], T], instance: S, owner: type[S] | None = None
    ) -> CachedGenerator[Q, T]: ...

    @overload
    def __get__(
        self: CachedGenerator[Concatenate[type[S], Q], T], instance: S, owner: type[S] | None = None
    ) -> CachedGenerator[Q, T]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the method of ``instance``."""
        single = self._single.__get__(instance, owner)
        if single is self._single:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, _single=single)
        return bound

    # Calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ItemIterator[T]:
        """Return an iterator over the items of a call; on a miss, it runs the generator once for all its readers."""
        single, rest = self._single._method(args)
        when = single._options.when
        if when is not None and not when(*single._instance, *rest, **kwargs):
            single._counts.skipped += 1
            return ItemIterator(partial(_begin_directly, self._started(single, rest, kwargs), Unshared.of), bool)
        return self._iterator(single, rest, kwargs, "use")

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> ItemIterator[T]:
        """Return an iterator that runs the generator in any case, and stores its items."""
        single, rest = self._single._method(args)
        return self._iterator(single, rest, kwargs, "refresh")

    # Entries

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key in Valkey of a call."""
        return self._single.key(*args, **kwargs)

    async def is_cached(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether a call would find its items. Counts as a lookup."""
        return await self._single.is_cached(*args, **kwargs)

    async def set(self, items: Iterable[T], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store the items of a call, as ``Cached.set``."""
        await self._single.set(list(items), *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the items of a call from both levels; return whether either level had them.

        A generator that runs goes on for its readers, and its items are not stored.
        """
        return await self._single.invalidate(*args, **kwargs)

    async def clear(self) -> int:
        """Remove the items of all calls from both levels; return the number of calls that had items."""
        return await self._single.clear()

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return where the items of a call are, as ``Cached.explain``."""
        return await self._single.explain(*args, **kwargs)

    def metrics(self) -> CallCounts:
        """Return the counts of the function's calls, each counted at its first step, since it was decorated."""
        return self._single.metrics()

    def __repr__(self) -> str:
        return f"<CachedGenerator {self._single._entries.scope}>"

    # The way of a call

    def _iterator(
        self, single: Cached[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode
    ) -> ItemIterator[T]:
        # Made here, so that a call with wrong arguments raises as the call of a function does.
        run = _Run(self, single, args, kwargs)
        return ItemIterator(partial(run.begin, mode), run.count_error)

    def _started(
        self,
        single: Cached[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        head: ItemHead | None = None,
    ) -> Source:
        """Return a new generator."""
        function: Callable[..., Any] = single._function
        generator = function(*single._instance, *args, **kwargs)
        return generator if self._is_async else PlainGenerator(generator, single._entries.tier._loaders, head)


class _Run:
    """One call of a cached generator.

    Args:
        single: The function with the instance of the call.
    """

    def __init__(
        self,
        generator: CachedGenerator[Any, Any],
        single: Cached[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._generator = generator
        self._single = single
        self._args = args
        self._kwargs = kwargs
        self._tier = single._entries.tier
        self._components = single._scopes.components()
        self._key = single._key_within(args, kwargs, self._components)
        self._tags = single._tags(args, kwargs)

    async def begin(self, mode: Mode) -> Begun:
        """Look the items up, follow the generator that runs, or start it."""
        tier, single, key = self._tier, self._single, self._key
        hit = tier._hit_for_load(key, single._function, single._options.ttl, self._tags, mode)
        if hit is not None and (items := self._items(hit._entry, hit.source)) is not None:
            single._counts.l1_hits += 1
            return Begun(items)
        lookup = await self._load(mode)
        self._count(lookup)
        if lookup.ongoing is not None:
            share = lookup.ongoing
            return Begun([], share.place, share.leave, share.place.recording.head)
        if lookup.entry is not None and (items := self._items(lookup.entry, lookup.source)) is not None:
            return Begun(items)
        # The call is part of the load that it would wait for, or another function stores its values under the key.
        return await _begin_directly(self._start(), encode_item)

    def count_error(self) -> None:
        """Count a reader that got an exception."""
        self._single._counts.errors += 1

    def _start(self, head: ItemHead | None = None) -> Source:
        return self._generator._started(self._single, self._args, self._kwargs, head)

    def _items(self, entry: Entry, source: str | None) -> list[Any] | None:
        """Return the items of an entry, or None: another function may have stored another value under the key."""
        value = self._single._entries.value(entry)
        if isinstance(value, list):
            return value
        # A pin wins over the generator, also a pin that is no list.
        return [value] if source == "pin" else None

    def _count(self, lookup: Lookup) -> None:
        counts = self._single._counts
        if lookup.is_hit:
            counts.l1_hits += lookup.source != "l2"
            counts.l2_hits += lookup.source == "l2"
        else:
            counts.misses += 1
            counts.coalesced += lookup.coalesced

    async def _load(self, mode: Mode) -> Lookup:
        tier, key, loads = self._tier, self._key, self._generator._loads
        tags = self._single._entries.own_tags + self._tags
        with tier._engine.operation(f"{tier.tier}.get_or_load", key) as operation:
            await tier._opened()
            call = tier._make_call(key, self._single._options.ttl, tags)._replace(rules=self._generator._rules)
            # A recorded load takes a Record as its function.
            lookup = await loads.get_or_load(call, self._record, mode)  # type: ignore[arg-type]
            if lookup.entry is not None and self._items(lookup.entry, lookup.source) is None:
                lookup = await loads.get_or_load(call, self._record, "refresh")  # type: ignore[arg-type]
            operation.found(lookup)
        return lookup

    async def _record(self, show: Show) -> Loaded:
        """Run the generator, record its items, and return them for storing: a ``Record`` of the load."""
        head = ItemHead()
        generator = self._start(head)
        recording = Recording(head, max_bytes=self._generator._max_bytes)
        recording.at_last = partial(self._close, generator)
        show(recording)
        await recording.wait_for_demand()
        async for item in generator:
            line = encode_item(item)
            if type(line) is Unshared:
                # The items cannot be stored, and another process must run the generator by itself.
                recording.on_overflow()
            recording.append(line, len(line))
            await recording.wait_for_room()
            await recording.wait_for_demand()
        return self._loaded(recording)

    async def _close(self, generator: Source) -> None:
        try:
            await generator.aclose()
        # The code at the end of a generator may raise any exception, and no reader is left.
        except Exception as error:
            self._single._warn(f"the generator {self._single._entries.scope} raised when it was closed: %r", error)

    def _loaded(self, recording: Recording) -> Loaded:
        """Return the items of a generator that has ended."""
        single, key = self._single, self._key
        if not recording.is_whole:
            self._key._counters.too_large += 1
            text = f"the items of {single._entries.scope} are too large to be stored (counted as too_large)"
            single._warn(text)
            return single._entries.given(key, [])._replace(data=b"", is_too_large=True)
        items = items_of(recording.parts())
        loaded = single._entries.loaded(key, items)
        may_store = loaded.store and single._may_store(items) and self._is_unchanged()
        return loaded if may_store else loaded._replace(store=False)

    def _is_unchanged(self) -> bool:
        return self._single._is_unchanged(self._key, self._args, self._kwargs, self._components)


async def _begin_directly(generator: Source, encode: Callable[[Any], bytes]) -> Begun:
    """Return the beginning of a generator that runs for one reader alone."""
    parts: AsyncIterator[list[bytes]] = direct(generator, encode)
    return Begun([], parts)
