"""The modes of ``get_or_load``, the sources of a result, and the counters of a lookup."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.requests import HELLO, Loader, asking
from tests.support import MakeCache
from tiercache import AgentCache, LlmResponse, TierOptions


async def test_lookup_source_is_loader_then_l1_then_l2(cache: AgentCache) -> None:
    loader = Loader()
    first = await cache.llm.get_or_load(HELLO, loader)
    warm = await cache.llm.get_or_load(HELLO, loader)
    await cache.flush_writes()
    assert cache.clear_l1() == 1
    far = await cache.llm.get_or_load(HELLO, loader)
    again = await cache.llm.get_or_load(HELLO, loader)
    assert [r.source for r in (first, warm, far, again)] == ["loader", "l1", "l2", "l1"]
    assert [r.hit for r in (first, warm, far, again)] == [False, True, True, True]
    assert loader.calls == 1
    assert len({r.key for r in (first, warm, far, again)}) == 1


async def test_lookup_finds_value_stored_by_other_process(make_cache: MakeCache) -> None:
    one, other = make_cache(), make_cache()
    await one.llm.store(HELLO, "x")
    assert (await other.llm.get_or_load(HELLO, Loader())).source == "l2"


async def test_refresh_loads_and_stores_although_cached(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "older")
    result = await cache.llm.get_or_load(HELLO, Loader("newer"), mode="refresh")
    assert (result.response, result.source, result.hit) == ("newer", "loader", False)
    await cache.flush_writes()
    assert (await cache.llm.check(HELLO)).response == "newer"
    cache.clear_l1()
    assert (await cache.llm.check(HELLO)).response == "newer"


async def test_refresh_starts_flight_that_later_callers_join(cache: AgentCache) -> None:
    running, fresh = Loader("running", held=True), Loader("fresh", held=True)
    first = asyncio.create_task(cache.llm.get_or_load(HELLO, running))
    await running.started.wait()
    second = asyncio.create_task(cache.llm.get_or_load(HELLO, fresh, mode="refresh"))
    await fresh.started.wait()
    third = asyncio.create_task(cache.llm.get_or_load(HELLO, Loader("unused")))
    await asyncio.sleep(0)
    running.release()
    fresh.release()
    assert [(await t).response for t in (first, second, third)] == ["running", "fresh", "fresh"]


async def test_refresh_flight_stays_joinable_after_older_load_ends(cache: AgentCache) -> None:
    running, fresh, unused = Loader("running", held=True), Loader("fresh", held=True), Loader("unused")
    first = asyncio.create_task(cache.llm.get_or_load(HELLO, running, mode="store_only"))
    displaced = asyncio.create_task(cache.llm.get_or_load(HELLO, running))
    await running.started.wait()
    await asyncio.sleep(0.01)
    second = asyncio.create_task(cache.llm.get_or_load(HELLO, fresh, mode="refresh"))
    await fresh.started.wait()
    running.release()
    await asyncio.gather(first, displaced)
    await cache.llm.invalidate(asking("something else"))
    cache.clear_l1()
    third = asyncio.create_task(cache.llm.get_or_load(HELLO, unused))
    await asyncio.sleep(0)
    fresh.release()
    assert [(await t).response for t in (second, third)] == ["fresh", "fresh"]
    assert (third.result().coalesced, unused.calls) == (True, 0)


async def test_refresh_that_fails_keeps_cached_value(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "older")
    with pytest.raises(ValueError, match="boom"):
        await cache.llm.get_or_load(HELLO, Loader(ValueError("boom")), mode="refresh")
    assert (await cache.llm.check(HELLO)).response == "older"


async def test_bypass_reads_and_stores_nothing(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "stored")
    result = await cache.llm.get_or_load(HELLO, Loader("fresh"), mode="bypass")
    assert (result.response, result.source) == ("fresh", "loader")
    assert (await cache.llm.check(HELLO)).response == "stored"
    assert not (await cache.llm.get_or_load(asking("x"), Loader(), mode="bypass")).hit
    assert not (await cache.llm.check(asking("x"))).hit


async def test_only_cached_neither_loads_nor_joins_a_flight(cache: AgentCache) -> None:
    loader = Loader(held=True)
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
    await loader.started.wait()
    result = await cache.llm.get_or_load(HELLO, loader, mode="only_cached")
    assert (result.hit, result.response, result.source, loader.calls) == (False, None, None, 1)
    loader.release()
    await waiting
    assert (await cache.llm.get_or_load(HELLO, loader, mode="only_cached")).source == "l1"


async def test_store_only_loads_for_each_caller_and_stores_last_value(unleased: AgentCache) -> None:
    cache = unleased
    loader = Loader(held=True)
    tasks = [asyncio.create_task(cache.llm.get_or_load(HELLO, loader, mode="store_only")) for _ in range(3)]
    await loader.started.wait()
    joined = asyncio.create_task(cache.llm.get_or_load(HELLO, Loader("own")))
    assert (await joined).response == "own"  # The lookup does not join a store_only load.
    loader.release()
    assert [(await task).coalesced for task in tasks] == [False] * 3
    assert loader.calls == 3
    assert (await cache.llm.check(HELLO)).response == "own"  # This load began last, so that its value wins.
    await cache.llm.get_or_load(HELLO, Loader("stored"), mode="store_only")
    assert (await cache.llm.check(HELLO)).response == "stored"


async def test_store_only_load_with_lease_is_awaited_by_lookup(cache: AgentCache) -> None:
    loader = Loader(held=True)
    task = asyncio.create_task(cache.llm.get_or_load(HELLO, loader, mode="store_only"))
    await loader.started.wait()
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, Loader("own")))
    await asyncio.sleep(0.05)
    loader.release()
    result = await waiting
    assert (result.response, result.source, result.coalesced) == ("answer", "l2", False)
    assert not (await task).coalesced
    counters = cache.local_stats().tiers["llm"]
    assert (counters.loads, counters.lease_waits) == (1, 1)


async def test_counters_ignore_modes_without_lookup(cache: AgentCache) -> None:
    for mode in ("refresh", "bypass", "store_only"):
        await cache.llm.get_or_load(HELLO, Loader(), mode=mode)  # type: ignore[arg-type]
    counters = cache.local_stats().tiers["llm"]
    assert (counters.l1_hits, counters.l2_hits, counters.misses, counters.loads) == (0, 0, 0, 3)


async def test_counters_count_every_caller_once(cache: AgentCache) -> None:
    await cache.llm.check(HELLO)  # miss
    await cache.llm.get_or_load(HELLO, Loader())  # miss
    await cache.llm.check(HELLO)  # l1
    await cache.flush_writes()
    cache.clear_l1()
    await asyncio.gather(*(cache.llm.get_or_load(HELLO, Loader()) for _ in range(5)))  # l2, one read
    await cache.llm.get_or_load(HELLO, Loader())  # l1
    with pytest.raises(ValueError, match="boom"):
        await cache.llm.get_or_load(asking("x"), Loader(ValueError("boom")))  # miss
    stats = cache.local_stats()
    counters = stats.tiers["llm"]
    assert (counters.l1_hits, counters.l2_hits, counters.misses) == (2, 5, 3)
    assert (counters.loads, counters.load_errors, counters.coalesced) == (2, 1, 0)
    assert stats.operations["llm.get_or_load"].errors == 1
    assert stats.operations["llm.get_or_load"].calls == 7  # The hit in L1 is no operation.


async def test_lookup_reads_valkey_each_time_with_l1_turned_off(make_cache: MakeCache) -> None:
    cache = make_cache(llm=TierOptions(l1=False))
    await cache.llm.store(HELLO, "x")
    assert [(await cache.llm.check(HELLO)).source for _ in range(2)] == ["l2", "l2"]
    assert cache.local_stats().l1_entry_count == 0


async def with_params(params: Any) -> str:
    return str(params["messages"][0]["content"])


async def without(*, prefix: str = "x") -> str:
    return "nothing"


class LoaderObject:
    def __call__(self, params: Any) -> str:
        return "an object"


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (with_params, "Hello"),
        (without, "nothing"),
        (lambda: "plain", "plain"),
        (lambda params: with_params(params), "Hello"),
        (lambda *args: f"{len(args)} arguments", "1 arguments"),
        (LoaderObject(), "an object"),
        (lambda params: asyncio.to_thread(lambda: "in a thread"), "in a thread"),
        (lambda: LlmResponse("with more", tokens={"input": 1, "output": 1}), "with more"),
        (str, ""),
    ],
)
async def test_loader_may_be_async_or_plain_with_or_without_params(
    cache: AgentCache, loader: Any, expected: str
) -> None:
    assert (await cache.llm.get_or_load(HELLO, loader)).response == expected


async def test_cache_in_memory_loads_stores_and_invalidates() -> None:
    async with AgentCache.in_memory() as cache:
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == "l1"
        assert await cache.llm.invalidate(HELLO)
        assert not await cache.llm.invalidate(HELLO)
        await cache.llm.store(HELLO, "x")
        await cache.llm.store(asking("y", model="other"), "y")
        assert await cache.llm.invalidate_by_model("gpt-4o") == 1
        assert await cache.llm.clear() == 1
        await cache.flush_writes()
