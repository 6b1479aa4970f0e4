"""Cancelled callers of a batch loader, and batch loaders at the end of a cache or of an event loop."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.engine.operations.batch_callers import FOR_EVER, call_tool, outcomes_of, wait_for_batch
from tests.requests import ManyLoader, turns
from tests.seams import BatchView
from tests.support import MakeCache, run_in_thread, until
from tiercache import AgentCache, ResilienceOptions, TierOptions, UsageError


@pytest.mark.parametrize("on_abandon", ["cancel", "finish"])
async def test_batch_loader_drops_call_cancelled_during_window(on_abandon: Any) -> None:
    async with AgentCache.in_memory(tool=TierOptions(on_abandon=on_abandon)) as cache:
        fn = ManyLoader()
        loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=3)
        a, b = call_tool(cache, loader, "a", "b")
        await wait_for_batch(loader, 2)
        a.cancel()
        await turns()
        tasks = call_tool(cache, loader, "c", "d") if on_abandon == "cancel" else call_tool(cache, loader, "c")
        assert all(isinstance(value, str) for value in await outcomes_of([b, *tasks]))
        assert fn.asked == [["b", "c", "d"] if on_abandon == "cancel" else ["a", "b", "c"]]
        assert a.cancelled()


async def test_batch_loader_continues_batch_after_one_call_is_cancelled(memory: AgentCache) -> None:
    fn = ManyLoader(held=True)
    loader = memory.tool.batch_loader(fn, window=0)
    a, b, c = call_tool(memory, loader, "a", "b", "c")
    await fn.started.wait()
    a.cancel()
    await turns()
    fn.release()
    assert await outcomes_of([b, c]) == ["b!", "c!"]
    assert fn.cancelled == 0
    assert not (await memory.tool.check("weather", {"city": "a"})).hit


async def test_batch_loader_never_calls_function_when_all_calls_are_cancelled(memory: AgentCache) -> None:
    fn = ManyLoader()
    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=3)
    tasks = call_tool(memory, loader, "a", "b")
    await wait_for_batch(loader, 2)
    batch = BatchView(loader).batch
    for task in tasks:
        task.cancel()
    await outcomes_of(tasks)
    await turns()
    assert batch is not None
    assert BatchView.is_timer_cancelled(batch)
    assert await outcomes_of(call_tool(memory, loader, "c", "d", "e")) == ["c!", "d!", "e!"]
    assert fn.asked == [["c", "d", "e"]]


async def test_batch_loader_cancels_abandoned_batch_and_close_awaits_it() -> None:
    cleaned = False

    async def fn(calls: list[Any]) -> list[Any]:
        nonlocal cleaned
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await turns(50)
            cleaned = True
        return []

    started = asyncio.Event()
    async with AgentCache.in_memory() as cache:
        tasks = call_tool(cache, cache.tool.batch_loader(fn, window=0), "a", "b")
        await started.wait()
        for task in tasks:
            task.cancel()
        await outcomes_of(tasks)
        assert not cleaned
    assert cleaned


async def test_batch_loader_drops_error_of_cancelled_batch(memory: AgentCache) -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("on the way out")

    started = asyncio.Event()
    loader = memory.tool.batch_loader(fn, window=0)
    (task,) = call_tool(memory, loader, "a")
    await started.wait()
    task.cancel()
    assert [type(value) for value in await outcomes_of([task])] == [asyncio.CancelledError]
    await turns()
    assert await outcomes_of(call_tool(memory, memory.tool.batch_loader(ManyLoader(), window=0), "a")) == ["a!"]


async def test_batch_loader_starts_new_batch_while_old_batch_is_cancelled() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        blocking, fn = ManyLoader(held=True), ManyLoader()
        holding = call_tool(cache, cache.tool.batch_loader(blocking, window=0), "holding")
        await blocking.started.wait()
        loader = cache.tool.batch_loader(fn, window=0)
        first = call_tool(cache, loader, "a")
        await wait_for_batch(loader, 1)
        await turns()  # The batch waits for a slot and still collects calls.
        assert fn.asked == []
        second = call_tool(cache, loader, "b", mode="bypass")
        await wait_for_batch(loader, 2)
        first[0].cancel()
        second[0].cancel()
        later = call_tool(cache, loader, "c")
        await outcomes_of(first + second)
        await wait_for_batch(loader, 1)
        blocking.release()
        assert await outcomes_of(holding + later) == ["holding!", "c!"]
        assert fn.asked == [["c"]]


async def test_batch_loader_starts_new_batch_after_task_is_cancelled_from_outside() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        blocking = ManyLoader(held=True)
        holding = call_tool(cache, cache.tool.batch_loader(blocking, window=0), "holding")
        await blocking.started.wait()
        loader = cache.tool.batch_loader(ManyLoader(), window=0)
        tasks = call_tool(cache, loader, "a", "b")
        await wait_for_batch(loader, 2)
        await turns()
        waiting = BatchView(loader).task
        assert waiting is not None
        waiting.cancel()
        assert [type(value) for value in await outcomes_of(tasks)] == [asyncio.CancelledError] * 2
        blocking.release()
        assert await outcomes_of(holding + call_tool(cache, loader, "c")) == ["holding!", "c!"]


async def test_batch_loader_passes_on_cancellation_raised_by_function(memory: AgentCache) -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        raise asyncio.CancelledError

    tasks = call_tool(memory, memory.tool.batch_loader(fn, window=0), "a", "b")
    assert [type(value) for value in await outcomes_of(tasks)] == [asyncio.CancelledError] * 2


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_batch_loader_leaves_no_task_after_random_cancellations_and_errors(
    make_cache: MakeCache, seed: int
) -> None:
    dice = random.Random(seed)
    cache = make_cache(tool=TierOptions(l1_ttl=0.002), resilience=ResilienceOptions(max_loads=2))

    async def fn(calls: list[dict[str, Any]]) -> list[Any]:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        if dice.random() < 0.1:
            raise ValueError("boom")
        if dice.random() < 0.3:
            await outcomes_of(call_tool(cache, quick, str(dice.randrange(6))))
        return [KeyError() if dice.random() < 0.1 else call["city"] for call in calls]

    loader = cache.tool.batch_loader(fn, window=0.0005, max_size=4)
    quick = cache.tool.batch_loader(fn, window=0)
    callers: list[asyncio.Task[Any]] = []
    for _ in range(600):
        mode = dice.choice(["use", "use", "use", "refresh", "bypass"])
        callers += call_tool(cache, dice.choice([loader, quick]), str(dice.randrange(6)), mode=mode)
        if dice.random() < 0.4:
            dice.choice(callers).cancel()
        if dice.random() < 0.2:
            await cache.tool.invalidate("weather", {"city": str(dice.randrange(6))})
        await asyncio.sleep(0)
    for caller, value in zip(callers, await outcomes_of(callers), strict=True):
        assert value == caller.get_name() or isinstance(value, ValueError | KeyError | asyncio.CancelledError)
    async with asyncio.timeout(10):
        await cache.flush_writes()
        await until(lambda: BatchView(loader).batch is None and BatchView(quick).batch is None)


# Close and end of the loop


async def test_batch_loader_serves_nested_load_of_batch_during_close() -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        started.set()
        await go.wait()
        inner = await cache.tool.get_or_load("inner", {}, lambda: "inner")
        return [inner.value] * len(calls)

    started, go = asyncio.Event(), asyncio.Event()
    cache = AgentCache.in_memory()
    tasks = call_tool(cache, cache.tool.batch_loader(fn, window=0), "a", "b")
    await started.wait()
    closing = asyncio.create_task(cache.aclose())
    await turns()
    go.set()
    await closing
    assert await outcomes_of(tasks) == ["inner", "inner"]


async def test_batch_loader_fails_calls_when_close_reaches_drain_timeout() -> None:
    fn = ManyLoader(held=True)
    cache = AgentCache.in_memory(resilience=ResilienceOptions(drain_timeout=0.05))
    tasks = call_tool(cache, cache.tool.batch_loader(fn, window=0), "a", "b")
    await fn.started.wait()
    await cache.aclose()
    assert [type(value) for value in await outcomes_of(tasks)] == [UsageError, UsageError]
    assert fn.cancelled == 1


def test_batch_loader_made_without_loop_serves_two_loops(url: str) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        asked: list[int] = []

        async def fn(calls: list[Any]) -> list[str]:
            asked.append(len(calls))
            return [f"{call['city']}!" for call in calls]

        loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=2)

        async def use(*cities: str) -> list[Any]:
            return await outcomes_of(call_tool(cache, loader, *cities))

        assert asyncio.run(use("a", "b")) == ["a!", "b!"]
        assert asyncio.run(use("c", "d")) == ["c!", "d!"]
        assert asked == [2, 2]

    run_in_thread(work)


def test_batch_loader_ignores_calls_of_closed_loop() -> None:
    def work() -> None:
        cache = AgentCache.in_memory()
        loader = cache.tool.batch_loader(lambda calls: [len(calls)] * len(calls), window=FOR_EVER, max_size=2)
        left: list[asyncio.Task[Any]] = []

        async def leave() -> None:
            left.extend(call_tool(cache, loader, "a", mode="bypass"))
            await wait_for_batch(loader, 1)

        async def use() -> list[Any]:
            return await outcomes_of(call_tool(cache, loader, "b", "c"))

        # The loop is closed without cancelling its tasks.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()
        assert asyncio.run(use()) == [2, 2]
        left[0]._log_destroy_pending = False  # type: ignore[attr-defined]

    run_in_thread(work)
