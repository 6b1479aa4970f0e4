"""Flights: concurrent callers of one key share one load, also when callers are cancelled or the load fails."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

from tests.requests import HELLO, Loader, asking, load_llm, turns
from tests.support import MakeCache
from tiercache import AgentCache, ResilienceOptions, TierOptions, UsageError
from tiercache.engine.memory.fences import Fence
from tiercache.engine.memory.flights import Flight


async def test_a_thousand_identical_misses_run_one_loader(cache: AgentCache) -> None:
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


async def test_cancelling_the_first_caller_leaves_the_others_waiting(cache: AgentCache) -> None:
    loader = Loader(held=True)
    leader, *followers = [load_llm(cache, loader) for _ in range(100)]
    await loader.started.wait()
    leader.cancel()
    await turns()
    assert leader.cancelled()
    loader.release()
    results = await asyncio.gather(*followers)
    assert [result.response for result in results] == ["answer"] * 99
    assert (loader.calls, loader.cancelled) == (1, 0)


async def test_cancelling_one_waiter_leaves_the_others(cache: AgentCache) -> None:
    loader = Loader(held=True)
    leader, listener, other = [load_llm(cache, loader) for _ in range(3)]
    await loader.started.wait()
    await turns()
    listener.cancel()
    await turns()
    assert listener.cancelled()
    loader.release()
    assert [(await task).response for task in (leader, other)] == ["answer"] * 2
    assert loader.calls == 1


async def test_the_last_waiter_to_go_cancels_the_load(make_cache: MakeCache) -> None:
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


async def test_a_caller_who_comes_after_the_last_one_left_starts_anew(make_cache: MakeCache) -> None:
    cache = make_cache(llm=TierOptions(on_abandon="cancel"))
    first, second = Loader("first", held=True), Loader("second")
    abandoned = load_llm(cache, first)
    await first.started.wait()
    abandoned.cancel()
    await turns(1)  # The waiter has left; the load has been told, and has not ended yet.
    assert (first.cancelled, abandoned.cancelled()) == (0, True)
    assert (await cache.llm.get_or_load(HELLO, second)).response == "second"


async def test_an_abandoned_llm_load_is_finished_and_stored(cache: AgentCache) -> None:
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


async def test_an_abandoned_load_that_fails_is_not_reported_as_unhandled(cache: AgentCache) -> None:
    loader = Loader(ValueError("boom"), held=True)
    task = load_llm(cache, loader)
    await loader.started.wait()
    task.cancel()
    await turns()
    loader.release()
    await turns()
    gc.collect()  # The fixture fails this test if anything reaches the loop's exception handler.
    assert cache.local_stats().tiers["llm"].load_errors == 1


async def test_what_the_loader_raises_reaches_every_waiter_and_the_next_call_loads_again(cache: AgentCache) -> None:
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


async def test_a_waiter_cancelled_in_the_moment_of_failure_leaves_nothing_unretrieved() -> None:
    flight = Flight(Fence("key", ()), finish=True)
    tasks = [asyncio.create_task(flight.wait()) for _ in range(2)]
    await turns(1)
    flight.fail(ValueError("boom"))
    tasks[0].cancel()  # Its future holds the exception already, and it has not run since.
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], ValueError)


async def test_a_loader_that_cancels_itself_cancels_its_waiters_and_nothing_else(cache: AgentCache) -> None:
    results = await asyncio.gather(
        *(load_llm(cache, Loader(asyncio.CancelledError())) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (await cache.llm.get_or_load(HELLO, Loader("fine"))).response == "fine"


async def test_a_loader_may_ask_the_cache_for_its_own_key(cache: AgentCache) -> None:
    async def outer() -> str:
        inner = await cache.llm.get_or_load(HELLO, lambda: "inner")
        return f"outer of {inner.response}"

    async with asyncio.timeout(10):
        result = await cache.llm.get_or_load(HELLO, outer)
    assert result.response == "outer of inner"
    assert (await cache.llm.check(HELLO)).response == "outer of inner"


async def test_a_loader_may_ask_for_its_own_key_from_a_task_of_its_own(cache: AgentCache) -> None:
    async def outer() -> str:
        results = await asyncio.gather(*(cache.llm.get_or_load(HELLO, lambda: "inner") for _ in range(3)))
        return "+".join(str(result.response) for result in results)

    async with asyncio.timeout(10):
        assert (await cache.llm.get_or_load(HELLO, outer)).response == "inner+inner+inner"


async def test_two_loaders_that_ask_for_each_others_keys_do_not_deadlock(cache: AgentCache) -> None:
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
    # One waits for the other; the one that would have closed the circle loads by itself.
    assert [result.response for result in results] in (["a(b(a alone))", "b(a alone)"], ["a(b alone)", "b(a(b alone))"])


async def test_closing_ends_a_load_that_does_not_end_and_tells_its_waiters(make_cache: MakeCache) -> None:
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
async def test_random_cancellations_leave_no_hang_and_no_task(
    make_cache: MakeCache, on_abandon: str, seed: int
) -> None:
    """10,000 steps in all: callers come, are cancelled and change keys at random, on keys few enough to collide."""
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
