"""What the llm, tool and kv tiers do alike: look an entry up, load it, store it, remove it.

A tier turns its arguments into an ``EntryKey`` and its values into entries. The way of an entry through the levels,
with its operation and its counters, is here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ..engine.call import Call, Loaded, LoadFunction, Mode, check_mode
from ..engine.engine import Engine
from ..engine.entries.counters import TierCounters
from ..engine.entries.entry import Entry, Group
from ..engine.entries.lookup import Lookup
from ..engine.entries.policy import TierPolicy
from ..engine.operations.around_change import Invalidating, Target
from ..engine.operations.batch_loader import BatchLoader
from ..engine.operations.explain import Explanation, Inspection
from ..engine.operations.get_or_load import Loads
from ..engine.operations.invalidate import GroupEntries, Invalidations
from ..engine.operations.store import Stores
from ..indexes.names import indexes_of, tag_groups
from ..ttl import Ttl, check_ttl

__all__ = ["EntryKey", "Tier"]


class EntryKey(Protocol):
    """One entry: its key in Valkey, where its lookups are counted, the groups it is invalidated with."""

    @property
    def key(self) -> str: ...

    @property
    def _counters(self) -> TierCounters: ...

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def attributes(self) -> dict[str, object]:
        """What spans say of it."""
        ...


class _Result(Protocol):
    @classmethod
    def from_l1(cls, key: str, entry: Entry, now: float) -> Any: ...

    @classmethod
    def from_found(cls, key: str, found: Lookup, now: float) -> Any: ...


K = TypeVar("K", bound=EntryKey)
R = TypeVar("R")


class Tier(Generic[K, R]):
    """A tier of entries that are copies of something, and can be loaded again.

    Attributes:
        result: The class of what ``get_or_load`` returns.
    """

    tier: ClassVar[str]
    result: ClassVar[Any]

    def __init__(self, engine: Engine, policy: TierPolicy, name: str, prefix: str) -> None:
        self._engine = engine
        self._loads = Loads(engine)
        self._stores = Stores(engine)
        self._invalidations = Invalidations(engine)
        self._policy = policy
        self._name = name
        self._prefix = prefix

    def _hit(self, method: str, key: K) -> R | None:
        """Return what process memory has, None where it has nothing. No task, no lock, no await."""
        engine = self._engine
        now = engine.now()
        entry = engine.hit(key.key, now, key._counters)
        if entry is None:
            return None
        if engine.tracer is not None:
            engine.trace_hit(f"{self.tier}.{method}", **key.attributes)
        return self.result(key.key, "l1", entry, now)  # type: ignore[no-any-return]

    async def _find(self, method: str, key: K) -> Lookup:
        """Look a key up that ``_hit`` has not found in this very step."""
        engine = self._engine
        with engine.operation(f"{self.tier}.{method}", **key.attributes) as operation:
            found = await engine.find(Call(self._policy, key.key, key.groups, key._counters), is_l1_miss=True)
            operation.found(found)
        return found

    async def _load_through(
        self, key: K, loader: Any, source: Any, ttl: Ttl | None, tags: Sequence[str], mode: Mode
    ) -> R:
        """Return what ``get_or_load`` does for a key that L1 does not have, or a mode that does not look there."""
        engine, method = self._engine, f"{self.tier}.get_or_load"
        flight = self._loads.joinable(key.key) if mode == "use" else None
        if flight is not None:
            found = await self._loads.join(method, flight, key._counters)
        else:
            with engine.operation(method, **key.attributes) as operation:
                await self._ready()
                call = self._call(key, ttl, tags)._replace(is_batched=isinstance(loader, BatchLoader))
                found = await self._loads.get_or_load(call, self._loading(key, source, loader), mode)
                operation.found(found)
        return self._result(key, found)

    def _result(self, key: K, found: Lookup) -> R:
        return self.result.from_found(key.key, found, self._engine.now())  # type: ignore[no-any-return]

    def _loading(self, key: K, source: Any, loader: Any, /) -> LoadFunction:
        """Return what calls ``loader`` with ``source``, what the caller gave, and makes an entry of the outcome."""
        raise NotImplementedError

    async def _ready(self) -> None:
        """Return when what a request is made of is known."""

    async def _store(self, method: str, key: K, loaded: Loaded, ttl: Ttl | None, tags: Sequence[str], name: str) -> str:
        self._policy.check_size(loaded.data, name)
        with self._engine.operation(f"{self.tier}.{method}", **key.attributes, bytes=len(loaded.data)) as operation:
            await self._ready()
            operation.set("ttl", await self._stores.store(self._call(key, ttl, tags), loaded))
        return key.key

    async def _remove(self, method: str, key: str, **attributes: object) -> bool:
        with self._engine.operation(f"{self.tier}.{method}", key=key, **attributes) as operation:
            existed = await self._invalidations.key(key)
            operation.set("deleted_count", int(existed))
        return existed

    def _around_change(self, given: Any, target_of: Callable[[Any], Target]) -> Invalidating:
        def target(*args: Any, **named: Any) -> Target:
            return target_of(given(*args, **named) if callable(given) else given)

        if not callable(given):
            target()
        return Invalidating(self._engine, target, takes_call=callable(given))

    async def _explain(self, key: K) -> Explanation:
        return await Inspection(await self._engine.open(), self._call(key)).explain()

    async def clear(self) -> int:
        """Remove every entry of this tier, and of no other; return how many there were."""
        with self._engine.operation(f"{self.tier}.clear") as operation:
            count = await self._invalidations.group(GroupEntries(self._policy.group, self._prefix))
            operation.set("deleted_count", count)
        return count

    def _call(self, key: K, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> Call:
        groups = key.groups + tag_groups(tags) if tags else key.groups
        return Call(self._policy, key.key, groups, key._counters, ttl, indexes_of(self._name, groups))

    def _is_wanted(self, loaded: object) -> bool:
        """Return whether to store the loader's result, as the tier's ``store_when`` decides."""
        store_when = self._policy.store_when
        if store_when is None:
            return True
        try:
            return bool(store_when(loaded))
        # The caller's function may raise anything; the loaded value reaches its waiters all the same.
        except Exception as error:
            self._engine.log.warn_once("TierOptions.store_when raised, so the value is not stored: %r", error)
            return False

    @staticmethod
    def _check_options(ttl: Ttl | None, tags: Sequence[str], mode: Mode) -> None:
        if ttl is not None:
            check_ttl(ttl)
        if tags:
            tag_groups(tags)
        if mode != "use":
            check_mode(mode)
