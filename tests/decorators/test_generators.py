"""Async generators that ``cache.memoize`` decorates: replay, readers that follow, readers that leave, faults."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support import MakeCache, Pair, until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    ResilienceOptions,
    StreamLostError,
    TierOptions,
    UsageError,
)
from tiercache.embedded import EmbeddedValkey


class Counter:
    """A generator of numbers, which waits before each item if it is held.

    Attributes:
        started: The arguments of its runs.
        made: The items that it has made.
        ends: How its runs have ended: "end", or the name of an exception.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.started: list[Any] = []
        self.made: list[Any] = []
        self.ends: list[str] = []
        self._gate = asyncio.Semaphore(0) if held else None

    def release(self, count: int = 1) -> None:
        assert self._gate is not None
        for _ in range(count):
            self._gate.release()

    async def __call__(self, last: int, item: Callable[[int], Any] = int) -> AsyncIterator[Any]:
        self.started.append(last)
        try:
            for number in range(last):
                if self._gate is not None:
                    await self._gate.acquire()
                made = item(number)
                self.made.append(made)
                yield made
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise
        self.ends.append("end")


def decorated(cache: AgentCache, counter: Counter, item: Callable[[int], Any] = int, **options: Any) -> Any:
    async def count(last: int) -> AsyncIterator[Any]:
        items = counter(last, item)
        try:
            async for made in items:
                yield made
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    return cache.memoize(**options)(count)


async def read(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


ITEMS = {
    "numbers": lambda number: [0, -1, 1.5, 10**30][number % 4],
    "texts": lambda number: f"é\n{number}",
    "mixed": lambda number: [None, True, {"a": [1, {"b": ""}]}, [[]]][number % 4],
}


@pytest.mark.parametrize("kind", ITEMS)
async def test_replay_of_a_generator_equals_the_original(make_cache: MakeCache, kind: str) -> None:
    counter = Counter()
    replays = []
    for _ in range(2):
        cache = make_cache(name="test")
        count = decorated(cache, counter, ITEMS[kind], ttl=60)
        replays += [await read(count(6)), await read(count(6))]
        await cache.flush_writes()
    assert replays == [[ITEMS[kind](number) for number in range(6)]] * 4
    assert counter.started == [6]
    assert counter.ends == ["end"]


async def test_generator_without_items_is_stored(cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(cache, counter)
    assert await read(count(0)) == await read(count(0)) == []
    assert counter.started == [0]


async def test_items_of_every_reader_are_objects_of_its_own(memory: AgentCache) -> None:
    count = decorated(memory, Counter(), lambda number: {"numbers": [number]})
    for _ in range(3):
        items = await read(count(2))
        assert items == [{"numbers": [0]}, {"numbers": [1]}]
        items[0]["numbers"].append("changed")


@pytest.mark.parametrize("ends", ["break", "aclose", "drop"])
async def test_generator_whose_reader_leaves_at_the_second_item_is_closed_and_not_stored(
    cache: AgentCache, ends: str
) -> None:
    counter = Counter()
    count = decorated(cache, counter)
    if ends == "break":
        async for item in count(5):
            if item == 1:
                break
    else:
        items = count(5)
        assert [await anext(items), await anext(items)] == [0, 1]
        if ends == "aclose":
            await items.aclose()
            assert await read(items) == []
        del items
        gc.collect()
    await until(lambda: counter.ends == ["GeneratorExit"])
    assert counter.made == [0, 1]
    assert not await count.is_cached(5)
    assert await read(count(5)) == [0, 1, 2, 3, 4]
    assert counter.started == [5, 5]


async def test_generator_without_readers_is_finished_and_stored_with_on_abandon_finish(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", kv=TierOptions())
    cache.tier("memo", TierOptions(on_abandon="finish"))
    counter = Counter()
    count = decorated(cache, counter)
    items = count(5)
    assert await anext(items) == 0
    # The generator waits for a reader by now.
    for _ in range(20):
        await asyncio.sleep(0)
    assert counter.made == [0]
    await items.aclose()
    await until(lambda: counter.ends == ["end"])
    assert await read(count(5)) == [0, 1, 2, 3, 4]
    assert counter.started == [5]


async def test_generator_makes_an_item_when_a_reader_waits_for_it(cache: AgentCache) -> None:
    counter = Counter()
    items = decorated(cache, counter)(5)
    assert counter.started == []
    for number in range(3):
        assert await anext(items) == number
        for _ in range(20):
            await asyncio.sleep(0)
        assert counter.made == list(range(number + 1))
    await items.aclose()


async def test_second_reader_gets_the_items_so_far_and_then_those_that_come(memory: AgentCache) -> None:
    counter = Counter(held=True)
    count = decorated(memory, counter)
    first = count(4)
    counter.release(2)
    assert [await anext(first), await anext(first)] == [0, 1]
    second = count(4)
    assert [await anext(second), await anext(second)] == [0, 1]
    waiting = asyncio.gather(anext(first), anext(second))
    counter.release(2)
    assert await waiting == [2, 2]
    assert await asyncio.gather(read(first), read(second)) == [[3], [3]]
    assert counter.started == [4]
    assert count.metrics().misses == 2
    assert count.metrics().coalesced == 1


async def test_generator_goes_on_for_a_second_reader_when_its_first_leaves(memory: AgentCache) -> None:
    counter = Counter()
    count = decorated(memory, counter)
    first, second = count(3), count(3)
    assert [await anext(first), await anext(second)] == [0, 0]
    await first.aclose()
    assert await read(second) == [1, 2]
    assert await read(count(3)) == [0, 1, 2]
    assert counter.started == [3]


async def test_generator_is_shared_live_by_another_process(replicas: Pair) -> None:
    counter = Counter(held=True)
    ours, theirs = (decorated(cache, counter, lambda number: f"item\n{number}") for cache in replicas)
    first = ours(4)
    counter.release()
    assert await anext(first) == "item\n0"
    second = theirs(4)
    assert await anext(second) == "item\n0"
    counter.release()
    assert await anext(second) == "item\n1"
    counter.release(2)
    assert await read(second) == ["item\n2", "item\n3"]
    assert await read(first) == ["item\n1", "item\n2", "item\n3"]
    assert counter.started == [4]
    for count in (ours, theirs):
        assert await read(count(4)) == [f"item\n{number}" for number in range(4)]
    assert counter.started == [4]


async def test_error_of_a_generator_reaches_every_reader_after_its_items_and_nothing_is_stored(
    replicas: Pair,
) -> None:
    counter = Counter(held=True)

    def item(number: int) -> int:
        if number == 2:
            raise LookupError("no more")
        return number

    ours, theirs = (decorated(cache, counter, item) for cache in replicas)
    readers = [ours(4), ours(4), theirs(4)]
    counter.release()
    assert [await anext(reader) for reader in readers] == [0, 0, 0]
    counter.release(2)
    for reader, error in zip(readers, (LookupError, LookupError, StreamLostError), strict=True):
        assert await anext(reader) == 1
        with pytest.raises(error):
            await anext(reader)
        assert await read(reader) == []
    assert not await ours.is_cached(4)
    assert not await theirs.is_cached(4)
    assert ours.metrics().errors == 2


async def test_items_that_are_not_json_reach_local_readers_and_are_not_stored(
    cache: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    made = object()
    counter = Counter()
    count = decorated(cache, counter, lambda number: [number, made] if number else "first")
    for _ in range(2):
        first, second = count(3), count(3)
        assert await asyncio.gather(anext(first), anext(second)) == ["first", "first"]
        assert await asyncio.gather(read(first), read(second)) == [[[1, made], [2, made]]] * 2
    assert counter.started == [3, 3]
    assert not await count.is_cached(3)
    assert sum("unstorable" in record.message for record in caplog.records) == 1


async def test_item_that_is_not_json_ends_the_reading_of_another_process(replicas: Pair) -> None:
    counter = Counter(held=True)
    ours, theirs = (decorated(cache, counter, lambda number: {1} if number == 1 else number) for cache in replicas)
    first, second = ours(3), theirs(3)
    counter.release()
    assert await anext(first) == await anext(second) == 0
    counter.release(2)
    assert await read(first) == [{1}, 2]
    with pytest.raises(StreamLostError, match="not JSON"):
        await anext(second)


async def test_other_process_runs_a_generator_whose_items_cannot_be_shared_by_itself(replicas: Pair) -> None:
    counters = [Counter(held=True), Counter()]
    ours, theirs = (
        decorated(cache, counter, lambda number: {number}, name="count")
        for cache, counter in zip(replicas, counters, strict=True)
    )
    first = ours(2)
    counters[0].release()
    assert await anext(first) == {0}
    assert await read(theirs(2)) == [{0}, {1}]
    assert counters[1].started == [2]
    counters[0].release()
    assert await read(first) == [{1}]


async def test_long_item_reaches_another_process_whole(replicas: Pair) -> None:
    counter = Counter(held=True)
    ours, theirs = (decorated(cache, counter, lambda number: str(number) * 300_000) for cache in replicas)
    first, second = ours(3), theirs(3)
    counter.release()
    assert await anext(first) == await anext(second) == "0" * 300_000
    counter.release(2)
    assert await read(second) == await read(first) == ["1" * 300_000, "2" * 300_000]
    assert counter.started == [3]


async def test_items_that_are_too_large_reach_every_reader_and_are_not_stored(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    cache.tier("memo", TierOptions(max_value_bytes=1000))
    counter = Counter()
    count = decorated(cache, counter, lambda number: str(number) * 100)
    expected = [str(number) * 100 for number in range(15)]
    for _ in range(2):
        assert await read(count(15)) == expected
    assert counter.started == [15, 15]
    assert cache.local_stats().tiers["memo"].too_large == 2


async def test_refresh_whose_items_are_too_large_removes_the_older_ones(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    cache.tier("memo", TierOptions(max_value_bytes=1000))
    count = decorated(cache, Counter(), lambda number: str(number) * 100)
    await count.set(["old"], 15)
    assert await read(count(15)) == ["old"]
    assert len(await read(count.refresh(15))) == 15
    assert not await count.is_cached(15)


@pytest.mark.parametrize("by", ["key", "tag"])
async def test_items_that_an_invalidation_overtakes_are_not_stored(replicas: Pair, by: str) -> None:
    counter = Counter()
    ours, theirs = (decorated(cache, counter, tags=["numbers"]) for cache in replicas)
    items = ours(3)
    assert await anext(items) == 0
    if by == "key":
        await theirs.invalidate(3)
    else:
        await replicas[1].invalidate_tag("numbers")
    later = theirs(3)
    assert await anext(later) == 0
    assert await read(items) == [1, 2]
    assert counter.started == [3, 3]
    assert await read(later) == [1, 2]
    assert await read(theirs(3)) == [0, 1, 2]
    assert counter.started == [3, 3]


async def test_methods_of_a_decorated_generator_act_on_its_items(cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(cache, counter, key="{last}", name="count", version=2)
    assert count.key(3) == "test:__tc:kv:memo:count:2:3"
    assert await read(count(3)) == [0, 1, 2]
    assert await count.is_cached(3)
    assert (await count.explain(3)).source == "l1"
    await count.set(iter(["a", "b"]), 3)
    assert await read(count(3)) == ["a", "b"]
    assert await read(count.refresh(3)) == [0, 1, 2]
    assert await read(count(3)) == [0, 1, 2]
    assert await count.invalidate(3)
    assert not await count.is_cached(3)
    assert await read(count(2)) == [0, 1]
    assert await count.clear() == 1
    assert counter.started == [3, 3, 2]
    metrics = count.metrics()
    assert (metrics.l1_hits, metrics.misses, metrics.errors, metrics.skipped) == (2, 3, 0, 0)
    assert repr(count) == "<CachedGenerator count:2>"


async def test_store_when_gets_the_items_and_when_leaves_a_call_to_the_generator(memory: AgentCache) -> None:
    seen: list[Any] = []
    counter = Counter()
    count = decorated(
        memory, counter, store_when=lambda items: seen.append(items) or len(items) > 2, when=lambda last: last < 10
    )
    for last in (2, 2, 3, 3, 10, 10):
        assert await read(count(last)) == list(range(last))
    assert counter.started == [2, 2, 3, 10, 10]
    assert seen == [[0, 1], [0, 1], [0, 1, 2]]
    assert count.metrics().skipped == 2


async def test_generator_method_takes_its_instance_as_any_method(memory: AgentCache) -> None:
    class Index:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @memory.memoize(instance_key=lambda self: self.tenant)
        async def find(self, text: str) -> AsyncIterator[str]:
            yield f"{text} of {self.tenant}"

    acme, apex = Index("acme"), Index("apex")
    assert await read(acme.find("a")) == await read(Index.find(acme, "a")) == ["a of acme"]
    assert await read(apex.find("a")) == ["a of apex"]
    assert acme.find.key("a") != apex.find.key("a")


async def test_generator_runs_in_a_task_with_the_context_of_the_reader_that_started_it(memory: AgentCache) -> None:
    name = contextvars.ContextVar("name", default="none")
    tasks = set()

    @memory.memoize
    async def names() -> AsyncIterator[str]:
        for _ in range(3):
            tasks.add(asyncio.current_task())
            yield name.get()

    items = names()
    name.set("first")
    assert await anext(items) == "first"
    name.set("later")
    assert await read(items) == ["first", "first"]
    assert len(tasks) == 1
    assert asyncio.current_task() not in tasks


async def test_reader_uses_the_cache_between_two_items_with_one_slot_for_loads(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    count = decorated(cache, Counter())
    found = []
    async for item in count(3):
        found.append(await cache.kv.get_or_load(f"key {item}", lambda: "value"))
    assert [each.value for each in found] == ["value"] * 3


async def test_generator_that_reads_its_own_call_gets_items_of_its_own(memory: AgentCache) -> None:
    @memory.memoize
    async def nested(depth: int) -> AsyncIterator[int]:
        if len(depths) < 2:
            depths.append(depth)
            async for item in nested(depth):
                yield item
        yield depth

    depths: list[int] = []
    assert await read(nested(1)) == [1, 1, 1]


async def test_generator_and_a_call_of_the_tier_share_a_key_without_a_wrong_value(cache: AgentCache) -> None:
    counter = Counter(held=True)
    count = decorated(cache, counter, key="{last}", name="count")
    given = "count:1:3"
    items = count(3)
    counter.release(3)
    assert await anext(items) == 0
    other = asyncio.create_task(cache.tier("memo").get_or_load(given, lambda: ["other"]))
    assert await read(items) == [1, 2]
    assert (await other).value == [0, 1, 2]


@pytest.mark.parametrize("level", ["l1", "l2"])
async def test_value_that_is_no_list_is_replaced_by_the_items(replicas: Pair, level: str) -> None:
    ours, theirs = (decorated(cache, Counter(), key="{last}", name="count") for cache in replicas)
    await replicas[level == "l2"].tier("memo").set("count:1:3", "no list")
    assert await read(ours(3)) == [0, 1, 2]
    await replicas[0].flush_writes()
    assert await read(theirs(3)) == [0, 1, 2]


async def test_one_iterator_refuses_a_second_task(memory: AgentCache) -> None:
    counter = Counter(held=True)
    items = decorated(memory, counter)(3)
    reading = asyncio.create_task(anext(items))
    await until(lambda: counter.started)
    with pytest.raises(UsageError, match="another task"):
        await anext(items)
    counter.release(3)
    assert await reading == 0
    await items.aclose()


async def test_error_at_the_end_of_a_closed_generator_is_logged(
    memory: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    @memory.memoize
    async def count() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise LookupError("at the end")

    async for _ in count():
        break
    await until(lambda: any("when it was closed" in record.message for record in caplog.records))


async def test_closed_cache_ends_the_reading_with_an_error() -> None:
    counter = Counter(held=True)
    cache = AgentCache.in_memory(resilience=ResilienceOptions(drain_timeout=0.01))
    items = decorated(cache, counter)(3)
    reading = asyncio.create_task(anext(items))
    await until(lambda: counter.started)
    await cache.aclose()
    with pytest.raises(UsageError, match="closed"):
        await reading
    assert counter.ends == ["CancelledError"]


async def test_reader_goes_on_when_valkey_dies_during_the_run() -> None:
    server = EmbeddedValkey()
    server.start()
    counter = Counter(held=True)
    caches = [AgentCache.from_url(server.url, name="test", coherence=CoherenceOptions(lease_ttl=0.5)) for _ in range(2)]
    first, second = (decorated(cache, counter)(4) for cache in caches)
    counter.release()
    assert await anext(first) == await anext(second) == 0
    server.stop()
    counter.release(3)
    assert await read(first) == [1, 2, 3]
    with pytest.raises(StreamLostError):
        await read(second)
    for cache in caches:
        await cache.aclose()
    assert counter.started == [4]


@pytest.mark.parametrize("option", ["sources"])
async def test_generator_refuses_options_of_whole_values(memory: AgentCache, option: str) -> None:
    with pytest.raises(UsageError, match="sources"):
        decorated(memory, Counter(), **{option: [lambda last: []]})


async def test_items_of_two_scopes_are_kept_apart(memory: AgentCache) -> None:
    counter = Counter()
    tenant = contextvars.ContextVar("tenant", default="acme")
    count = decorated(memory, counter, lambda number: tenant.get(), scope=lambda: tenant.get())
    for name in ("acme", "apex", "acme", "apex"):
        tenant.set(name)
        assert await read(count(1)) == [name]
    assert counter.started == [1, 1]


async def test_items_whose_arguments_change_during_the_run_are_not_stored(memory: AgentCache) -> None:
    @memory.memoize
    async def each(values: list[int]) -> AsyncIterator[int]:
        for value in list(values):
            yield value
        values.append(5)

    values = [1, 2]
    assert await read(each(values)) == [1, 2]
    assert not await each.is_cached([1, 2])
    assert not await each.is_cached([1, 2, 5])
