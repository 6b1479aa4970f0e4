"""Batch loaders: loads of single keys, answered by one call; what befalls one of them befalls no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import valkey

from tests.engine.runtime.test_lifecycle import in_thread
from tests.requests import asking, turns
from tests.support import entry_keys, until
from tiercache import AgentCache, LlmResponse, ResilienceOptions, TierOptions, ToolResult, UsageError
from tiercache.engine.operations.batch_loader import BatchLoader

MakeCache = Callable[..., AgentCache]

# Longer than any test: only a full batch is called.
FOR_EVER = 3600.0


class Fn:
    """A batch function that notes what it was called with, and answers ``{city}!`` when told to.

    Args:
        held: Whether it waits for ``release``.
        failing: Cities whose place gets a KeyError.
    """

    def __init__(self, *, held: bool = False, failing: tuple[str, ...] = ()) -> None:
        self.asked: list[list[str]] = []
        self.started = asyncio.Event()
        self.cancelled = 0
        self._failing = failing
        self._released = asyncio.Event()
        if not held:
            self.release()

    def release(self) -> None:
        """Let it answer."""
        self._released.set()

    async def __call__(self, calls: list[dict[str, Any]]) -> list[Any]:
        self.asked.append([call["city"] for call in calls])
        self.started.set()
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [KeyError(city) if city in self._failing else f"{city}!" for city in self.asked[-1]]


def ask(cache: AgentCache, loader: Any, *cities: str, tool: str = "weather", **options: Any) -> list[asyncio.Task[Any]]:
    """Start a caller for each of ``cities``, in order."""
    return [
        asyncio.create_task(cache.tool.get_or_load(tool, {"city": city}, loader, **options), name=city)
        for city in cities
    ]


async def values(tasks: list[asyncio.Task[ToolResult]]) -> list[Any]:
    """Return what the callers got: values or exceptions."""
    async with asyncio.timeout(10):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result if isinstance(result, BaseException) else result.value for result in results]


async def collected(loader: BatchLoader, count: int) -> None:
    """Return once ``count`` calls wait in the batch that is collecting."""
    await until(lambda: loader._collecting is not None and len(loader._collecting._places) == count)


@pytest.fixture
async def memory() -> AsyncIterator[AgentCache]:
    """A cache without Valkey: all that comes to it in one turn comes to its loader in one."""
    async with AgentCache.in_memory() as cache:
        yield cache


# Collecting


async def test_a_hundred_concurrent_cold_keys_are_one_call_and_are_stored(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    fn = Fn()
    loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=100)
    cities = [f"city {n}" for n in range(100)]
    assert await values(ask(cache, loader, *cities)) == [f"{city}!" for city in cities]
    ((*asked,),) = fn.asked
    assert sorted(asked) == sorted(cities)
    counters = cache.local_stats().tiers["tool"]
    assert (counters.loads, counters.misses, counters.load_errors) == (100, 100, 0)
    await cache.flush_writes()
    assert len(entry_keys(plain)) == 100
    cache.clear_l1()
    results = [await cache.tool.get_or_load("weather", {"city": city}, loader) for city in cities]
    assert {result.source for result in results} == {"l2"}


async def test_without_a_window_the_calls_of_one_turn_are_one_batch_in_the_order_of_arrival(memory: AgentCache) -> None:
    fn = Fn()
    loader = memory.tool.batch_loader(fn, window=0)
    assert await values(ask(memory, loader, "c", "a", "b", "a")) == ["c!", "a!", "b!", "a!"]
    assert fn.asked == [["c", "a", "b"]]


async def test_the_first_call_waits_for_the_window_and_no_longer(memory: AgentCache) -> None:
    fn = Fn()
    loader = memory.tool.batch_loader(fn, window=0.3)
    first = ask(memory, loader, "a")
    await collected(loader, 1)
    second = ask(memory, loader, "b")
    assert await values(first + second) == ["a!", "b!"]
    assert fn.asked == [["a", "b"]]


async def test_a_full_batch_is_called_at_once(memory: AgentCache) -> None:
    fn = Fn()
    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)
    tasks = ask(memory, loader, "a", "b", "c")
    await fn.started.wait()
    await collected(loader, 1)
    tasks += ask(memory, loader, "d")
    assert await values(tasks) == ["a!", "b!", "c!", "d!"]
    assert fn.asked == [["a", "b"], ["c", "d"]]


async def test_a_slow_batch_blocks_neither_the_next_one_nor_another_loader(memory: AgentCache) -> None:
    slow, quick = Fn(held=True), Fn()
    loader = memory.tool.batch_loader(lambda calls: (slow if calls[0]["city"] == "slow" else quick)(calls), window=0)
    waiting = ask(memory, loader, "slow")
    await slow.started.wait()
    assert await values(ask(memory, loader, "next")) == ["next!"]
    assert await values(ask(memory, memory.tool.batch_loader(quick, window=0), "other")) == ["other!"]
    slow.release()
    assert await values(waiting) == ["slow!"]


async def test_equal_args_of_two_tools_and_modes_have_a_place_each(memory: AgentCache) -> None:
    fn = Fn()
    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=3)
    tasks = ask(memory, loader, "a") + ask(memory, loader, "a", tool="forecast")
    tasks += ask(memory, loader, "a", mode="bypass")
    assert await values(tasks) == ["a!"] * 3
    assert fn.asked == [["a"] * 3]


async def test_what_the_function_gets_is_its_own(memory: AgentCache) -> None:
    def spoil(calls: list[dict[str, Any]]) -> list[str]:
        cities = [call.pop("city") for call in calls]
        calls.clear()
        return [f"{city}!" for city in cities]

    loader = memory.tool.batch_loader(spoil, window=0)
    given = {"city": "a"}
    tasks = [asyncio.create_task(memory.tool.get_or_load("weather", given, loader)), *ask(memory, loader, "b")]
    assert await values(tasks) == ["a!", "b!"]
    assert given == {"city": "a"}
    assert (await memory.tool.check("weather", given)).hit


@pytest.mark.parametrize("args", [None, {}])
async def test_a_call_without_args_is_an_empty_mapping(memory: AgentCache, args: Any) -> None:
    loader = memory.tool.batch_loader(lambda calls: [repr(call) for call in calls], window=0)
    assert (await memory.tool.get_or_load("now", args, loader)).value == "{}"


async def test_args_may_have_any_name(memory: AgentCache) -> None:
    loader = memory.tool.batch_loader(lambda calls: calls, window=0)
    args = {"self": 1, "argument": 2, "batch": 3}
    assert (await memory.tool.get_or_load("any", args, loader)).value == args


async def test_the_function_runs_in_the_context_of_the_first_call(memory: AgentCache) -> None:
    async def caller(name: str) -> Any:
        of.set(name)
        return (await memory.tool.get_or_load("weather", {"city": name}, loader)).value

    of: ContextVar[str] = ContextVar("of")
    loader = memory.tool.batch_loader(lambda calls: [of.get()] * len(calls), window=FOR_EVER, max_size=2)
    assert await asyncio.gather(caller("a"), caller("b")) == ["a", "a"]


# Results


async def test_an_exception_in_a_place_is_that_keys_alone(cache: AgentCache, plain: valkey.Valkey) -> None:
    loader = cache.tool.batch_loader(Fn(failing=("b",)), window=FOR_EVER, max_size=3)
    a, b, c = await values(ask(cache, loader, "a", "b", "c"))
    assert (a, c) == ("a!", "c!")
    assert isinstance(b, KeyError)
    await cache.flush_writes()
    await until(lambda: len(entry_keys(plain)) == 2)
    assert not (await cache.tool.check("weather", {"city": "b"})).hit
    counters = cache.local_stats().tiers["tool"]
    assert (counters.loads, counters.load_errors) == (3, 1)


async def test_an_exception_that_a_future_would_refuse_hurts_nobody_else(memory: AgentCache) -> None:
    loader = memory.tool.batch_loader(lambda calls: [StopIteration(), "b!"], window=0)
    a, b = await values(ask(memory, loader, "a", "b"))
    assert isinstance(a, RuntimeError)
    assert b == "b!"


async def test_what_the_function_raises_reaches_everyone_and_stores_nothing(memory: AgentCache) -> None:
    error = OSError("down")

    async def broken(calls: list[Any]) -> list[Any]:
        raise error

    loader = memory.tool.batch_loader(broken, window=0)
    assert await values(ask(memory, loader, "a", "b")) == [error, error]
    fn = Fn()
    assert await values(ask(memory, memory.tool.batch_loader(fn, window=0), "a", "b")) == ["a!", "b!"]
    assert memory.local_stats().tiers["tool"].load_errors == 2


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (["a!"], "returned 1 results for 2 calls"),
        (["a!", "b!", "c!"], "returned 3 results for 2 calls"),
        ({"a": "a!", "b": "b!"}, "must return a list of results, not dict"),
        ("ab", "not str"),
        (None, "not NoneType"),
        ((value for value in "ab"), "not generator"),
    ],
)
async def test_what_is_no_list_of_as_many_results_is_refused_for_everyone(
    memory: AgentCache, returned: Any, message: str
) -> None:
    loader = memory.tool.batch_loader(lambda calls: returned, window=0)
    for error in await values(ask(memory, loader, "a", "b")):
        assert isinstance(error, UsageError)
        assert message in str(error)
    assert not (await memory.tool.check("weather", {"city": "a"})).hit


async def test_one_result_that_is_no_json_fails_its_key_alone(memory: AgentCache) -> None:
    loader = memory.tool.batch_loader(lambda calls: (object(), "b!"), window=0)
    a, b = await values(ask(memory, loader, "a", "b"))
    assert isinstance(a, UsageError)
    assert b == "b!"


async def test_each_key_is_stored_by_its_own_rules(make_cache: MakeCache) -> None:
    seen: list[Any] = []
    cache = make_cache(tool=TierOptions(store_when=lambda value: seen.append(value) or value != "b!"))
    loader = cache.tool.batch_loader(Fn(), window=FOR_EVER, max_size=3)
    tasks = ask(cache, loader, "a", ttl=60, cost=0.5, tags=["x"]) + ask(cache, loader, "b", "c")
    assert await values(tasks) == ["a!", "b!", "c!"]
    assert sorted(seen) == ["a!", "b!", "c!"]
    results = [await cache.tool.check("weather", {"city": city}) for city in "abc"]
    assert [result.hit for result in results] == [True, False, True]
    assert (results[0].cost, results[2].cost) == (0.5, None)
    assert results[0].ttl is not None
    assert results[2].ttl is None
    assert await cache.invalidate_tag("x") == 1


async def test_a_change_during_a_batch_wins_for_its_key_alone(memory: AgentCache) -> None:
    fn = Fn(held=True)
    loader = memory.tool.batch_loader(fn, window=0)
    tasks = ask(memory, loader, "a", "b")
    await fn.started.wait()
    await memory.tool.invalidate("weather", {"city": "a"})
    fn.release()
    assert await values(tasks) == ["a!", "b!"]
    assert not (await memory.tool.check("weather", {"city": "a"})).hit
    assert (await memory.tool.check("weather", {"city": "b"})).hit


async def test_every_tier_with_loaders_has_batch_loaders(memory: AgentCache) -> None:
    keys = memory.kv.batch_loader(lambda keys: [f"{key}!" for key in keys], window=0)
    found = await asyncio.gather(*(memory.kv.get_or_load(key, keys) for key in "ab"))
    assert [result.value for result in found] == ["a!", "b!"]

    async def answer(requests: list[Any]) -> list[str | LlmResponse]:
        assert len(requests) == 2
        texts = [request["messages"][0]["content"] for request in requests]
        return [texts[0], LlmResponse(texts[1], tokens={"input": 1, "output": 2})]

    loader = memory.llm.batch_loader(answer, window=0)
    answers = await asyncio.gather(*(memory.llm.get_or_load(asking(text), loader) for text in "ab"))
    assert [result.response for result in answers] == ["a", "b"]
    assert answers[1].tokens == {"input": 1, "output": 2}


# Cancelling


@pytest.mark.parametrize("on_abandon", ["cancel", "finish"])
async def test_a_call_that_is_cancelled_while_others_are_collected_leaves_its_place(on_abandon: Any) -> None:
    async with AgentCache.in_memory(tool=TierOptions(on_abandon=on_abandon)) as cache:
        fn = Fn()
        loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=3)
        a, b = ask(cache, loader, "a", "b")
        await collected(loader, 2)
        a.cancel()
        await turns()
        tasks = ask(cache, loader, "c", "d") if on_abandon == "cancel" else ask(cache, loader, "c")
        assert all(isinstance(value, str) for value in await values([b, *tasks]))
        assert fn.asked == [["b", "c", "d"] if on_abandon == "cancel" else ["a", "b", "c"]]
        assert a.cancelled()


async def test_a_call_that_is_cancelled_during_the_batch_hurts_nobody_else(memory: AgentCache) -> None:
    fn = Fn(held=True)
    loader = memory.tool.batch_loader(fn, window=0)
    a, b, c = ask(memory, loader, "a", "b", "c")
    await fn.started.wait()
    a.cancel()
    await turns()
    fn.release()
    assert await values([b, c]) == ["b!", "c!"]
    assert fn.cancelled == 0
    assert not (await memory.tool.check("weather", {"city": "a"})).hit


async def test_a_batch_whose_calls_are_all_cancelled_before_it_is_called_never_is(memory: AgentCache) -> None:
    fn = Fn()
    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=3)
    tasks = ask(memory, loader, "a", "b")
    await collected(loader, 2)
    batch = loader._collecting
    for task in tasks:
        task.cancel()
    await values(tasks)
    await turns()
    assert batch is not None
    assert batch._timer.cancelled()
    assert await values(ask(memory, loader, "c", "d", "e")) == ["c!", "d!", "e!"]
    assert fn.asked == [["c", "d", "e"]]


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_ends_before_the_cache_does() -> None:
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
        tasks = ask(cache, cache.tool.batch_loader(fn, window=0), "a", "b")
        await started.wait()
        for task in tasks:
            task.cancel()
        await values(tasks)
        assert not cleaned
    assert cleaned


async def test_what_a_cancelled_batch_raises_is_nobodys(memory: AgentCache) -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("on the way out")

    started = asyncio.Event()
    loader = memory.tool.batch_loader(fn, window=0)
    (task,) = ask(memory, loader, "a")
    await started.wait()
    task.cancel()
    assert [type(value) for value in await values([task])] == [asyncio.CancelledError]
    await turns()
    assert await values(ask(memory, memory.tool.batch_loader(Fn(), window=0), "a")) == ["a!"]


async def test_a_call_joins_no_batch_that_is_being_cancelled() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        blocking, fn = Fn(held=True), Fn()
        holding = ask(cache, cache.tool.batch_loader(blocking, window=0), "holding")
        await blocking.started.wait()
        loader = cache.tool.batch_loader(fn, window=0)
        first = ask(cache, loader, "a")
        await collected(loader, 1)
        await turns()  # It waits for its turn, and goes on collecting.
        assert fn.asked == []
        second = ask(cache, loader, "b", mode="bypass")
        await collected(loader, 2)
        first[0].cancel()
        second[0].cancel()
        later = ask(cache, loader, "c")
        await values(first + second)
        await collected(loader, 1)
        blocking.release()
        assert await values(holding + later) == ["holding!", "c!"]
        assert fn.asked == [["c"]]


async def test_a_batch_that_somebody_else_cancels_is_joined_by_nobody_later() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        blocking = Fn(held=True)
        holding = ask(cache, cache.tool.batch_loader(blocking, window=0), "holding")
        await blocking.started.wait()
        loader = cache.tool.batch_loader(Fn(), window=0)
        tasks = ask(cache, loader, "a", "b")
        await collected(loader, 2)
        await turns()
        waiting = loader._collecting._task  # type: ignore[union-attr]
        assert waiting is not None
        waiting.cancel()
        assert [type(value) for value in await values(tasks)] == [asyncio.CancelledError] * 2
        blocking.release()
        assert await values(holding + ask(cache, loader, "c")) == ["holding!", "c!"]


async def test_a_batch_that_is_cancelled_by_its_own_function_cancels_its_calls(memory: AgentCache) -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        raise asyncio.CancelledError

    tasks = ask(memory, memory.tool.batch_loader(fn, window=0), "a", "b")
    assert [type(value) for value in await values(tasks)] == [asyncio.CancelledError] * 2


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_cancellations_errors_and_nested_calls_leave_no_hang_and_no_task(
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
            await values(ask(cache, quick, str(dice.randrange(6))))
        return [KeyError() if dice.random() < 0.1 else call["city"] for call in calls]

    loader = cache.tool.batch_loader(fn, window=0.0005, max_size=4)
    quick = cache.tool.batch_loader(fn, window=0)
    callers: list[asyncio.Task[Any]] = []
    for _ in range(600):
        mode = dice.choice(["use", "use", "use", "refresh", "bypass"])
        callers += ask(cache, dice.choice([loader, quick]), str(dice.randrange(6)), mode=mode)
        if dice.random() < 0.4:
            dice.choice(callers).cancel()
        if dice.random() < 0.2:
            await cache.tool.invalidate("weather", {"city": str(dice.randrange(6))})
        await asyncio.sleep(0)
    for caller, value in zip(callers, await values(callers), strict=True):
        assert value == caller.get_name() or isinstance(value, ValueError | KeyError | asyncio.CancelledError)
    async with asyncio.timeout(10):
        await cache.flush_writes()
        await until(lambda: loader._collecting is None and quick._collecting is None)


# Functions that ask the cache


async def test_a_function_may_ask_for_the_keys_of_its_own_batch(memory: AgentCache) -> None:
    depth = 0

    async def fn(calls: list[Any]) -> list[Any]:
        nonlocal depth
        depth += 1
        if depth > 1:
            return ["alone"] * len(calls)
        inner = await asyncio.gather(*(memory.tool.get_or_load("weather", call, loader) for call in reversed(calls)))
        return [f"of {result.value}" for result in inner]

    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)
    assert await values(ask(memory, loader, "a", "b")) == ["of alone", "of alone"]
    assert (await memory.tool.check("weather", {"city": "b"})).value == "of alone"


async def test_a_function_may_ask_for_what_waits_for_any_key_of_its_batch(memory: AgentCache) -> None:
    """The flight that would never end is waited for by none of the loads that the function was called from."""
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

    # In the context of a's load, which nobody waits for.
    tasks = ask(memory, loader, "a", "b")
    await turns()
    tasks.append(asyncio.create_task(memory.tool.get_or_load("summary", {}, summarise)))
    assert await values(tasks) == ["a, no summary", "b, no summary", "summary of b, no summary"]


async def test_two_batch_loaders_that_ask_for_each_others_keys_do_not_deadlock(memory: AgentCache) -> None:
    both = asyncio.Barrier(2)

    def asks(tool: str, alone: str) -> Any:
        async def fn(calls: list[Any]) -> list[Any]:
            await both.wait()
            inner = (memory.tool.get_or_load(tool, call, lambda **_: alone) for call in calls)
            return [result.value for result in await asyncio.gather(*inner)]

        return memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)

    tasks = ask(memory, asks("two", "two alone"), "a", "b", tool="one")
    tasks += ask(memory, asks("one", "one alone"), "a", "b", tool="two")
    # Those who come second would close the circle, and load by themselves.
    assert await values(tasks) in (["one alone"] * 4, ["two alone"] * 4)


async def test_a_function_may_ask_for_other_keys_by_the_same_loader(make_cache: MakeCache) -> None:
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


async def test_a_function_may_ask_for_many_keys_at_once(memory: AgentCache) -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        found = await memory.kv.get_or_load_many([call["city"] for call in calls], bring)
        return [found[call["city"]] for call in calls]

    async def bring(keys: list[str]) -> list[Any]:
        results = [
            await memory.tool.get_or_load("weather", {"city": key}, lambda city: f"{city} alone") for key in keys
        ]
        return [result.value for result in results]

    loader = memory.tool.batch_loader(fn, window=0)
    assert await values(ask(memory, loader, "a", "b")) == ["a alone", "b alone"]


# Limits


async def test_max_loads_is_for_calls_of_the_function_and_not_for_collecting() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        fn = Fn()
        loader = cache.tool.batch_loader(fn, window=0)
        cities = [f"city {n}" for n in range(20)]
        assert await values(ask(cache, loader, *cities)) == [f"{city}!" for city in cities]
        assert fn.asked == [cities]


async def test_no_more_calls_of_the_function_run_at_once_than_max_loads() -> None:
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
        assert await values(ask(cache, loader, *map(str, range(30)))) == ["x"] * 30
    assert most == 2


async def test_while_it_waits_for_its_turn_a_batch_goes_on_collecting_until_it_is_full() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        blocking, fn = Fn(held=True), Fn()
        holding = ask(cache, cache.tool.batch_loader(blocking, window=0), "holding")
        await blocking.started.wait()
        loader = cache.tool.batch_loader(fn, window=0, max_size=2)
        tasks = ask(cache, loader, "a")
        await collected(loader, 1)
        await turns()
        tasks += ask(cache, loader, "b", "c")
        await turns()
        blocking.release()
        await values(holding + tasks)
        assert fn.asked == [["a", "b"], ["c"]]


async def test_the_results_of_a_batch_wait_for_no_turn() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        first, second = Fn(held=True), Fn(held=True)
        tasks = ask(cache, cache.tool.batch_loader(first, window=0), "a", "b")
        await first.started.wait()
        queued = ask(cache, cache.tool.batch_loader(second, window=0), "c")
        await turns()
        first.release()
        assert await values(tasks) == ["a!", "b!"]
        await second.started.wait()
        second.release()
        assert await values(queued) == ["c!"]


async def test_a_load_that_waits_for_a_batch_lends_it_its_turn_and_gets_it_back() -> None:
    async with AgentCache.in_memory(resilience=ResilienceOptions(max_loads=1)) as cache:
        fn, other = Fn(), Fn(held=True)
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
        # Who waited for a turn before the batch did has it first.
        await other.started.wait()
        await turns()
        assert fn.asked == []
        other.release()
        assert await values([outermost, queued]) == ["of a!", ["x!"]]


async def test_a_batch_that_takes_too_long_times_out_for_everyone(make_cache: MakeCache) -> None:
    cache = make_cache(resilience=ResilienceOptions(load_timeout=0.01))
    fn = Fn(held=True)
    loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=2)
    first = ask(cache, loader, "a")
    await collected(loader, 1)
    await asyncio.sleep(0.02)  # Collecting takes as long as it takes.
    for error in await values(first + ask(cache, loader, "b")):
        assert isinstance(error, TimeoutError)
        assert "load_timeout=0.01" in str(error)
    assert fn.cancelled == 1


async def test_a_call_with_a_timeout_of_its_own_hurts_nobody_else(memory: AgentCache) -> None:
    fn = Fn(held=True)
    loader = memory.tool.batch_loader(fn, window=0)

    async def impatient(city: str) -> Any:
        async with asyncio.timeout(0.01):
            return await loader(city=city)

    hurried, patient = ask(memory, impatient, "a"), ask(memory, loader, "b")
    (error,) = await values(hurried)
    assert isinstance(error, TimeoutError)
    fn.release()
    assert await values(patient) == ["b!"]
    assert fn.asked == [["a", "b"]]


# Lifecycle


async def test_closing_waits_for_a_batch_under_way_which_may_still_ask_the_cache() -> None:
    async def fn(calls: list[Any]) -> list[Any]:
        started.set()
        await go.wait()
        inner = await cache.tool.get_or_load("inner", {}, lambda: "inner")
        return [inner.value] * len(calls)

    started, go = asyncio.Event(), asyncio.Event()
    cache = AgentCache.in_memory()
    tasks = ask(cache, cache.tool.batch_loader(fn, window=0), "a", "b")
    await started.wait()
    closing = asyncio.create_task(cache.aclose())
    await turns()
    go.set()
    await closing
    assert await values(tasks) == ["inner", "inner"]


async def test_closing_ends_a_batch_that_does_not_end() -> None:
    fn = Fn(held=True)
    cache = AgentCache.in_memory(resilience=ResilienceOptions(drain_timeout=0.05))
    tasks = ask(cache, cache.tool.batch_loader(fn, window=0), "a", "b")
    await fn.started.wait()
    await cache.aclose()
    assert [type(value) for value in await values(tasks)] == [UsageError, UsageError]
    assert fn.cancelled == 1


def test_a_loader_made_without_a_loop_serves_one_loop_after_the_other(url: str) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        asked: list[int] = []

        async def fn(calls: list[Any]) -> list[str]:
            asked.append(len(calls))
            return [f"{call['city']}!" for call in calls]

        loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=2)

        async def use(*cities: str) -> list[Any]:
            return await values(ask(cache, loader, *cities))

        assert asyncio.run(use("a", "b")) == ["a!", "b!"]
        assert asyncio.run(use("c", "d")) == ["c!", "d!"]
        assert asked == [2, 2]

    in_thread(work)


def test_what_a_loop_left_behind_is_in_nobodys_batch() -> None:
    def work() -> None:
        cache = AgentCache.in_memory()
        loader = cache.tool.batch_loader(lambda calls: [len(calls)] * len(calls), window=FOR_EVER, max_size=2)
        left: list[asyncio.Task[Any]] = []

        async def leave() -> None:
            left.extend(ask(cache, loader, "a", mode="bypass"))
            await collected(loader, 1)

        async def use() -> list[Any]:
            return await values(ask(cache, loader, "b", "c"))

        # Closed as it is, by somebody who cancels nothing.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()
        assert asyncio.run(use()) == [2, 2]
        left[0]._log_destroy_pending = False  # type: ignore[attr-defined]

    in_thread(work)


async def test_making_a_loader_starts_nothing(memory: AgentCache) -> None:
    before = asyncio.all_tasks()
    memory.tool.batch_loader(Fn())
    await turns()
    assert asyncio.all_tasks() == before


BAD: dict[str, Callable[[AgentCache], object]] = {
    "fn": lambda cache: cache.tool.batch_loader("fn"),  # type: ignore[arg-type]
    "window": lambda cache: cache.tool.batch_loader(list, window=-0.001),
    "window, endless": lambda cache: cache.tool.batch_loader(list, window=float("inf")),
    "window, nan": lambda cache: cache.tool.batch_loader(list, window=float("nan")),
    "window, text": lambda cache: cache.tool.batch_loader(list, window="5ms"),  # type: ignore[arg-type]
    "window, bool": lambda cache: cache.kv.batch_loader(list, window=True),
    "max_size": lambda cache: cache.llm.batch_loader(list, max_size=0),
    "max_size, float": lambda cache: cache.tool.batch_loader(list, max_size=2.0),  # type: ignore[arg-type]
    "max_size, bool": lambda cache: cache.tool.batch_loader(list, max_size=True),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_argument_is_refused_at_once_and_named(memory: AgentCache, bad: str) -> None:
    with pytest.raises(UsageError, match=f"^{bad.split(',')[0]} must be"):
        BAD[bad](memory)
