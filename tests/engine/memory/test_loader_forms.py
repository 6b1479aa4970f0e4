"""Forms of loaders: async and plain functions, awaitables, and values, which are refused."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.requests import HELLO, Loader
from tests.support import MakeCache
from tiercache import AgentCache, LlmOptions, ResilienceOptions, TierOptions, UsageError
from tiercache.engine.memory.awaitable_loader import AwaitableLoader

Ask = Callable[..., Any]

# Each returns the value of ``get_or_load`` and whether the loader made it.
ASKS: dict[str, Ask] = {
    "llm": lambda cache, loader, **options: cache.llm.get_or_load(HELLO, loader, **options),
    "llm key": lambda cache, loader, **options: cache.llm.get_or_load(cache.llm.key(HELLO), loader, **options),
    "tool": lambda cache, loader, **options: cache.tool.get_or_load("t", {"a": 1}, loader, **options),
    "kv": lambda cache, loader, **options: cache.kv.get_or_load("k", loader, **options),
}
_all_tiers = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)


class Fetch:
    """An async function that counts how often its body runs."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        return "fetched"


def text_of(result: Any) -> str:
    return str(result.value if hasattr(result, "value") else result.response)


@_all_tiers
async def test_loader_may_be_a_coroutine(cache: AgentCache, ask: Ask) -> None:
    fetch = Fetch()
    first = await ask(cache, fetch())
    assert (text_of(first), first.source) == ("fetched", "loader")
    # A coroutine that no task awaits would make Python warn, and warnings are errors here.
    assert (await ask(cache, fetch())).source == "l1"
    await cache.flush_writes()
    cache.clear_l1()
    assert (await ask(cache, fetch())).source == "l2"
    assert (await ask(cache, fetch(), tags=["red"])).hit
    assert (await ask(cache, fetch(), mode="only_cached")).hit
    gc.collect()
    assert fetch.calls == 1
    assert (await ask(cache, fetch(), mode="refresh")).source == "loader"
    assert (await ask(cache, fetch(), mode="bypass")).source == "loader"
    assert fetch.calls == 3


@_all_tiers
async def test_coroutines_of_concurrent_callers_run_once(cache: AgentCache, ask: Ask) -> None:
    fetch = Fetch()
    results = await asyncio.gather(*(ask(cache, fetch()) for _ in range(5)))
    assert [text_of(result) for result in results] == ["fetched"] * 5
    gc.collect()
    assert fetch.calls == 1


@_all_tiers
async def test_coroutine_is_closed_when_an_option_is_refused(cache: AgentCache, ask: Ask) -> None:
    fetch = Fetch()
    with pytest.raises(UsageError, match="ttl"):
        await ask(cache, fetch(), ttl=-1)
    gc.collect()
    assert fetch.calls == 0


async def test_coroutine_of_a_cancelled_caller_is_awaited_by_its_load(make_cache: MakeCache) -> None:
    cache = make_cache(llm=LlmOptions(on_abandon="finish"))
    started, release = asyncio.Event(), asyncio.Event()

    async def fetch() -> str:
        started.set()
        await release.wait()
        return "fetched"

    caller = asyncio.create_task(cache.llm.get_or_load(HELLO, fetch()))
    await started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    release.set()
    assert (await cache.llm.get_or_load(HELLO, Loader())).response == "fetched"


async def test_coroutine_that_runs_is_not_closed_by_a_second_call_that_has_it_too(cache: AgentCache) -> None:
    loader = Loader(held=True)
    coroutine = loader()
    callers = [asyncio.create_task(cache.kv.get_or_load("k", coroutine))]
    await loader.started.wait()
    callers.append(asyncio.create_task(cache.kv.get_or_load("k", coroutine)))
    await asyncio.sleep(0)
    callers.pop().cancel()
    await asyncio.sleep(0)
    loader.release()
    assert [(await caller).value for caller in callers] == ["answer"]


async def test_loader_may_be_a_future_and_its_exception_reaches_the_caller(cache: AgentCache) -> None:
    value: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    value.set_result(5)
    assert (await cache.kv.get_or_load("k", value)).value == 5
    failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    failed.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await cache.kv.get_or_load("other", failed)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_session_loader_may_be_a_coroutine(make_cache: MakeCache, in_memory: bool) -> None:
    fetch = Fetch()
    cache = AgentCache.in_memory() if in_memory else make_cache()
    async with cache:
        assert [await cache.session.get_or_load("t", "f", fetch()) for _ in range(3)] == ["fetched"] * 3
    gc.collect()
    assert fetch.calls == 1


def test_coroutine_runs_on_the_private_loop_for_plain_code() -> None:
    fetch = Fetch()
    with AgentCache.in_memory().sync as cache:
        assert [cache.kv.get_or_load("k", fetch()).source for _ in range(2)] == ["loader", "l1"]
    assert fetch.calls == 1


@_all_tiers
@pytest.mark.parametrize("value", [None, "text", 5, {"a": 1}, [1]])
async def test_plain_value_is_refused_as_a_loader(memory: AgentCache, ask: Ask, value: Any) -> None:
    with pytest.raises(UsageError, match=r"loader must be a function, .*is stored by set or store"):
        await ask(memory, value)


async def test_load_of_many_keys_takes_no_awaitable(memory: AgentCache) -> None:
    value: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    with pytest.raises(UsageError, match="loader must be a function, async or plain, not Future"):
        await memory.kv.get_or_load_many(["k"], value)  # type: ignore[arg-type]


async def test_awaitable_loader_returns_its_value_again_and_refuses_a_failed_one() -> None:
    fetch = Fetch()
    loader = AwaitableLoader(fetch())
    assert [await loader(), await loader()] == ["fetched", "fetched"]
    assert fetch.calls == 1
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(ValueError("no"))
    loader = AwaitableLoader(failed)
    with pytest.raises(ValueError, match="no"):
        await loader()
    with pytest.raises(UsageError, match="has ended"):
        await loader()


async def test_hundred_loads_with_a_limit_of_five_run_five_at_a_time() -> None:
    running = most = 0

    async def load(key: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return key

    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=5)) as cache:
        results = await asyncio.gather(*(cache.kv.get_or_load(str(number), load) for number in range(100)))
    assert [result.value for result in results] == [str(number) for number in range(100)]
    assert most == 5


@pytest.mark.parametrize("threads", [False, True])
async def test_plain_loader_works_on_the_loop_and_in_a_thread(threads: bool) -> None:
    async with AgentCache.in_memory(kv=TierOptions(threads=threads)) as cache:
        assert (await cache.kv.get_or_load("k", lambda: 5)).value == 5
