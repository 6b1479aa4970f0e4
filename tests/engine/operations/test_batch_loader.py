"""Batch loaders: loads of single keys that one call of a function answers; a failure of one key fails no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import valkey

from tests.engine.operations.batch_callers import FOR_EVER, call_tool, outcomes_of, wait_for_batch
from tests.requests import ManyLoader, asking, turns
from tests.support import MakeCache, entry_keys, until
from tiercache import AgentCache, LlmResponse, TierOptions, UsageError

# Collecting


async def test_batch_loader_answers_100_concurrent_misses_by_one_call(cache: AgentCache, plain: valkey.Valkey) -> None:
    fn = ManyLoader()
    loader = cache.tool.batch_loader(fn, window=FOR_EVER, max_size=100)
    cities = [f"city {n}" for n in range(100)]
    assert await outcomes_of(call_tool(cache, loader, *cities)) == [f"{city}!" for city in cities]
    ((*asked,),) = fn.asked
    assert sorted(asked) == sorted(cities)
    counters = cache.local_stats().tiers["tool"]
    assert (counters.loads, counters.misses, counters.load_errors) == (100, 100, 0)
    await cache.flush_writes()
    assert len(entry_keys(plain)) == 100
    cache.clear_l1()
    results = [await cache.tool.get_or_load("weather", {"city": city}, loader) for city in cities]
    assert {result.source for result in results} == {"l2"}


async def test_batch_loader_without_window_batches_calls_of_one_loop_step_in_order(memory: AgentCache) -> None:
    fn = ManyLoader()
    loader = memory.tool.batch_loader(fn, window=0)
    assert await outcomes_of(call_tool(memory, loader, "c", "a", "b", "a")) == ["c!", "a!", "b!", "a!"]
    assert fn.asked == [["c", "a", "b"]]


async def test_batch_loader_collects_calls_until_window_ends(memory: AgentCache) -> None:
    fn = ManyLoader()
    loader = memory.tool.batch_loader(fn, window=0.3)
    first = call_tool(memory, loader, "a")
    await wait_for_batch(loader, 1)
    second = call_tool(memory, loader, "b")
    assert await outcomes_of(first + second) == ["a!", "b!"]
    assert fn.asked == [["a", "b"]]


async def test_batch_loader_calls_function_at_once_when_batch_is_full(memory: AgentCache) -> None:
    fn = ManyLoader()
    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=2)
    tasks = call_tool(memory, loader, "a", "b", "c")
    await fn.started.wait()
    await wait_for_batch(loader, 1)
    tasks += call_tool(memory, loader, "d")
    assert await outcomes_of(tasks) == ["a!", "b!", "c!", "d!"]
    assert fn.asked == [["a", "b"], ["c", "d"]]


async def test_batch_loader_runs_batches_concurrently_when_one_is_slow(memory: AgentCache) -> None:
    slow, quick = ManyLoader(held=True), ManyLoader()
    loader = memory.tool.batch_loader(lambda calls: (slow if calls[0]["city"] == "slow" else quick)(calls), window=0)
    waiting = call_tool(memory, loader, "slow")
    await slow.started.wait()
    assert await outcomes_of(call_tool(memory, loader, "next")) == ["next!"]
    assert await outcomes_of(call_tool(memory, memory.tool.batch_loader(quick, window=0), "other")) == ["other!"]
    slow.release()
    assert await outcomes_of(waiting) == ["slow!"]


async def test_batch_loader_separates_equal_args_of_tools_and_modes(memory: AgentCache) -> None:
    fn = ManyLoader()
    loader = memory.tool.batch_loader(fn, window=FOR_EVER, max_size=3)
    tasks = call_tool(memory, loader, "a") + call_tool(memory, loader, "a", tool="forecast")
    tasks += call_tool(memory, loader, "a", mode="bypass")
    assert await outcomes_of(tasks) == ["a!"] * 3
    assert fn.asked == [["a"] * 3]


async def test_batch_loader_passes_copy_of_args_to_function(memory: AgentCache) -> None:
    def spoil(calls: list[dict[str, Any]]) -> list[str]:
        cities = [call.pop("city") for call in calls]
        calls.clear()
        return [f"{city}!" for city in cities]

    loader = memory.tool.batch_loader(spoil, window=0)
    given = {"city": "a"}
    tasks = [asyncio.create_task(memory.tool.get_or_load("weather", given, loader)), *call_tool(memory, loader, "b")]
    assert await outcomes_of(tasks) == ["a!", "b!"]
    assert given == {"city": "a"}
    assert (await memory.tool.check("weather", given)).hit


@pytest.mark.parametrize("args", [None, {}])
async def test_batch_loader_passes_empty_mapping_for_call_without_args(memory: AgentCache, args: Any) -> None:
    loader = memory.tool.batch_loader(lambda calls: [repr(call) for call in calls], window=0)
    assert (await memory.tool.get_or_load("now", args, loader)).value == "{}"


async def test_batch_loader_accepts_args_of_any_name(memory: AgentCache) -> None:
    loader = memory.tool.batch_loader(lambda calls: calls, window=0)
    args = {"self": 1, "argument": 2, "batch": 3}
    assert (await memory.tool.get_or_load("any", args, loader)).value == args


async def test_batch_loader_runs_function_in_context_of_first_call(memory: AgentCache) -> None:
    async def caller(name: str) -> Any:
        of.set(name)
        return (await memory.tool.get_or_load("weather", {"city": name}, loader)).value

    of: ContextVar[str] = ContextVar("of")
    loader = memory.tool.batch_loader(lambda calls: [of.get()] * len(calls), window=FOR_EVER, max_size=2)
    assert await asyncio.gather(caller("a"), caller("b")) == ["a", "a"]


# Results


async def test_batch_loader_raises_exception_result_for_its_key_alone(cache: AgentCache, plain: valkey.Valkey) -> None:
    loader = cache.tool.batch_loader(ManyLoader(failing=("b",)), window=FOR_EVER, max_size=3)
    a, b, c = await outcomes_of(call_tool(cache, loader, "a", "b", "c"))
    assert (a, c) == ("a!", "c!")
    assert isinstance(b, KeyError)
    await cache.flush_writes()
    await until(lambda: len(entry_keys(plain)) == 2)
    assert not (await cache.tool.check("weather", {"city": "b"})).hit
    counters = cache.local_stats().tiers["tool"]
    assert (counters.loads, counters.load_errors) == (3, 1)


async def test_batch_loader_raises_stop_iteration_result_for_its_key_alone(memory: AgentCache) -> None:
    loader = memory.tool.batch_loader(lambda calls: [StopIteration(), "b!"], window=0)
    a, b = await outcomes_of(call_tool(memory, loader, "a", "b"))
    assert isinstance(a, RuntimeError)
    assert b == "b!"


async def test_batch_loader_raises_error_of_function_for_every_key(memory: AgentCache) -> None:
    error = OSError("down")

    async def broken(calls: list[Any]) -> list[Any]:
        raise error

    loader = memory.tool.batch_loader(broken, window=0)
    assert await outcomes_of(call_tool(memory, loader, "a", "b")) == [error, error]
    fn = ManyLoader()
    assert await outcomes_of(call_tool(memory, memory.tool.batch_loader(fn, window=0), "a", "b")) == ["a!", "b!"]
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
async def test_batch_loader_refuses_results_that_do_not_match_calls(
    memory: AgentCache, returned: Any, message: str
) -> None:
    loader = memory.tool.batch_loader(lambda calls: returned, window=0)
    for error in await outcomes_of(call_tool(memory, loader, "a", "b")):
        assert isinstance(error, UsageError)
        assert message in str(error)
    assert not (await memory.tool.check("weather", {"city": "a"})).hit


async def test_batch_loader_returns_result_that_is_not_json_and_stores_the_others(memory: AgentCache) -> None:
    no_json = object()
    loader = memory.tool.batch_loader(lambda calls: (no_json, "b!"), window=0)
    assert await outcomes_of(call_tool(memory, loader, "a", "b")) == [no_json, "b!"]
    assert not (await memory.tool.check("weather", {"city": "a"})).hit
    assert (await memory.tool.check("weather", {"city": "b"})).hit


async def test_batch_loader_stores_each_key_with_its_own_options(make_cache: MakeCache) -> None:
    seen: list[Any] = []
    cache = make_cache(tool=TierOptions(store_when=lambda value: seen.append(value) or value != "b!"))
    loader = cache.tool.batch_loader(ManyLoader(), window=FOR_EVER, max_size=3)
    tasks = call_tool(cache, loader, "a", ttl=60, cost=0.5, tags=["x"]) + call_tool(cache, loader, "b", "c")
    assert await outcomes_of(tasks) == ["a!", "b!", "c!"]
    assert sorted(seen) == ["a!", "b!", "c!"]
    results = [await cache.tool.check("weather", {"city": city}) for city in "abc"]
    assert [result.hit for result in results] == [True, False, True]
    assert (results[0].cost, results[2].cost) == (0.5, None)
    assert results[0].ttl is not None
    assert results[2].ttl is None
    assert await cache.invalidate_tag("x") == 1


async def test_batch_loader_keeps_changed_key_of_batch_unstored(memory: AgentCache) -> None:
    fn = ManyLoader(held=True)
    loader = memory.tool.batch_loader(fn, window=0)
    tasks = call_tool(memory, loader, "a", "b")
    await fn.started.wait()
    await memory.tool.invalidate("weather", {"city": "a"})
    fn.release()
    assert await outcomes_of(tasks) == ["a!", "b!"]
    assert not (await memory.tool.check("weather", {"city": "a"})).hit
    assert (await memory.tool.check("weather", {"city": "b"})).hit


async def test_batch_loader_serves_kv_and_llm_tiers(memory: AgentCache) -> None:
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


async def test_batch_loader_starts_no_task_before_first_call(memory: AgentCache) -> None:
    before = asyncio.all_tasks()
    memory.tool.batch_loader(ManyLoader())
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
async def test_batch_loader_refuses_bad_argument_by_name(memory: AgentCache, bad: str) -> None:
    with pytest.raises(UsageError, match=f"^{bad.split(',')[0]} must be"):
        BAD[bad](memory)
