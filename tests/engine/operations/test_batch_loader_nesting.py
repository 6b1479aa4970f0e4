"""Batch functions that call the cache, and the slots of ``max_loads`` that batches take."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.operations.batch_callers import FOR_EVER, call_tool, outcomes_of, wait_for_batch
from tests.requests import ManyLoader, turns
from tests.support import MakeCache
from tiercache import AgentCache, ResilienceOptions

# Functions that call the cache


async def test_batch_loader_lets_function_load_keys_of_its_own_batch(memory: AgentCache) -> None:
    depth = 0

    async def fn(calls: list[Any]) -> list[Any]:
        nonlocal depth
        depth += 1
        if depth > 1:
            return ["alone"] * len(calls)
        inner = await asyncio.gather(*(memory.tool.get_or_load("weather", call, loader) for call in reversed(calls)))
        return [f"of {result.value}" for result in inner]

    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)
    assert await outcomes_of(call_tool(memory, loader, "a", "b")) == ["of alone", "of alone"]
    assert (await memory.tool.check("weather", {"city": "b"})).value == "of alone"


async def test_batch_loader_lets_function_load_key_that_waits_for_its_batch(memory: AgentCache) -> None:
    """No load of the batch waits for the flight that waits for the batch, which would be a deadlock."""
    is_asked = asyncio.Event()

    async def fn(calls: list[Any]) -> list[Any]:
        await is_asked.wait()
        await turns()
        summary = await memory.tool.get_or_load("summary", {}, lambda: "no summary")
        return [f"{call['city']}, {summary.value}" for call in calls]

    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)

    async def summarise() -> str:
        is_asked.set()
        return f"summary of {(await memory.tool.get_or_load('weather', {'city': 'b'}, loader)).value}"

    # The function runs in the context of a's load, and no load waits for a.
    tasks = call_tool(memory, loader, "a", "b")
    await turns()
    tasks.append(asyncio.create_task(memory.tool.get_or_load("summary", {}, summarise)))
    assert await outcomes_of(tasks) == ["a, no summary", "b, no summary", "summary of b, no summary"]


async def test_batch_loader_avoids_deadlock_of_two_functions_that_load_each_others_keys(memory: AgentCache) -> None:
    both = asyncio.Barrier(2)

    def asks(tool: str, alone: str) -> Any:
        async def fn(calls: list[Any]) -> list[Any]:
            await both.wait()
            inner = (memory.tool.get_or_load(tool, call, lambda **_: alone) for call in calls)
            return [result.value for result in await asyncio.gather(*inner)]

        return memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)

    tasks = call_tool(memory, asks("two", "two alone"), "a", "b", tool="one")
    tasks += call_tool(memory, asks("one", "one alone"), "a", "b", tool="two")
    # The calls that would close the circle load by themselves.
    assert await outcomes_of(tasks) in (["one alone"] * 4, ["two alone"] * 4)


async def test_batch_loader_lets_function_load_other_keys_through_itself(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=1))

    async def fn(calls: list[Any]) -> list[Any]:
        async def one(n: int) -> str:
            if n == 0:
                return "0"
            return f"{(await cache.tool.get_or_load('count', {'n': n - 1}, loader)).value}+1"

        return await asyncio.gather(*(one(call["n"]) for call in calls))

    loader = cache.tool.batch_loader(fn, window=0)
    async with asyncio.timeout(10):
        results = await asyncio.gather(*(cache.tool.get_or_load("count", {"n": n}, loader) for n in (3, 3, 1)))
    assert [result.value for result in results] == ["0+1+1+1", "0+1+1+1", "0+1"]


async def test_batch_loader_lets_function_call_load_many(memory: AgentCache) -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        found = await memory.kv.get_or_load_many([call["city"] for call in calls], bring)
        return [found[call["city"]] for call in calls]

    async def bring(keys: list[str]) -> list[Any]:
        results = [
            await memory.tool.get_or_load("weather", {"city": key}, lambda city: f"{city} alone") for key in keys
        ]
        return [result.value for result in results]

    loader = memory.tool.batch_loader(fn, window=0)
    assert await outcomes_of(call_tool(memory, loader, "a", "b")) == ["a alone", "b alone"]


# Limits


async def test_batch_loader_takes_no_slot_while_it_collects() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        fn = ManyLoader()
        loader = cache.tool.batch_loader(fn, window=0)
        cities = [f"city {n}" for n in range(20)]
        assert await outcomes_of(call_tool(cache, loader, *cities)) == [f"{city}!" for city in cities]
        assert fn.asked == [cities]


async def test_batch_loader_bounds_concurrent_calls_by_max_loads() -> None:
    running = most = 0

    async def fn(calls: list[Any]) -> list[Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await turns()
        running -= 1
        return ["x"] * len(calls)

    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=2)) as cache:
        loader = cache.tool.batch_loader(fn, window=0, max_size=3)
        assert await outcomes_of(call_tool(cache, loader, *map(str, range(30)))) == ["x"] * 30
    assert most == 2


async def test_batch_loader_collects_calls_while_it_waits_for_slot() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        blocking, fn = ManyLoader(held=True), ManyLoader()
        holding = call_tool(cache, cache.tool.batch_loader(blocking, window=0), "holding")
        await blocking.started.wait()
        loader = cache.tool.batch_loader(fn, window=0, max_size=2)
        tasks = call_tool(cache, loader, "a")
        await wait_for_batch(loader, 1)
        await turns()
        tasks += call_tool(cache, loader, "b", "c")
        await turns()
        blocking.release()
        await outcomes_of(holding + tasks)
        assert fn.asked == [["a", "b"], ["c"]]


async def test_batch_loader_delivers_results_without_slot() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        first, second = ManyLoader(held=True), ManyLoader(held=True)
        tasks = call_tool(cache, cache.tool.batch_loader(first, window=0), "a", "b")
        await first.started.wait()
        queued = call_tool(cache, cache.tool.batch_loader(second, window=0), "c")
        await turns()
        first.release()
        assert await outcomes_of(tasks) == ["a!", "b!"]
        await second.started.wait()
        second.release()
        assert await outcomes_of(queued) == ["c!"]


async def test_batch_loader_borrows_slot_of_load_that_waits_for_it() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        fn, other = ManyLoader(), ManyLoader(held=True)
        loader = cache.tool.batch_loader(fn, window=0)

        async def outer() -> str:
            await go.wait()
            inner = await cache.tool.get_or_load("weather", {"city": "a"}, loader)
            return f"of {inner.value}"

        go = asyncio.Event()
        outermost = asyncio.create_task(cache.tool.get_or_load("outer", {}, outer))
        await turns()
        queued = asyncio.create_task(cache.tool.get_or_load("other", {"city": "x"}, lambda **call: other([call])))
        await turns()
        assert not other.started.is_set()
        go.set()
        # The load that waited for the slot before the batch runs first.
        await other.started.wait()
        await turns()
        assert fn.asked == []
        other.release()
        assert await outcomes_of([outermost, queued]) == ["of a!", ["x!"]]


async def test_batch_loader_times_out_slow_batch_for_every_call(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(load_timeout=0.01))
    fn = ManyLoader(held=True)
    loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=2)
    first = call_tool(cache, loader, "a")
    await wait_for_batch(loader, 1)
    await asyncio.sleep(0.02)  # The window does not count towards load_timeout.
    for error in await outcomes_of(first + call_tool(cache, loader, "b")):
        assert isinstance(error, TimeoutError)
        assert "load_timeout=0.01" in str(error)
    assert fn.cancelled == 1


async def test_batch_loader_continues_batch_after_timeout_of_one_caller(memory: AgentCache) -> None:
    fn = ManyLoader(held=True)
    loader = memory.tool.batch_loader(fn, window=0)

    async def impatient(city: str) -> Any:
        async with asyncio.timeout(0.01):
            return await loader(city=city)

    hurried, patient = call_tool(memory, impatient, "a"), call_tool(memory, loader, "b")
    (error,) = await outcomes_of(hurried)
    assert isinstance(error, TimeoutError)
    fn.release()
    assert await outcomes_of(patient) == ["b!"]
    assert fn.asked == [["a", "b"]]
