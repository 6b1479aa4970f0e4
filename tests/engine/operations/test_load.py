"""Joining a flight of an open cache: the fast path of ``get_or_load``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from tests.requests import HELLO, Loader, asking, turns
from tests.support import MakeCache
from tiercache import AgentCache, ResilienceOptions, TierOptions, UsageError

Call: TypeAlias = Callable[[AgentCache, Any], Any]

CALLS: dict[str, Call] = {
    "llm": lambda cache, loader: cache.llm.get_or_load(HELLO, loader),
    "tool": lambda cache, loader: cache.tool.get_or_load("t", None, loader),
    "kv": lambda cache, loader: cache.kv.get_or_load("k", loader),
}


@pytest.fixture(params=CALLS)
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def joined_flight(cache: AgentCache, tier: str, loader: Loader, count: int = 99) -> list[asyncio.Task[Any]]:
    """Return the tasks of a caller whose load runs, and of ``count`` callers that have joined its flight."""
    tasks = [asyncio.create_task(CALLS[tier](cache, loader))]
    await loader.started.wait()
    tasks += [asyncio.create_task(CALLS[tier](cache, loader)) for _ in range(count)]
    await turns()
    return tasks


@pytest.fixture
async def opened(make_cache: MakeCache) -> AgentCache:
    cancelling = TierOptions(on_abandon="cancel")
    cache = make_cache(llm=cancelling, tool=cancelling, kv=cancelling)
    await cache.open()
    return cache


async def test_load_counts_each_caller_that_joins_a_flight(opened: AgentCache, tier: str) -> None:
    loader = Loader(held=True)
    tasks = await joined_flight(opened, tier, loader)
    loader.release()
    results = await asyncio.gather(*tasks)
    assert loader.calls == 1
    assert [result.coalesced for result in results] == [False] + [True] * 99
    assert {(result.hit, result.source) for result in results} == {(False, "loader")}
    assert len({id(result) for result in results}) == 100
    stats = opened.local_stats()
    counters, operation = stats.tiers[tier], stats.operations[f"{tier}.get_or_load"]
    assert (counters.misses, counters.coalesced, counters.loads) == (100, 99, 1)
    assert (operation.calls, operation.errors, sum(operation.buckets)) == (100, 0, 100)


async def test_load_counts_error_for_each_caller_that_joined(opened: AgentCache, tier: str) -> None:
    error = ValueError("boom")
    loader = Loader(error, held=True)
    tasks = await joined_flight(opened, tier, loader)
    loader.release()
    assert all(result is error for result in await asyncio.gather(*tasks, return_exceptions=True))
    stats = opened.local_stats()
    counters, operation = stats.tiers[tier], stats.operations[f"{tier}.get_or_load"]
    assert (counters.misses, counters.coalesced, counters.load_errors) == (100, 99, 1)
    assert (operation.calls, operation.errors) == (100, 100)


async def test_load_is_cancelled_only_with_last_caller_that_joined(opened: AgentCache, tier: str) -> None:
    loader = Loader(held=True)
    first, second, last = await joined_flight(opened, tier, loader, 2)
    first.cancel()
    second.cancel()
    await turns()
    assert loader.cancelled == 0
    last.cancel()
    await turns()
    assert loader.cancelled == 1
    stats = opened.local_stats()
    operation = stats.operations[f"{tier}.get_or_load"]
    assert (stats.tiers[tier].misses, operation.calls, operation.errors) == (0, 3, 0)


async def test_load_is_not_joined_after_change(opened: AgentCache) -> None:
    loader = Loader(held=True)
    older = await joined_flight(opened, "llm", loader, 1)
    await opened.llm.invalidate(HELLO)
    assert (await opened.llm.get_or_load(HELLO, Loader("newer"))).response == "newer"
    loader.release()
    assert {result.response for result in await asyncio.gather(*older)} == {"answer"}


async def test_load_lends_slot_to_flight_that_it_joins(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(max_loads=1))
    started, go = asyncio.Event(), asyncio.Event()

    async def outer() -> str:
        started.set()
        await go.wait()
        return str((await cache.llm.get_or_load(asking("inner"), Loader("unused"))).response)

    holding = asyncio.create_task(cache.llm.get_or_load(HELLO, outer, mode="bypass"))
    await started.wait()
    queued = asyncio.create_task(cache.llm.get_or_load(asking("inner"), Loader("inner")))
    await turns()  # Its load waits for the slot.
    go.set()
    async with asyncio.timeout(10):
        assert (await holding).response == (await queued).response == "inner"


async def test_load_is_not_joined_while_cache_closes(opened: AgentCache, tier: str) -> None:
    loader = Loader(held=True)
    (waiting,) = await joined_flight(opened, tier, loader, 0)
    closing = asyncio.create_task(opened.aclose())
    await turns()
    with pytest.raises(UsageError, match="the cache is closed"):
        await CALLS[tier](opened, loader)
    loader.release()
    await asyncio.gather(waiting, closing)
