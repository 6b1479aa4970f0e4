"""The path of an entry through the levels, which the llm, tool and kv tiers share.

A tier makes keys from its arguments, and entries from its values. ``Tier`` does the rest: it looks entries up, loads,
stores and removes them, and counts each operation.

``get_or_load`` of each tier, in this order:

1. The tier finds the key of the request.
2. ``_hit_for_load`` checks the other arguments and asks L1. A hit ends the call, without a task, a lock or an await.
3. ``_load`` joins the flight of the key, or hands a ``Call`` to ``Loads.get_or_load``, which applies the mode.
4. If the engine loads, it calls the function that ``_load_function`` has made from the loader.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from ..engine.call import Call, Loaded, LoadFunction, Mode, check_mode
from ..engine.engine import Engine
from ..engine.entries.counters import TierCounters
from ..engine.entries.entry import Group
from ..engine.entries.freshness import Freshness
from ..engine.entries.key_pattern import escape, matcher
from ..engine.entries.lookup import Lookup
from ..engine.entries.rules import TierRules
from ..engine.memory.loaders import LoaderCalls, awaitable_loader
from ..engine.operations.around_change import Invalidating, Target
from ..engine.operations.batch_loader import BatchLoader
from ..engine.operations.entry_look import EntryLooks
from ..engine.operations.explain import Explanation, Inspection
from ..engine.operations.get_or_load import Loads
from ..engine.operations.invalidate import GroupEntries, Invalidations
from ..engine.operations.store import Stores
from ..identity import KeepsIdentity
from ..indexes.names import index_key, indexes_of, tag_groups
from ..text import check_name
from ..ttl import Ttl, check_ttl
from .entries import Entries, Entry, Names

__all__ = ["EntryKey", "MadeLoad", "Tier"]


class EntryKey(Protocol):
    """The key of one entry: its text in Valkey, its groups, and the counters of its lookups."""

    @property
    def key(self) -> str:
        """The key in Valkey."""
        ...

    @property
    def _counters(self) -> TierCounters:
        """The counters that count the lookups of the entry."""
        ...

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups whose invalidation removes the entry."""
        ...

    @property
    def attributes(self) -> dict[str, object]:
        """The attributes of the spans of operations on the entry."""
        ...


class MadeLoad(NamedTuple):
    """A request whose load function the caller of ``Tier._load`` has made."""

    function: LoadFunction


K = TypeVar("K", bound=EntryKey)
R = TypeVar("R")


class Tier(KeepsIdentity, Generic[K, R]):
    """A tier whose entries are copies, which a loader can make again.

    Args:
        name: The name of the cache.
        prefix: The prefix of the tier's keys in Valkey.

    Attributes:
        tier: The name of the tier in operations and spans.
        result: The class of the results of ``get_or_load``.
        is_indexed: Whether an entry without tags belongs to an index, such as the index of its model.
    """

    tier: ClassVar[str]
    result: ClassVar[Any]
    is_indexed: ClassVar[bool] = True

    def __init__(self, engine: Engine, rules: TierRules, name: str, prefix: str) -> None:
        self._engine = engine
        self._loads = Loads(engine)
        self._stores = Stores(engine)
        self._invalidations = Invalidations(engine)
        self._rules = rules
        self._loaders = LoaderCalls(rules.tier, engine.log, in_threads=rules.threads, run_plain=engine.run_plain)
        self._name = name
        self._prefix = prefix
        # The prefixes of all keys of the tier, of any scope.
        self._prefixes: tuple[str, ...] = (prefix,)
        # The rules with each ``stale_for`` that was set at run time. None: the function has its own.
        self._rules_by_stale_for: dict[float, TierRules] | None = {}

    async def clear(self) -> int:
        """Remove every entry of this tier from both levels; return how many entries there were.

        The entries of other tiers stay. Loads in progress store nothing.

        Raises:
            L2UnavailableError: The entries are gone from this process. Some may be left in Valkey; this process does
                not read them, and repeats the removal until Valkey acknowledges it.
            L2CommandError: Valkey refused a command.

        Cancelling the call does not restore entries; some may be left in Valkey.
        """
        return await self._remove_group("clear", GroupEntries(self._rules.group, self._prefixes))

    def scan(self, match: str | None = None) -> AsyncIterator[Entry]:
        r"""Return an iterator over the entries of this tier in Valkey, or in L1 of a cache without Valkey.

        The iterator reads Valkey in pages, and never blocks the server. Entries may be removed during the iteration. An
        entry that exists throughout is yielded once, in no order; an entry that comes or goes may be. Loads in progress
        are no entries.

        Args:
            match: A glob, with the rules of ``KvTier.delete_pattern``: over the keys of a kv tier as the caller writes
                them; over the keys of the other tiers in Valkey, behind the prefix of the tier. None: every entry.

        Raises:
            L2UnavailableError: Valkey did not answer; the iterator raises this.
            L2CommandError: Valkey refused a command; the iterator raises this.
        """
        return self._entries.scan(self._full_pattern("*" if match is None else match))

    async def _inspect(self, key: K) -> Entry:
        return await self._entries.one(self._make_call(key))

    @property
    def _entries(self) -> Entries:
        return Entries(EntryLooks(self._engine, self._rules), self._rules, self._names_of)

    def _full_pattern(self, pattern: str) -> str:
        """Return the pattern of the keys in Valkey. Errors as for ``check_name`` and ``matcher``."""
        full = escape(self._prefix) + check_name(pattern, "match")
        matcher(full)
        return full

    def _names_of(self, key: str, value: Any) -> Names:
        """Return the names of the entry of ``key`` in Valkey from its value, which is None if it cannot be read."""
        raise NotImplementedError

    def _with_freshness(self, options: dict[str, Any]) -> Self:
        """Return this tier for the entries of one function, whose ``options`` of freshness win over the tier's."""
        if not options or not self._rules.l1:
            return self
        freshness = (self._rules.freshness or Freshness()).but(options)
        if freshness.outlives_valkey:
            self._engine.l1.announcements.require()
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, _rules=replace(self._rules, freshness=freshness))
        made._rules_by_stale_for = None if "stale_for" in options else {}
        return made

    def _rules_of(self, groups: tuple[Group, ...]) -> TierRules:
        """Return the tier's rules with the ``stale_for`` that was set at run time for an entry with these groups."""
        rules, known = self._rules, self._rules_by_stale_for
        stale_for = rules.overrides.stale_for_of(groups)
        if stale_for is None or known is None or not rules.l1:
            return rules
        made = known.get(stale_for)
        if made is None:
            own = rules.freshness or Freshness()
            made = known[stale_for] = replace(rules, freshness=own.but({"stale_for": stale_for}))
        return made

    # Lookups and loads

    def _hit(self, method: str, key: K) -> R | None:
        """Return the result if L1 has the entry, or None. Needs no task, no lock and no await."""
        engine = self._engine
        now = engine.now()
        entry = engine.hit(key.key, now, key._counters)
        if entry is None:
            return None
        if engine.tracer is not None:
            engine.trace_hit(f"{self.tier}.{method}", **key.attributes)
        return self.result(key.key, "l1", entry, now)  # type: ignore[no-any-return]

    def _hit_for_load(self, key: K, loader: object, ttl: Ttl | None, tags: Sequence[str], mode: Mode) -> R | None:
        """Check the arguments of ``get_or_load``; return the result if ``mode`` uses L1 and L1 has the entry, or None.

        Raises:
            UsageError: An argument is wrong, also where L1 has the entry.
        """
        # Most calls give no option, and a function as loader: on a hit, each further Python call would cost 3 %.
        if not callable(loader):
            return self._hit_for_awaitable(key, loader, ttl, tags, mode)
        if ttl is not None or tags or mode != "use":
            if ttl is not None:
                check_ttl(ttl)
            if mode != "use":
                check_mode(mode)
            if tags and not self._engine.knows_tags(key.key, tag_groups(tags)):
                return None
            if mode != "use":
                return None
        return self._hit("get_or_load", key)

    def _hit_for_awaitable(self, key: K, loader: object, ttl: Ttl | None, tags: Sequence[str], mode: Mode) -> R | None:
        awaitable = awaitable_loader(loader)
        hit = self._hit_for_load(key, awaitable, ttl, tags, mode)
        if hit is None:
            awaitable.give_back()
        return hit

    async def _find(self, method: str, key: K) -> Lookup:
        """Look up a key that L1 has not answered in this same step."""
        engine = self._engine
        with engine.operation(f"{self.tier}.{method}", key) as operation:
            groups = key.groups
            lookup = await engine.find(Call(self._rules_of(groups), key.key, groups, key._counters), is_l1_miss=True)
            operation.found(lookup)
        return lookup

    async def _load(self, key: K, loader: Any, request: Any, ttl: Ttl | None, tags: Sequence[str], mode: Mode) -> R:
        """Return the result of ``get_or_load`` for a call that ``_hit_for_load`` has not answered.

        Args:
            request: The request as the caller gave it, for ``_load_function``; or the function that this would return.
        """
        engine, method = self._engine, f"{self.tier}.get_or_load"
        if not callable(loader):
            loader = awaitable_loader(loader)
        is_plain = mode == "use" and not tags and self._rules_of(key.groups).freshness is None
        flight = self._loads.joinable(key.key) if is_plain else None
        if flight is not None:
            lookup = await self._loads.join(method, flight, key._counters)
        else:
            with engine.operation(method, key) as operation:
                is_batched = isinstance(loader, BatchLoader)
                if is_batched:
                    loader.check_engine(engine)
                await self._opened()
                call = self._make_call(key, ttl, tags)._replace(is_batched=is_batched)
                is_made = type(request) is MadeLoad
                load = request.function if is_made else self._load_function(key, request, loader)
                lookup = await self._loads.get_or_load(call, load, mode)
                operation.found(lookup)
        return self._result(key, lookup)

    def _load_function(self, key: K, request: Any, loader: Any, /) -> LoadFunction:
        """Return a function that calls ``loader`` for ``request`` and encodes its value.

        A method apart from ``get_or_load``, because a closure there would cost every hit the cells of its variables.
        """
        raise NotImplementedError

    def _result(self, key: K, lookup: Lookup) -> R:
        return self.result.from_found(key.key, lookup, self._engine.now())  # type: ignore[no-any-return]

    def _make_call(self, key: K, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> Call:
        groups = key.groups
        if ttl is None:
            ttl = self._rules.overrides.ttl
        indexes = indexes_of(self._name, groups) if self.is_indexed else ()
        rules = self._rules_of(groups)
        if not tags:
            return Call(rules, key.key, groups, key._counters, ttl, (), indexes)
        named = tag_groups(tags)
        indexes += tuple([index_key(self._name, tag) for tag in named])
        return Call(rules, key.key, groups, key._counters, ttl, named, indexes)

    async def _opened(self) -> None:
        """Open the cache, unless it is open: a call depends on the policies and settings that the opening reads."""
        if self._engine.open_runtime() is None:
            await self._engine.open()

    async def _explain(self, key: K) -> Explanation:
        return await Inspection(await self._engine.open(), self._make_call(key)).explain()

    def _may_store(self, value: object) -> bool:
        """Return whether the tier's ``store_when`` lets the cache store the loader's value."""
        store_when = self._rules.store_when
        if store_when is None:
            return True
        try:
            return bool(store_when(value))
        # The caller's function may raise any exception; the waiters get the loaded value in any case.
        except Exception as error:
            self._engine.log.warn_once("TierOptions.store_when raised, so the value is not stored: %r", error)
            return False

    # Stores and removals

    async def _store(self, method: str, key: K, loaded: Loaded, ttl: Ttl | None, tags: Sequence[str], name: str) -> str:
        """Store a value that the caller gave; return its key in Valkey. Errors as for ``Stores.store``.

        Args:
            name: Name of the value in an error text.

        Raises:
            UsageError: An option is wrong, or the value is larger than ``TierOptions.max_value_bytes``, or
                ``TierOptions.admit`` refuses it.
        """
        if ttl is not None:
            check_ttl(ttl)
        if tags:
            # Before the operation begins: a call with a wrong argument is no operation that failed.
            tag_groups(tags)
        self._rules.check_size(loaded.data, name)
        if self._rules.admit is not None:
            self._rules.check_admission(key.key, loaded.data, loaded.value, self._engine.log)
        with self._engine.operation(f"{self.tier}.{method}", key, bytes=len(loaded.data)) as operation:
            await self._opened()
            operation.set("ttl", await self._stores.store(self._make_call(key, ttl, tags), loaded))
        return key.key

    async def _remove(self, method: str, key: str, **attributes: object) -> bool:
        """Remove one entry from both levels; return whether either level had it. Errors as for ``Invalidations``."""
        with self._engine.operation(f"{self.tier}.{method}", key=key, **attributes) as operation:
            existed = await self._invalidations.key(key)
            operation.set("deleted_count", int(existed))
        return existed

    async def _remove_group(
        self, method: str, entries: GroupEntries, *, sweep: bool = False, **attributes: object
    ) -> int:
        """Remove the entries of a group from both levels; return how many. Errors as for ``Invalidations.group``."""
        with self._engine.operation(f"{self.tier}.{method}", **attributes) as operation:
            count = await self._invalidations.group(entries, sweep=sweep)
            operation.set("deleted_count", count)
        return count

    def _around_change(self, argument: Any, target_of: Callable[[Any], Target]) -> Invalidating:
        """Return the guard that ``invalidates`` returns.

        Args:
            argument: The argument of ``invalidates``, or a function of the decorated call's arguments that
                returns it.
            target_of: Returns the target of the change.

        Raises:
            UsageError: ``argument`` is wrong. If it is a function, the decorated call raises this.
        """

        def target(*args: Any, **kwargs: Any) -> Target:
            return target_of(argument(*args, **kwargs) if callable(argument) else argument)

        if not callable(argument):
            # For the errors of the argument. The scope is that of the change, which has not begun.
            with self._rules.scopes.given(()):
                target()
        return Invalidating((self._engine,), target, takes_call=callable(argument))
