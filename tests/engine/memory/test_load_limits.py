"""Load limits: ``max_loads`` slots, which nested loads share, and ``load_timeout``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.requests import HELLO, Loader, asking, load_llm, turns
from tests.support import MakeCache
from tiercache import ResilienceOptions
from tiercache.engine.memory.load_limits import LoadLimits


async def test_load_limits_let_nested_load_share_the_slot(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=1))

    async def outer() -> str:
        return str((await cache.llm.get_or_load(asking("inner"), lambda: "inner")).response)

    async with asyncio.timeout(10):
        assert (await cache.llm.get_or_load(HELLO, outer)).response == "inner"


@pytest.mark.parametrize("mode", ["use", "bypass", "refresh", "store_only"])
async def test_load_limits_let_nested_loads_share_the_slot_in_every_mode(make_cache: MakeCache, mode: Any) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=1))

    async def outer() -> str:
        inner = [cache.llm.get_or_load(asking(f"inner {n}"), lambda: "inner", mode=mode) for n in range(3)]
        return "+".join(str(result.response) for result in await asyncio.gather(*inner))

    async with asyncio.timeout(10):
        assert (await cache.llm.get_or_load(HELLO, outer, mode=mode)).response == "inner+inner+inner"


async def test_load_limits_count_load_of_task_that_outlives_its_own_load(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=1))
    later: list[asyncio.Task[Any]] = []
    blocked, second = Loader(held=True), Loader()

    async def starts_one() -> str:
        async def afterwards() -> Any:
            await blocked.started.wait()
            return await cache.llm.get_or_load(asking("later"), second)

        later.append(asyncio.create_task(afterwards()))
        return "x"

    await cache.llm.get_or_load(HELLO, starts_one)
    holding = load_llm(cache, blocked, asking("holding"))
    await blocked.started.wait()
    await turns()
    assert second.calls == 0
    blocked.release()
    await asyncio.gather(holding, *later)
    assert second.calls == 1


async def test_load_limits_lend_slot_to_load_that_the_holder_waits_for(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=1))
    started, go = asyncio.Event(), asyncio.Event()
    running = most = 0

    async def inner() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return "inner"

    async def outer() -> str:
        started.set()
        await go.wait()
        asked = [cache.llm.get_or_load(asking(f"inner {n}"), inner) for n in range(2)]
        return "+".join(str(result.response) for result in await asyncio.gather(*asked))

    holding = load_llm(cache, outer)
    await started.wait()
    queued = [load_llm(cache, inner, asking(f"inner {n}")) for n in range(2)]  # Both wait for a slot.
    await turns(20)
    await asyncio.sleep(0.02)
    go.set()
    async with asyncio.timeout(10):
        assert (await holding).response == "inner+inner"
        assert [(await task).response for task in queued] == ["inner"] * 2
    assert most == 1
    last = [cache.llm.get_or_load(asking(f"last {n}"), inner) for n in range(5)]
    await asyncio.gather(*last)
    assert most == 1  # No slot was gained.


async def test_load_limits_bound_concurrent_loads(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=5))
    running = most = 0

    async def load() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return "x"

    await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), load) for n in range(100)))
    assert most == 5


async def test_load_limits_time_out_slow_load_for_every_waiter(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(load_timeout=0.01))
    loader = Loader(held=True)
    results = await asyncio.gather(load_llm(cache, loader), load_llm(cache, loader), return_exceptions=True)
    assert all(isinstance(result, TimeoutError) and "load_timeout=0.01" in str(result) for result in results)
    assert loader.cancelled == 1


async def test_load_limits_pass_on_timeout_error_of_loader(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(load_timeout=60))
    error = TimeoutError("the model's")
    with pytest.raises(TimeoutError) as caught:
        await cache.llm.get_or_load(HELLO, Loader(error))
    assert caught.value is error


async def test_load_limits_lend_no_slot_that_a_load_of_other_limits_holds() -> None:
    """A load of one face runs a load of the other face, which waits for a lease: each face has slots of its own."""
    outer, inner = (LoadLimits(ResilienceOptions(max_loads=1)) for _ in range(2))
    running: list[int] = []
    release = asyncio.Event()

    async def occupy() -> None:
        running.append(1)
        await release.wait()

    async def nested() -> None:
        async with inner.lent():
            loads = [asyncio.create_task(inner.run(occupy, apart=True)) for _ in range(2)]
            await turns(10)
            assert len(running) == 1
            release.set()
            await asyncio.gather(*loads)

    await outer.run(lambda: inner.run(nested))
