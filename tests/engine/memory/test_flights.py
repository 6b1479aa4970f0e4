"""Flights: concurrent callers of one key share one load, also when callers are cancelled or the load fails."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

from tests.requests import HELLO, Loader, asking, load_llm, turns
from tests.seams import NOTHING_REGISTERED, internals
from tests.support import MakeCache
from tiercache import AgentCache, ResilienceOptions, TierOptions, UsageError
from tiercache.engine.memory.fences import Fence
from tiercache.engine.memory.flights import Flight


async def test_flight_coalesces_concurrent_callers(cache: AgentCache) -> None:
    loader = Loader(held=True)
    tasks = [load_llm(cache, loader) for _ in range(1000)]
    await loader.started.wait()
    await turns()
    loader.release()
    results = await asyncio.gather(*tasks)
    assert loader.calls == 1
    assert {result.response for result in results} == {"answer"}
    assert [result.coalesced for result in results].count(False) == 1
    counters = cache.local_stats().tiers["llm"]
    assert (counters.misses, counters.coalesced, counters.loads) == (1000, 999, 1)


async def test_flight_continues_after_first_caller_is_cancelled(cache: AgentCache) -> None:
    loader = Loader(held=True)
    first, *others = [load_llm(cache, loader) for _ in range(100)]
    await loader.started.wait()
    first.cancel()
    await turns()
    assert first.cancelled()
    loader.release()
    results = await asyncio.gather(*others)
    assert [result.response for result in results] == ["answer"] * 99
    assert (loader.calls, loader.cancelled) == (1, 0)


async def test_flight_continues_after_one_waiter_is_cancelled(cache: AgentCache) -> None:
    loader = Loader(held=True)
    first, second, other = [load_llm(cache, loader) for _ in range(3)]
    await loader.started.wait()
    await turns()
    second.cancel()
    await turns()
    assert second.cancelled()
    loader.release()
    assert [(await task).response for task in (first, other)] == ["answer"] * 2
    assert loader.calls == 1


async def test_flight_is_cancelled_with_its_last_waiter(make_cache: MakeCache) -> None:
    cache = make_cache(llm=TierOptions(on_abandon="cancel"))
    loader = Loader(held=True)
    tasks = [load_llm(cache, loader) for _ in range(10)]
    await loader.started.wait()
    for task in tasks:
        task.cancel()
    await turns()
    assert all(task.cancelled() for task in tasks)
    assert loader.cancelled == 1
    assert not (await cache.llm.check(HELLO)).hit


async def test_flight_is_not_joined_after_its_last_waiter_left(make_cache: MakeCache) -> None:
    cache = make_cache(llm=TierOptions(on_abandon="cancel"))
    first, second = Loader("first", held=True), Loader("second")
    abandoned = load_llm(cache, first)
    await first.started.wait()
    abandoned.cancel()
    await turns(1)  # The waiter has left; the load is cancelled, and its task has not ended yet.
    assert (first.cancelled, abandoned.cancelled()) == (0, True)
    assert (await cache.llm.get_or_load(HELLO, second)).response == "second"


async def test_flight_finishes_and_stores_abandoned_llm_load(cache: AgentCache) -> None:
    loader = Loader(held=True)
    tasks = [load_llm(cache, loader) for _ in range(10)]
    await loader.started.wait()
    for task in tasks:
        task.cancel()
    await turns()
    loader.release()
    await turns()
    await cache.flush_writes()
    assert (await cache.llm.check(HELLO)).source == "l1"
    cache.clear_l1()
    assert (await cache.llm.check(HELLO)).source == "l2"
    assert (loader.calls, loader.cancelled) == (1, 0)


async def test_flight_retrieves_error_of_abandoned_load(cache: AgentCache) -> None:
    loader = Loader(ValueError("boom"), held=True)
    task = load_llm(cache, loader)
    await loader.started.wait()
    task.cancel()
    await turns()
    loader.release()
    await turns()
    gc.collect()  # The leak check fails this test if an error reaches the loop's exception handler.
    assert cache.local_stats().tiers["llm"].load_errors == 1


async def test_flight_raises_loader_error_in_every_waiter_and_stores_nothing(cache: AgentCache) -> None:
    error = ValueError("boom")
    failing = Loader(error, held=True)
    tasks = [load_llm(cache, failing) for _ in range(100)]
    await failing.started.wait()
    await turns()
    failing.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is error for result in results)
    assert failing.calls == 1
    counters = cache.local_stats().tiers["llm"]
    assert (counters.misses, counters.coalesced, counters.load_errors) == (100, 99, 1)
    again = Loader("now")
    assert (await cache.llm.get_or_load(HELLO, again)).response == "now"
    assert again.calls == 1


async def test_flight_retrieves_error_of_waiter_cancelled_with_the_failure() -> None:
    flight = Flight(Fence("key", ()), finishes=True)
    tasks = [asyncio.create_task(flight.wait()) for _ in range(2)]
    await turns(1)
    flight.fail(ValueError("boom"))
    tasks[0].cancel()  # Its future already holds the exception, and the task has not run since.
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], ValueError)


async def test_flight_passes_on_cancellation_raised_by_loader(cache: AgentCache) -> None:
    results = await asyncio.gather(
        *(load_llm(cache, Loader(asyncio.CancelledError())) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (await cache.llm.get_or_load(HELLO, Loader("fine"))).response == "fine"


async def test_flight_lets_loader_load_its_own_key(cache: AgentCache) -> None:
    async def outer() -> str:
        inner = await cache.llm.get_or_load(HELLO, lambda: "inner")
        return f"outer of {inner.response}"

    async with asyncio.timeout(10):
        result = await cache.llm.get_or_load(HELLO, outer)
    assert result.response == "outer of inner"
    assert (await cache.llm.check(HELLO)).response == "outer of inner"


async def test_flight_lets_task_of_loader_load_its_own_key(cache: AgentCache) -> None:
    async def outer() -> str:
        results = await asyncio.gather(*(cache.llm.get_or_load(HELLO, lambda: "inner") for _ in range(3)))
        return "+".join(str(result.response) for result in results)

    async with asyncio.timeout(10):
        assert (await cache.llm.get_or_load(HELLO, outer)).response == "inner+inner+inner"


async def test_flight_avoids_deadlock_of_two_loaders_that_load_each_others_keys(cache: AgentCache) -> None:
    a, b = asking("a"), asking("b")
    both = asyncio.Barrier(2)

    async def load_a() -> str:
        await both.wait()
        return f"a({(await cache.llm.get_or_load(b, lambda: 'b alone')).response})"

    async def load_b() -> str:
        await both.wait()
        return f"b({(await cache.llm.get_or_load(a, lambda: 'a alone')).response})"

    async with asyncio.timeout(10):
        results = await asyncio.gather(cache.llm.get_or_load(a, load_a), cache.llm.get_or_load(b, load_b))
    # One loader waits for the other; the call that would close the circle loads by itself.
    assert [result.response for result in results] in (["a(b(a alone))", "b(a alone)"], ["a(b alone)", "b(a(b alone))"])


async def test_flight_fails_its_waiters_when_close_reaches_drain_timeout(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(drain_timeout=0.05))
    loader = Loader(held=True)
    task = load_llm(cache, loader)
    await loader.started.wait()
    await cache.aclose()
    with pytest.raises(UsageError, match="closed while"):
        await task
    assert loader.cancelled == 1


@pytest.mark.parametrize("on_abandon", ["cancel", "finish"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_flight_leaves_no_task_after_random_cancellations(
    make_cache: MakeCache, on_abandon: str, seed: int
) -> None:
    """10,000 random steps in all runs: callers start, are cancelled and change keys; few keys, so that they collide."""
    dice = random.Random(seed)
    cache = make_cache(llm=TierOptions(on_abandon=on_abandon, l1_ttl=0.002))
    requests = [asking(f"hot {n}") for n in range(3)]
    callers: set[asyncio.Task[Any]] = set()
    outcomes: dict[str, int] = {}

    async def load(params: Any) -> str:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(dice.choice([0, 0, 0.0005]))
        if dice.random() < 0.2:
            raise ValueError("boom")
        if dice.random() < 0.1:
            await cache.llm.get_or_load(dice.choice(requests), lambda: "nested")
        return str(params["messages"][0]["content"])

    async def call() -> None:
        params = dice.choice(requests)
        try:
            result = await cache.llm.get_or_load(params, load, mode=dice.choice(["use", "use", "use", "refresh"]))
            outcome = str(result.source)
            assert result.response in (params["messages"][0]["content"], "nested")
        except ValueError as error:
            outcome = f"raised {error}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    async with asyncio.timeout(50):
        for _ in range(2500):
            step = dice.random()
            if step < 0.5:
                callers.add(asyncio.create_task(call()))
            elif step < 0.8 and callers:
                dice.choice(sorted(callers, key=id)).cancel()
            elif step < 0.85:
                await cache.llm.invalidate(dice.choice(requests))
            else:
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
            for task in [task for task in callers if task.done()]:
                callers.remove(task)
                if not task.cancelled():
                    task.result()
        await asyncio.gather(*callers, return_exceptions=True)
        await cache.aclose()
    assert {"l1", "loader", "raised boom"} <= outcomes.keys()
    assert sum(outcomes.values()) > 200


@pytest.mark.parametrize("many", [False, True])
async def test_flight_cancelled_before_its_first_step_ends_for_its_waiters(cache: AgentCache, many: bool) -> None:
    loader = Loader()
    calling: asyncio.Task[Any]
    if many:
        calling = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, "x")))
    else:
        calling = asyncio.create_task(cache.kv.get_or_load("a", loader))
    await turns(1)
    # As asyncio.run does when it ends: the task of the load exists, and has not run yet.
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "tiercache-load"]
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert loader.calls == 0
    assert internals(cache).registered == NOTHING_REGISTERED
