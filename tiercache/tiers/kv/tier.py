"""The kv tiers: any JSON value, text or bytes, by a key that the caller chooses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, overload

from ...engine.call import Loaded, LoadFunction, Mode
from ...engine.engine import Engine
from ...engine.entries.entry import Entry as KeptEntry
from ...engine.entries.rules import TierRules
from ...engine.memory.loaders import check_loader, takes_argument
from ...engine.operations.around_change import Invalidating, Target
from ...engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, ArgumentBatchLoader, BatchFunction
from ...engine.operations.explain import Explanation
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...ttl import Ttl, check_ttl
from ..entries import Entry
from ..result import MissType
from ..values.json_types import KvValue, StorableInKv
from ..values.unstorable import unstorable
from .entry import encode_kv
from .key import KvKey, KvKeys
from .loader import KvLoader
from .result import KvResult
from .warm import WarmingTier

__all__ = ["KvBatchLoader", "KvLoader", "KvTier"]

T = TypeVar("T", bound=KvValue)

_Batch: TypeAlias = Mapping[str, T] | Sequence[T]
KvBatchLoader: TypeAlias = Callable[[list[str]], _Batch[T] | Awaitable[_Batch[T]]]


class KvTier(WarmingTier):
    """``cache.kv``, or a tier made by ``cache.tier``: any value, by a key that the caller chooses.

    A key is any text that is not empty. With the prefix that the cache adds, it has at most 512 bytes of UTF-8. A value
    is any JSON value, a str or bytes; None and other falsy values are values. Values come back as JSON holds them: a
    tuple as a list, the keys of a dict as str. Each caller gets its own copy of a value.

    Every method raises UsageError for a wrong argument, and has then stored nothing. Every async method also raises
    UsageError on a closed cache, and WrongLoopError from another event loop.
    """

    tier = "kv"
    is_indexed = False
    result = KvResult

    def __init__(self, engine: Engine, rules: TierRules, name: str) -> None:
        keys = KvKeys(name, rules)
        super().__init__(engine, rules, name, keys)
        self._counters = keys.counters

    async def get(self, key: str, default: Any = None) -> Any:
        """Look up the value of ``key``, without loading; return ``default`` if there is no value.

        Pass ``MISS`` as ``default`` to tell an absent value from a stored None. Does not wait for a load in progress.
        While Valkey is unavailable, or refuses the read, every lookup of Valkey is a miss.
        """
        full_key = self._keys.full(key)
        entry = self._entry_in_l1("get", full_key)
        if entry is None:
            entry = (await self._find("get", self._keys.of_full(full_key))).entry
        return default if entry is None else entry.value.value()

    async def exists(self, key: str) -> bool:
        """Return whether ``get`` would find a value. Counts as a lookup; errors as for ``get``."""
        full_key = self._keys.full(key)
        if self._entry_in_l1("exists", full_key) is not None:
            return True
        return (await self._find("exists", self._keys.of_full(full_key))).entry is not None

    async def set(self, key: str, value: StorableInKv, *, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> None:
        """Store a value; return once Valkey has acknowledged the write. Wins over loads in progress.

        Args:
            ttl: Lifetime: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None takes the tier's,
                then the cache's.
            tags: Names by which the value can be invalidated together with other entries.

        Raises:
            L2UnavailableError: The write may or may not have happened; L1 no longer has the key.
            L2CommandError: Valkey refused the write.

        Cancelling the call does not take back a queued write.
        """
        await self._store("set", self._keys.of(key), self._encode(value, "value"), ttl, tags, "value")

    async def delete(self, key: str) -> bool:
        """Remove a value from both levels; return whether either level had it.

        Promise, errors and cancellation as for ``LlmTier.invalidate``.
        """
        return await self._remove("delete", self._keys.full(key))

    def invalidates(self, key: str | Callable[..., str]) -> Invalidating:
        """Return a guard for a change of the source of a value: ``async with``, or a decorator.

        The guard removes the value before the change and again after it. During the change this process stores no
        value under ``key``. Promise and errors as for ``delete``.

        Args:
            key: The key. For a decorator also a function of the decorated call's arguments that returns the key.
        """

        def target(key: str) -> Target:
            full_key = self._keys.full(key)
            return Target((full_key,), lambda: self._remove("delete", full_key))

        return self._around_change(key, target)

    async def explain(self, key: str) -> Explanation:
        """Return where the value of ``key`` is, and how ``get`` would be answered. Counts and changes nothing.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        return await self._explain(self._keys.of(key))

    async def inspect(self, key: str) -> Entry:
        """Return the entry of ``key``, from a look at both levels. Result and errors as for ``LlmTier.inspect``."""
        return await self._inspect(self._keys.of(key))

    @overload
    async def get_or_load(  # type: ignore[overload-overlap]
        self, key: str, loader: KvLoader[T], *, mode: Literal["only_cached"]
    ) -> KvResult[T | MissType]: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: KvLoader[T],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> KvResult[T]: ...

    async def get_or_load(
        self,
        key: str,
        loader: KvLoader[Any],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> KvResult[Any]:
        """Return the value of ``key``; on a miss, load it at most once at a time among all processes.

        Args:
            loader: Called with ``key`` if it has a required positional parameter, otherwise without arguments; async
                or plain. Returns the value. May be a loader made by ``batch_loader``, or an awaitable such as
                ``fetch(key)`` of an async function: the load awaits it, and on a hit the cache closes the coroutine.
            ttl: Lifetime of a loaded value: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None
                takes the tier's, then the cache's.
            tags: Names by which a loaded value can be invalidated together with other entries.
            mode: As for ``LlmTier.get_or_load``.

        Returns:
            The value, as soon as the loader has returned. The cache writes a loaded value to Valkey in the background,
            in order. A miss only with mode "only_cached".

        Raises:
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.

        Exceptions of the loader, changes during the load, and cancellation are as for ``LlmTier.get_or_load``, except
        that the load is cancelled when its last caller has gone, unless ``TierOptions.on_abandon`` is "finish".
        """
        entry_key = self._keys.of(key)
        hit = self._hit_for_load(entry_key, loader, ttl, tags, mode)
        if hit is not None:
            return hit
        return await self._load(entry_key, loader, None, ttl, tags, mode)

    def _load_function(self, key: KvKey, request: None, loader: Callable[..., Any]) -> LoadFunction:
        arguments = (self._keys.given(key.key),) if takes_argument(loader) else ()

        async def load() -> Loaded:
            value: Any = await self._loaders.call(loader, *arguments)
            return self._loaded_value(value, "the loader's value")

        return load

    def batch_loader(
        self, fn: BatchFunction[str, T], *, window: float = BATCH_WINDOW, max_size: int = BATCH_SIZE
    ) -> ArgumentBatchLoader[str, T]:
        """Return a loader that collects loads and answers them by one call of ``fn``, as ``ToolTier.batch_loader``.

        For callers that have all keys at once there is ``get_or_load_many``, which waits for no window.

        Args:
            fn: Called with a list of keys; async or plain. Returns a list of values, of the same length and order.
            window: Seconds, 0 to a day, that the first load waits for others.
            max_size: Most loads in one call of ``fn``.
        """
        return ArgumentBatchLoader(
            self._engine, self._loaders, fn, window=window, max_size=max_size, scopes=self._rules.scopes
        )

    async def get_many(self, keys: Iterable[str], default: Any = None) -> dict[str, Any]:
        """Return the value of each key in the order of ``keys``, or ``default`` for a key without a value.

        One read of Valkey looks up all keys that L1 does not have. Errors as for ``get``.
        """
        engine = self._engine
        full_keys = self._keys.all_full(keys)
        entries, missing = self._entries_in_l1("get_many", full_keys)
        if missing:
            with engine.operation("kv.get_many"):
                lookups = await engine.find_many(
                    [self._make_call(self._keys.of_full(full_key)) for full_key in missing]
                )
            entries.update((full_key, lookup.entry) for full_key, lookup in zip(missing, lookups, strict=True))
        values: dict[str, Any] = {}
        for full_key in full_keys:
            entry = entries[full_key]
            values[self._keys.given(full_key)] = default if entry is None else entry.value.value()
        return values

    async def set_many(
        self, mapping: Mapping[str, StorableInKv], *, ttl: Ttl | None = None, tags: Sequence[str] = ()
    ) -> None:
        """Store the values of a mapping; return once Valkey has acknowledged every write.

        Args:
            mapping: Keys to values.

        The other arguments, and cancellation, are those of ``set``.

        Raises:
            L2UnavailableError: Each write may or may not have happened.
            L2CommandError: Valkey refused one write. The other writes are done.
        """
        if not isinstance(mapping, Mapping):
            raise UsageError(f"mapping must be a mapping of keys to values, not {type(mapping).__name__}")
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        components = self._rules.scopes.components()
        await self._opened()
        pairs = [
            (
                self._make_call(self._keys.within(key, components), ttl, tags),
                self._encode(value, f"the value of {key!r}"),
            )
            for key, value in mapping.items()
        ]
        for key, (call, loaded) in zip(mapping, pairs, strict=True):
            self._rules.check_size(loaded.data, f"the value of {key!r}")
            self._rules.check_admission(call.key, loaded.data, loaded.value, self._engine.log)
        size_bytes = sum(len(loaded.data) for _, loaded in pairs)
        with self._engine.operation("kv.set_many", bytes=size_bytes):
            await self._stores.store_many(pairs)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove values from both levels; return how many there were. Errors as for ``delete``, for any of the keys."""
        return await self._delete_many(self._keys.all_full(keys))

    async def _delete_many(self, full_keys: Sequence[str]) -> int:
        with self._engine.operation("kv.delete_many") as operation:
            count = await self._invalidations.keys(full_keys)
            operation.set("deleted_count", count)
        return count

    async def get_or_load_many(
        self, keys: Iterable[str], loader: KvBatchLoader[T], *, ttl: Ttl | None = None, tags: Sequence[str] = ()
    ) -> dict[str, T]:
        """Return the value of each key in the order of ``keys``; load all missing keys by one call of ``loader``.

        A key that another caller is loading is waited for. One read of Valkey looks up the other keys; ``loader`` gets
        the keys that Valkey does not have, as one list.

        Args:
            loader: Called with the list of missing keys, unless no key is missing; async or plain. Returns a mapping
                that has each of these keys, or a list of their values in the same order.
            ttl: Lifetime of the loaded values, as for ``get_or_load``.
            tags: Names by which the loaded values can be invalidated together with other entries.

        Raises:
            UsageError: Also if the loader's result lacks a key or has another length; nothing is stored.
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.

        An exception of the loader reaches every caller that waits for one of its keys. Cancelling one caller leaves the
        others waiting; when no caller waits for any of the keys, the load is cancelled, unless
        ``TierOptions.on_abandon`` is "finish". A change of a key during the load wins, for that key.
        """
        full_keys = self._keys.all_full(keys)
        values = await self._get_or_load_many(full_keys, loader, ttl=ttl, tags=tags)
        return {self._keys.given(full_key): value for full_key, value in values.items()}

    async def _get_or_load_many(
        self, full_keys: Sequence[str], loader: Any, *, ttl: Ttl | None, tags: Sequence[str]
    ) -> dict[str, Any]:
        """Return the values by keys in Valkey, as ``get_or_load_many`` does by the caller's keys."""
        check_loader(loader)
        if ttl is not None:
            check_ttl(ttl)
        groups = tag_groups(tags)
        untagged = {key for key in full_keys if groups and not self._engine.knows_tags(key, groups)}
        entries, missing = self._entries_in_l1("get_or_load_many", full_keys, excluded=untagged)
        if missing:
            with self._engine.operation("kv.get_or_load_many"):
                await self._opened()
                calls = [self._make_call(self._keys.of_full(full_key), ttl, tags) for full_key in missing]
                lookups = await self._loads.get_or_load_many(calls, partial(self._load_many, loader))
            entries.update((full_key, lookup.entry) for full_key, lookup in zip(missing, lookups, strict=True))
        return {full_key: entries[full_key].value.value() for full_key in full_keys}

    async def _load_many(self, loader: KvBatchLoader[Any], full_keys: Sequence[str]) -> list[Loaded]:
        keys = [self._keys.given(full_key) for full_key in full_keys]
        # A copy: the loader may change its list.
        loaded: Any = await self._loaders.call(loader, keys.copy())
        return [
            self._loaded_value(value, f"the loader's value of {key!r}")
            for key, value in zip(keys, _in_order(loaded, keys), strict=True)
        ]

    def _entry_in_l1(self, method: str, full_key: str) -> KeptEntry | None:
        """Return the entry in L1, counted and traced as a hit of ``method``, or None. Makes no key object."""
        engine = self._engine
        entry = engine.hit(full_key, engine.now(), self._counters)
        if entry is not None and engine.tracer is not None:
            engine.trace_hit(f"kv.{method}", key=full_key)
        return entry

    def _entries_in_l1(
        self, method: str, full_keys: Sequence[str], *, excluded: Container[str] = ()
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the entries in L1, counted as hits, and the keys that L1 does not have or that are ``excluded``.

        If L1 has all, the lookup is traced as a hit of ``method``; otherwise the caller traces it.
        """
        engine = self._engine
        now = engine.now()
        entries: dict[str, Any] = {}
        for full_key in full_keys:
            entry = None if full_key in excluded else engine.hit(full_key, now, self._counters)
            if entry is not None:
                entries[full_key] = entry
        missing = [full_key for full_key in full_keys if full_key not in entries]
        if not missing and engine.tracer is not None:
            engine.trace_hit(f"kv.{method}")
        return entries, missing

    def _loaded_value(self, value: object, name: str) -> Loaded:
        """Return a value that a loader returned, not to be stored if ``store_when`` refuses it."""
        try:
            loaded = self._encode(value, name)
        # An object of the loader's own may raise any exception. The engine counts the value as ``unstorable``.
        except Exception as error:
            loaded = unstorable(value, error, self._engine.wall())
        return loaded if self._may_store(value) else loaded._replace(store=False)

    def _encode(self, value: object, name: str) -> Loaded:
        """Return the entry of a value and its bytes; raise UsageError, which calls it ``name``, if it is not JSON."""
        entry, data = encode_kv(value, name, self._engine.wall())
        return Loaded(entry, data)


def _in_order(loaded: object, keys: Sequence[str]) -> list[Any]:
    """Return the result of a loader of many keys as a list in the order of ``keys``."""
    if isinstance(loaded, Mapping):
        for key in keys:
            if key not in loaded:
                raise UsageError(f"the loader returned a mapping without the key {key!r}")
        return [loaded[key] for key in keys]
    if not isinstance(loaded, list | tuple):
        raise UsageError(f"the loader must return a mapping or a list, not {type(loaded).__name__}")
    if len(loaded) != len(keys):
        raise UsageError(f"the loader returned {len(loaded)} values for the {len(keys)} keys {_some(keys)}")
    return list(loaded)


def _some(keys: Sequence[str]) -> str:
    """Return the first keys as text for an error."""
    shown = ", ".join(map(repr, keys[:3]))
    return shown if len(keys) <= 3 else f"{shown}, ..."
