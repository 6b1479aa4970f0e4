"""The kv tiers: anything JSON, text or bytes, by a key of the caller's own.

An entry lies under ``{name}:__tc:kv:{tier}:{key}``. The key stands there as it is; no tier's name holds a ``:``, so
that tiers cannot meet.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct

from ...engine.call import Loaded, LoadFunction, Mode
from ...engine.engine import Engine
from ...engine.entries.counters import TierCounters
from ...engine.entries.entry import Entry, Group
from ...engine.entries.policy import TierPolicy
from ...engine.memory.load_limits import check_loader, takes_argument
from ...engine.operations.around_change import Invalidating, Target
from ...engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, ArgumentBatchLoader, BatchFunction
from ...engine.operations.explain import Explanation
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...ttl import Ttl, check_ttl
from ..tier import Tier
from .entry import encode_kv
from .result import KvResult

__all__ = ["ALL_KV", "KvBatchLoader", "KvLoader", "KvTier"]

KvLoader: TypeAlias = Callable[[], Any] | Callable[[str], Any]
_Batch: TypeAlias = Mapping[str, Any] | Sequence[Any]
KvBatchLoader: TypeAlias = Callable[[list[str]], _Batch | Awaitable[_Batch]]

_MAX_KEY_BYTES: Final = 512

# The group of the entries of all kv tiers.
ALL_KV: Final = Group("tiers", "kv")


class _Key(Struct, frozen=True, gc=False):
    key: str
    _counters: TierCounters
    groups: tuple[Group, ...]

    @property
    def attributes(self) -> dict[str, object]:
        return {"key": self.key}


class KvTier(Tier[_Key, KvResult]):
    """``cache.kv``, or one of the tiers that ``cache.tier`` makes.

    Keys are any text that is not empty; with what the cache puts before it, at most 512 bytes of UTF-8. Values are any
    JSON value, str or bytes; None and other falsy values are values. What JSON has no form for comes back as what it
    has: a tuple as a list, keys of a dict as str. A value that comes out is the caller's own.

    Every method raises UsageError for a bad argument, having stored nothing, and on a closed cache; WrongLoopError
    from another event loop.
    """

    tier = "kv"
    result = KvResult

    def __init__(self, engine: Engine, policy: TierPolicy, name: str) -> None:
        super().__init__(engine, policy, name, f"{name}:__tc:kv:{policy.tier}:")
        self._groups = (policy.group, ALL_KV)
        self._counters = policy.counters.of(policy.tier)

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, ``default`` where there is none. ``MISS`` tells that from a stored None.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss.
        """
        full_key = self._key(key)
        entry = self._entry_in_l1("get", full_key)
        if entry is None:
            entry = (await self._find("get", self._of(full_key))).entry
        return default if entry is None else entry.value.value()

    async def exists(self, key: str) -> bool:
        """Return whether ``get`` would find a value. Counts as a lookup; errors as for ``get``."""
        full_key = self._key(key)
        if self._entry_in_l1("exists", full_key) is not None:
            return True
        return (await self._find("exists", self._of(full_key))).entry is not None

    async def set(self, key: str, value: Any, *, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> None:
        """Store a value; return once Valkey has acknowledged it. Wins over loads under way.

        Args:
            ttl: Lifetime; None takes the tier's, then the cache's.
            tags: Names by which the value can be invalidated together with other entries.

        Raises:
            L2UnavailableError: The write may or may not have happened; this process has forgotten the key.
            L2CommandError: Valkey refused it.
        """
        at = self._at(key)
        if ttl is not None:
            check_ttl(ttl)
        await self._store("set", at, self._loaded_value(value, "value"), ttl, tags, "value")

    async def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one. Promise and errors as for ``LlmTier.invalidate``."""
        return await self._remove("delete", self._key(key))

    def invalidates(self, key: str | Callable[..., str]) -> Invalidating:
        """Return what stands around a change of what a value is made from, as ``async with`` or as a decorator.

        The value is removed before and after; in between this process stores none. Promise and errors as for
        ``delete``.

        Args:
            key: As for ``delete``; for a decorator also a function of the call's arguments that returns it.
        """

        return self._around_change(key, lambda at: Target((self._key(at),), lambda: self.delete(at)))

    async def explain(self, key: str) -> Explanation:
        """Return where a value is, and how ``get`` would be answered. Counts and changes nothing.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        return await self._explain(self._at(key))

    async def get_or_load(
        self,
        key: str,
        loader: KvLoader,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> KvResult:
        """Return the value of ``key``, calling ``loader`` at most once at a time, among all processes.

        Args:
            loader: Called with ``key`` if it has a required positional parameter, otherwise with nothing; async or
                plain. Or what ``batch_loader`` returned.
            ttl: Lifetime of what is loaded; None takes the tier's, then the cache's.
            tags: As for ``set``.
            mode: As for ``LlmTier.get_or_load``, which also says what is returned when, and what cancelling does;
                with the last caller gone the load is cancelled, unless ``TierOptions.on_abandon`` is "finish".

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.
        """
        at = self._at(key)
        check_loader(loader)
        if ttl is not None or tags or mode != "use":
            self._check_options(ttl, tags, mode)
        if mode == "use" and (hit := self._hit("get_or_load", at)) is not None:
            return hit
        return await self._load_through(at, loader, None, ttl, tags, mode)

    def _loading(self, key: _Key, source: None, loader: KvLoader) -> LoadFunction:
        full_key = key.key

        async def load() -> Loaded:
            value: Any = loader(self._own_key(full_key)) if takes_argument(loader) else loader()  # type: ignore[call-arg]
            if inspect.isawaitable(value):
                value = await value
            return self._loaded(value, "what the loader returned")

        return load

    def batch_loader(
        self, fn: BatchFunction[str], *, window: float = BATCH_WINDOW, max_size: int = BATCH_SIZE
    ) -> ArgumentBatchLoader:
        """Return a loader that answers calls of ``get_or_load`` together, as ``ToolTier.batch_loader`` does.

        ``fn`` is called with a list of keys. Who has the list already asks ``get_or_load_many``.
        """
        return ArgumentBatchLoader(self._engine, fn, window=window, max_size=max_size)

    async def get_many(self, keys: Iterable[str], default: Any = None) -> dict[str, Any]:
        """Return the value of each key, ``default`` where there is none, in the order of ``keys``.

        What is not in process memory is read from Valkey in one round trip. Errors as for ``get``.
        """
        engine = self._engine
        full_keys = self._keys(keys)
        entries, missing = self._peek(full_keys)
        if missing:
            with engine.operation("kv.get_many"):
                founds = await engine.find_many([self._call(self._of(full_key)) for full_key in missing])
            entries.update((full_key, found.entry) for full_key, found in zip(missing, founds, strict=True))
        elif engine.tracer is not None:
            engine.trace_hit("kv.get_many")
        values: dict[str, Any] = {}
        for full_key in full_keys:
            entry = entries[full_key]
            values[self._own_key(full_key)] = default if entry is None else entry.value.value()
        return values

    async def set_many(self, mapping: Mapping[str, Any], *, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> None:
        """Store the values of a mapping; return once Valkey has acknowledged all. Arguments as for ``set``.

        Raises:
            L2UnavailableError: Each write may or may not have happened.
            L2CommandError: Valkey refused one. The others are done.
        """
        if not isinstance(mapping, Mapping):
            raise UsageError(f"mapping must be a mapping of keys to values, not {type(mapping).__name__}")
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        pairs = [
            (self._call(self._at(key), ttl, tags), self._loaded_value(value, f"the value of {key!r}"))
            for key, value in mapping.items()
        ]
        for key, (_, loaded) in zip(mapping, pairs, strict=True):
            self._policy.check_size(loaded.data, f"the value of {key!r}")
        size_bytes = sum(len(loaded.data) for _, loaded in pairs)
        with self._engine.operation("kv.set_many", bytes=size_bytes):
            await self._stores.store_many(pairs)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove values; return how many there were. Errors as for ``delete``, for any of them."""
        full_keys = self._keys(keys)
        with self._engine.operation("kv.delete_many") as operation:
            count = await self._invalidations.keys(full_keys)
            operation.set("deleted_count", count)
        return count

    async def get_or_load_many(
        self, keys: Iterable[str], loader: KvBatchLoader, *, ttl: Ttl | None = None, tags: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the value of each key, in the order of ``keys``, calling ``loader`` once for all that are missing.

        A key that is being loaded by somebody else is waited for. For the others Valkey is asked once; what it does
        not have ``loader`` gets as one list.

        Args:
            loader: Called with the list of missing keys, unless it is empty; async or plain. Returns a mapping that
                has each of them, or their values in the same order.
            ttl: Lifetime of what is loaded; None takes the tier's, then the cache's.
            tags: As for ``set``.

        Raises:
            UsageError: Also where what the loader returned lacks a key or is of another length; nothing is stored.
            L2CommandError: Valkey refused the read. An unreachable Valkey makes every key a miss, and is no error.
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.

        What the loader raises reaches everyone who waits for one of its keys. Cancelling one caller leaves the others
        waiting; when nobody waits for any of the keys the load is cancelled, unless ``TierOptions.on_abandon`` is
        "finish". A change of a key while it is loaded wins, for that key.
        """
        engine = self._engine
        full_keys = self._keys(keys)
        check_loader(loader)
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        entries, missing = self._peek(full_keys)
        if missing:

            async def load(wanted: list[str]) -> list[Loaded]:
                own_keys = [self._own_key(full_key) for full_key in wanted]
                loaded: Any = loader(own_keys.copy())
                if inspect.isawaitable(loaded):
                    loaded = await loaded
                values = _in_order(loaded, own_keys)
                return [
                    self._loaded(value, f"the loader's value of {key!r}")
                    for key, value in zip(own_keys, values, strict=True)
                ]

            with engine.operation("kv.get_or_load_many"):
                calls = [self._call(self._of(full_key), ttl, tags) for full_key in missing]
                founds = await self._loads.get_or_load_many(calls, load)
            entries.update((full_key, found.entry) for full_key, found in zip(missing, founds, strict=True))
        elif engine.tracer is not None:
            engine.trace_hit("kv.get_or_load_many")
        return {self._own_key(full_key): entries[full_key].value.value() for full_key in full_keys}

    def _entry_in_l1(self, method: str, full_key: str) -> Entry | None:
        """Return the entry in L1, counted and traced as a hit of ``method``, or None. Makes no key object."""
        engine = self._engine
        entry = engine.hit(full_key, engine.now(), self._counters)
        if entry is not None and engine.tracer is not None:
            engine.trace_hit(f"kv.{method}", key=full_key)
        return entry

    def _peek(self, full_keys: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the entries in process memory, counted as hits, and the keys that are not there."""
        engine = self._engine
        now = engine.now()
        entries: dict[str, Any] = {}
        for full_key in full_keys:
            entry = engine.hit(full_key, now, self._counters)
            if entry is not None:
                entries[full_key] = entry
        return entries, [full_key for full_key in full_keys if full_key not in entries]

    def _key(self, key: object) -> str:
        """Return the key in Valkey: plain text, no object of the caller's."""
        if type(key) is str and key and (full_key := self._prefix + key).isascii() and len(full_key) <= _MAX_KEY_BYTES:
            return full_key
        return self._checked_key(key)

    def _checked_key(self, key: object) -> str:
        """Do as ``_key`` for every key, with the checks that most keys do not need."""
        if not isinstance(key, str):
            raise UsageError(f"key must be a str, not {type(key).__name__}")
        plain = str.__str__(key)
        if not plain:
            raise UsageError("key must not be empty")
        full_key = self._prefix + plain
        try:
            size_bytes = len(full_key.encode())
        except UnicodeEncodeError as error:
            raise UsageError(f"key has text that is not Unicode (a lone surrogate): {error}") from error
        if size_bytes > _MAX_KEY_BYTES:
            most = _MAX_KEY_BYTES - len(self._prefix)
            raise UsageError(f"key must be at most {most} bytes of UTF-8, not {size_bytes - len(self._prefix)}")
        return full_key

    def _keys(self, keys: Iterable[str]) -> list[str]:
        """Return the keys in Valkey, each once."""
        # A str is an iterable of str, and never what was meant.
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            raise UsageError(f"keys must be an iterable of keys, not {type(keys).__name__}")
        return list(dict.fromkeys(map(self._key, keys)))

    def _own_key(self, full_key: str) -> str:
        return full_key[len(self._prefix) :]

    def _at(self, key: object) -> _Key:
        return _Key(self._key(key), self._counters, self._groups)

    def _of(self, full_key: str) -> _Key:
        return _Key(full_key, self._counters, self._groups)

    def _loaded(self, value: object, name: str) -> Loaded:
        loaded = self._loaded_value(value, name)
        return loaded if self._is_wanted(value) else loaded._replace(store=False)

    def _loaded_value(self, value: object, name: str) -> Loaded:
        entry, data = encode_kv(value, name, self._engine.wall())
        return Loaded(entry, data)


def _in_order(loaded: object, keys: Sequence[str]) -> list[Any]:
    """Return what a batch loader returned, as a list in the order of ``keys``."""
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
    shown = ", ".join(map(repr, keys[:3]))
    return shown if len(keys) <= 3 else f"{shown}, ..."
