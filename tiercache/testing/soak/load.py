"""The load of one process: callers that choose operations at random, wait for them, and check the answers."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, TypeAlias

from ...agent_cache import AgentCache
from ...errors import L2CommandError, L2UnavailableError
from . import items
from .items import Item, Tier
from .journal import Journal
from .ledger import Ledger
from .protocol import WorkerSettings
from .values import make_value

__all__ = ["CALLER_COUNT", "Load", "LoaderFailureError"]

CALLER_COUNT: Final = 8
# Keys of each tier and role.
_LOADED: Final = 300
_CLEARED: Final = 40
_STORED: Final = 64
_THREADS: Final = 32
_FIELDS: Final = 3
_MANY: Final = 12
# The fraction of callers that cancel their call, and their longest patience in seconds.
_IMPATIENT: Final = 0.06
_PATIENCE: Final = 0.05
# Seconds after which a call counts as hanging. Faults last a few seconds, and every wait for Valkey has a deadline.
_HANGS_AFTER: Final = 45.0
# Durations of loads: lowest seconds, highest seconds, weight. The last ones outlive the staleness bound.
_LOADS: Final = ((0.0, 0.01, 70), (0.01, 0.1, 27), (0.3, 1.0, 2), (2.5, 4.0, 1))
_FAILING_LOADS: Final = 0.02

_TIERS: Final[tuple[Tier, ...]] = ("llm", "tool", "kv")

Operation: TypeAlias = Callable[[random.Random], Awaitable[None]]


class LoaderFailureError(Exception):
    """The failure of a loader, which must reach each of its callers unchanged."""


class Load:
    """The callers of one cache."""

    def __init__(self, settings: WorkerSettings, cache: AgentCache, ledger: Ledger, journal: Journal) -> None:
        self._settings = settings
        self._cache = cache
        self._ledger = ledger
        self._journal = journal
        self._random = random.Random(f"{settings.seed}/{settings.number}")
        self._running = asyncio.Event()
        self._busy_count = 0
        self._passing_count = 0
        # A process has one change at a time of each key that it alone stores.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Name, weight, the operation, and whether it is a change: only changes may raise the errors of Valkey.
        self._operations: tuple[tuple[str, float, Operation, bool], ...] = (
            ("get_or_load", 48, self._get_or_load, False),
            ("look up", 10, self._look_up, False),
            ("get_or_load of a new key", 8, self._get_or_load_passing, False),
            ("get_or_load(refresh, bypass)", 1, self._reload, False),
            ("get_many, get_or_load_many", 4, self._read_many, False),
            ("session get, get_all", 8, self._read_session, True),
            ("session set, delete, touch", 6, self._change_session, True),
            ("session of a new thread", 2, self._use_passing_thread, True),
            ("store", 6, self._store, True),
            ("set_many", 1, self._store_many, True),
            ("invalidate, delete", 3, self._remove, True),
            ("delete_many", 0.5, self._remove_many, True),
            ("invalidate_tag", 0.8, self._remove_tag, True),
            ("by tool, by model", 0.5, self._remove_group, True),
            ("kv clear", 0.4, self._clear, True),
            ("tool clear, flush", 0.02, self._clear_tier, True),
            ("stats, explain, flush_writes", 0.5, self._ask, True),
        )

    async def run(self) -> None:
        """Run the callers until the task is cancelled. They rest until ``resume``."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLER_COUNT):
                tasks.create_task(self._call(random.Random(f"{self._random.random()}/{number}")), name="soak-caller")

    def resume(self) -> None:
        """Let the callers call."""
        self._running.set()

    async def rest(self) -> None:
        """Let the callers finish their calls, and begin no others; return when all have finished."""
        self._running.clear()
        give_up_at = time.monotonic() + _HANGS_AFTER + 15.0
        while self._busy_count:
            if time.monotonic() > give_up_at:
                self._journal.problem("hang", f"{self._busy_count} calls do not end")
                return
            await asyncio.sleep(0.02)

    async def _call(self, rng: random.Random) -> None:
        weights = [weight for _, weight, _, _ in self._operations]
        while True:
            await self._running.wait()
            ((name, _, operation, is_change),) = rng.choices(self._operations, weights)
            self._busy_count += 1
            try:
                await self._call_once(name, operation, is_change, rng)
            finally:
                self._busy_count -= 1
            await asyncio.sleep(rng.uniform(0, self._settings.pause))

    async def _call_once(self, name: str, operation: Operation, is_change: bool, rng: random.Random) -> None:
        journal = self._journal
        journal.calls[name] += 1
        patience = rng.uniform(0, _PATIENCE) if rng.random() < _IMPATIENT else None
        limit, cancelled = asyncio.timeout(_HANGS_AFTER), asyncio.timeout(patience)
        try:
            async with limit, cancelled:
                await operation(rng)
        except LoaderFailureError:
            journal.raised["the failure of a loader"] += 1
        # Every other error, and these errors from a lookup or a load, are broken promises.
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                journal.problem("hang", f"{name} does not end within {_HANGS_AFTER:g} s:\n{traceback.format_exc()}")
            elif isinstance(error, TimeoutError) and cancelled.expired():
                journal.cancelled += 1
            elif is_change and isinstance(error, L2UnavailableError | L2CommandError):
                journal.raised[type(error).__name__] += 1
            else:
                journal.problem("error", f"{name} raised:\n{traceback.format_exc()}")

    # Reads

    async def _get_or_load(self, rng: random.Random) -> None:
        await self._read(self._some_item(rng), rng)

    async def _reload(self, rng: random.Random) -> None:
        await self._read(self._some_item(rng), rng, rng.choice(("refresh", "bypass")))

    async def _get_or_load_passing(self, rng: random.Random) -> None:
        await self._read(Item(rng.choice(_TIERS), "passing", self._next_passing()), rng)

    async def _read(self, item: Item, rng: random.Random, mode: items.Mode = "use") -> None:
        began, floor = time.monotonic(), self._journal.floor(item)

        async def load() -> str:
            return (await self._load([item], rng))[0]

        value, source = await items.get_or_load(self._cache, item, load, mode)
        self._journal.saw(item, value, began, floor, f"{item.tier}.get_or_load({mode}) from {source}")

    async def _look_up(self, rng: random.Random) -> None:
        item = self._some_item(rng)
        began, floor = time.monotonic(), self._journal.floor(item)
        value = await items.look_up(self._cache, item)
        self._journal.saw(item, value, began, floor, f"lookup in {item.tier}")

    async def _read_many(self, rng: random.Random) -> None:
        # The tags of a call belong to all of its keys: the keys of one tag.
        role, count = rng.choice((("loaded", _LOADED), ("cleared", _CLEARED), ("stored", _STORED)))
        numbers = range(rng.randrange(items.TAG_COUNT), count, items.TAG_COUNT)
        by_number = {str(number): Item("kv", role, number) for number in numbers}
        chosen = list(by_number.values())
        began, floors = time.monotonic(), self._journal.floors(chosen)
        tier, tags = items.kv_tier(self._cache, role), chosen[0].tags

        async def load(numbers: list[str]) -> list[str]:
            return await self._load([by_number[number] for number in numbers], rng)

        if rng.random() < 0.5:
            values, method = await tier.get_many(list(by_number)), "kv.get_many"
        else:
            values, method = await tier.get_or_load_many(list(by_number), load, tags=tags), "kv.get_or_load_many"
        for number, item in by_number.items():
            self._journal.saw(item, values[number], began, floors[item.key], method)

    async def _read_session(self, rng: random.Random) -> None:
        item = self._some_field(rng, own=False)
        fields = [item._replace(field=field) for field in range(_FIELDS)]
        began, floors = time.monotonic(), self._journal.floors(fields)
        if rng.random() < 0.8:
            value = await self._cache.session.get(item.thread, str(item.field), fresh=rng.random() < 0.1)
            self._journal.saw(item, value, began, floors[item.key], "session.get")
        else:
            values = await self._cache.session.get_all(item.thread)
            for each in fields:
                self._journal.saw(each, values.get(str(each.field)), began, floors[each.key], "session.get_all")

    async def _load(self, chosen: Sequence[Item], rng: random.Random) -> list[str]:
        """A loader: reads the versions first, and returns the values after a random time."""
        keys = [item.key for item in chosen]
        is_passing = chosen[0].role == "passing"
        versions = [0] * len(keys) if is_passing else await self._ledger.versions(keys)
        ((low, high, _),) = rng.choices(_LOADS, [weight for _, _, weight in _LOADS])
        await asyncio.sleep(rng.uniform(low, high))
        if rng.random() < _FAILING_LOADS:
            raise LoaderFailureError
        return [make_value(key, version) for key, version in zip(keys, versions, strict=True)]

    # Changes

    async def _change(self, name: str, chosen: Sequence[Item], change: Callable[[], Awaitable[object]]) -> None:
        """Raise the versions of items, make a change that removes older versions, and record its acknowledgement."""
        keys = [item.key for item in chosen]
        versions = await self._ledger.raise_versions(keys)
        await change()
        moment = time.monotonic()
        self._journal.changed(chosen, versions, name)
        await self._ledger.acknowledge(keys, versions, moment, name)

    async def _remove(self, rng: random.Random) -> None:
        item = Item(rng.choice(_TIERS), "loaded", _often_low(rng, _LOADED))
        await self._change("remove", [item], lambda: items.remove(self._cache, [item]))

    async def _remove_many(self, rng: random.Random) -> None:
        role, count = rng.choice((("loaded", _LOADED), ("cleared", _CLEARED)))
        chosen = [Item("kv", role, number) for number in rng.sample(range(count), _MANY)]
        await self._change("delete_many", chosen, lambda: items.remove(self._cache, chosen))

    async def _remove_tag(self, rng: random.Random) -> None:
        numbers = range(rng.randrange(items.TAG_COUNT), _LOADED, items.TAG_COUNT)
        chosen = [Item(tier, "loaded", number) for tier in _TIERS for number in numbers]
        await self._change("invalidate_tag", chosen, lambda: self._cache.invalidate_tag(*chosen[0].tags))

    async def _remove_group(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            tools = [Item("tool", "loaded", number) for number in _every(rng, items.TOOL_COUNT)]
            await self._change(
                "invalidate_by_tool", tools, lambda: self._cache.tool.invalidate_by_tool(items.tool_of(tools[0]))
            )
        else:
            models = [Item("llm", "loaded", number) for number in _every(rng, items.MODEL_COUNT)]
            await self._change(
                "invalidate_by_model", models, lambda: self._cache.llm.invalidate_by_model(items.model_of(models[0]))
            )

    async def _clear(self, rng: random.Random) -> None:
        cleared = [Item("kv", "cleared", number) for number in range(_CLEARED)]
        await self._change("kv clear", cleared, lambda: items.kv_tier(self._cache, "cleared").clear())

    async def _clear_tier(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            tools = [Item("tool", "loaded", number) for number in range(_LOADED)]
            await self._change("tool clear", tools, lambda: self._cache.tool.clear())
        else:
            loaded = [Item(tier, "loaded", number) for tier in _TIERS for number in range(_LOADED)]
            await self._change("flush", loaded, lambda: self._cache.flush())

    async def _store(self, rng: random.Random) -> None:
        item = Item(rng.choice(_TIERS), "stored", self._own_number(rng, _STORED))
        is_behind = self._settings.number % 2 == 1 and item.tier in ("llm", "tool")
        async with self._locks[item.key]:
            if rng.random() < 0.1:
                await self._change("remove", [item], lambda: items.remove(self._cache, [item]))
            elif is_behind:
                await self._store_behind(item, is_flushed=rng.random() < 0.3)
            else:
                await self._store_value(item)

    async def _store_value(self, item: Item) -> None:
        (version,) = await self._ledger.raise_versions([item.key])
        await items.store(self._cache, item, make_value(item.key, version))
        moment = time.monotonic()
        self._journal.changed([item], [version], "store")
        await self._ledger.acknowledge([item.key], [version], moment, "store")

    async def _store_behind(self, item: Item, *, is_flushed: bool) -> None:
        """Make a write-behind store. This process sees it at once, others when a flush has found that none was lost."""
        (version,) = await self._ledger.raise_versions([item.key])
        lost_count = self._lost_count(item)
        await items.store(self._cache, item, make_value(item.key, version))
        self._journal.changed([item], [version], "store behind")
        if is_flushed:
            await self._cache.flush_writes()
            moment = time.monotonic()
            if self._lost_count(item) == lost_count:
                await self._ledger.acknowledge([item.key], [version], moment, "store behind")

    def _lost_count(self, item: Item) -> int:
        return self._cache.local_stats().tiers[item.tier].write_errors

    async def _store_many(self, rng: random.Random) -> None:
        stored = [Item("kv", "stored", number) for number in sorted({self._own_number(rng, _STORED) for _ in range(4)})]
        keys = [item.key for item in stored]
        # In the order of the numbers, so that two calls do not wait for each other.
        async with AsyncExitStack() as locked:
            for key in keys:
                await locked.enter_async_context(self._locks[key])
            versions = await self._ledger.raise_versions(keys)
            values = [make_value(key, version) for key, version in zip(keys, versions, strict=True)]
            pairs = {str(item.number): value for item, value in zip(stored, values, strict=True)}
            await items.kv_tier(self._cache, "stored").set_many(pairs)
            moment = time.monotonic()
            self._journal.changed(stored, versions, "set_many")
            await self._ledger.acknowledge(keys, versions, moment, "set_many")

    async def _change_session(self, rng: random.Random) -> None:
        item = self._some_field(rng, own=True)
        session, chance = self._cache.session, rng.random()
        async with self._locks[item.thread]:
            if chance < 0.8:
                await self._store_value(item)
            elif chance < 0.9:
                await self._change("remove", [item], lambda: items.remove(self._cache, [item]))
            elif chance < 0.95:
                fields = [item._replace(field=field) for field in range(_FIELDS)]
                await self._change("destroy_thread", fields, lambda: session.destroy_thread(item.thread))
            else:
                await session.touch(item.thread)

    async def _use_passing_thread(self, rng: random.Random) -> None:
        item = Item("session", "passing", self._next_passing())
        value = make_value(item.key, 0)
        await items.store(self._cache, item, value)
        began = time.monotonic()
        self._journal.saw(item, await items.look_up(self._cache, item), began, 0, "session.get")

    async def _ask(self, rng: random.Random) -> None:
        chance = rng.random()
        if chance < 0.3:
            await self._cache.stats()
        elif chance < 0.6:
            await items.kv_tier(self._cache, "loaded").explain(str(rng.randrange(_LOADED)))
        elif chance < 0.9:
            await self._cache.flush_writes()
        else:
            self._cache.local_stats()

    # Choices

    def _some_item(self, rng: random.Random) -> Item:
        tier, chance = rng.choice(_TIERS), rng.random()
        if chance < 0.15:
            return Item(tier, "stored", _often_low(rng, _STORED))
        if tier == "kv" and chance < 0.3:
            return Item(tier, "cleared", rng.randrange(_CLEARED))
        return Item(tier, "loaded", _often_low(rng, _LOADED))

    def _some_field(self, rng: random.Random, *, own: bool) -> Item:
        thread = self._own_number(rng, _THREADS) if own else rng.randrange(_THREADS)
        return Item("session", "stored", thread, rng.randrange(_FIELDS))

    def _own_number(self, rng: random.Random, count: int) -> int:
        """Return a number below ``count`` that belongs to this process."""
        settings = self._settings
        return rng.randrange(settings.number, count, settings.count)

    def _next_passing(self) -> int:
        """Return a number that no other call and no other process uses."""
        self._passing_count += 1
        return self._passing_count * self._settings.count + self._settings.number


def _often_low(rng: random.Random, count: int) -> int:
    """Return a number below ``count``; low numbers are frequent, as some keys are in every cache."""
    return int(count * rng.random() ** 3)


def _every(rng: random.Random, step: int) -> range:
    """Return the numbers of the loaded items of one tool or model, chosen at random."""
    return range(rng.randrange(step), _LOADED, step)
