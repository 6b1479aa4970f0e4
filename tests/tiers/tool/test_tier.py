"""The tool tier: any JSON value, keyed by tool name and arguments in any order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import Loader
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, LlmOptions, TierOptions, UsageError

SOFIA = {"city": "Sofia", "units": "metric"}


@pytest.mark.parametrize(
    ("value", "response", "comes_back"),
    [
        ("text", "text", "text"),
        ('{"temp": 21}', '{"temp": 21}', '{"temp": 21}'),
        ("", "", ""),
        ({"b": 1, "a": [None, True]}, '{"b":1,"a":[null,true]}', {"b": 1, "a": [None, True]}),
        (None, "null", None),
        (False, "false", False),
        (0, "0", 0),
        (1.0, "1.0", 1.0),
        (float("inf"), "Infinity", float("inf")),
        ((1, 2), "[1,2]", [1, 2]),
    ],
)
async def test_tool_returns_any_json_value_from_every_source(
    cache: AgentCache, value: Any, response: str, comes_back: Any
) -> None:
    results = [await cache.tool.get_or_load("t", SOFIA, lambda: value), await cache.tool.check("t", SOFIA)]
    await cache.flush_writes()
    cache.clear_l1()
    results.append(await cache.tool.check("t", SOFIA))
    assert [result.source for result in results] == ["loader", "l1", "l2"]
    for result in results:
        assert (result.response, result.value) == (response, comes_back)
        assert type(result.value) is type(comes_back)


async def test_tool_returns_value_of_its_own_to_each_caller(cache: AgentCache) -> None:
    value = {"rows": [1, 2]}
    first = await cache.tool.get_or_load("t", SOFIA, lambda: value)
    value["rows"].append(3)
    first.value["rows"].clear()
    assert (await cache.tool.check("t", SOFIA)).value == {"rows": [1, 2]}


async def get_weather(city: str, units: str = "metric") -> str:
    return f"{city} in {units}"


@pytest.mark.parametrize(
    ("args", "loader", "expected"),
    [
        ({"city": "Sofia"}, get_weather, "Sofia in metric"),
        ({"city": "Sofia", "units": "F"}, lambda **given: sorted(given), ["city", "units"]),
        ({"city": "Sofia"}, lambda: "nothing", "nothing"),
        (None, lambda: "nothing", "nothing"),
        ([1, 2], lambda: "a list", "a list"),
        ({"city": "Sofia"}, lambda city: asyncio.to_thread(lambda: city), "Sofia"),
    ],
)
async def test_tool_calls_loader_with_args_as_keywords(
    cache: AgentCache, args: Any, loader: Any, expected: Any
) -> None:
    assert (await cache.tool.get_or_load("get_weather", args, loader)).value == expected


async def test_tool_load_is_unstored_when_args_change_during_load(cache: AgentCache) -> None:
    args = {"query": {"n": 1}}
    loader = Loader(held=True)
    loading = asyncio.create_task(cache.tool.get_or_load("t", args, loader))
    await loader.started.wait()
    args["query"]["n"] = 2
    loader.release()
    assert (await loading).value == "answer"
    await cache.flush_writes()
    for n in (1, 2):
        assert not (await cache.tool.check("t", {"query": {"n": n}})).hit


class Named(str):
    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "a:b"

    def __str__(self) -> str:
        return "something else"


async def test_tool_uses_text_of_str_subclass_as_name(cache: AgentCache) -> None:
    key = await cache.tool.store(Named("search"), {}, "x")
    assert key.startswith("test:tool:search:")
    assert await cache.tool.invalidate_by_tool("search") == 1
    assert not (await cache.tool.check(Named("search"), {})).hit


async def test_tool_key_ignores_order_and_respects_types_of_args(cache: AgentCache) -> None:
    await cache.tool.store("t", {"a": 1, "b": {"c": 2, "d": 3}}, "x")
    assert (await cache.tool.check("t", {"b": {"d": 3, "c": 2}, "a": 1})).hit
    for other in ({"a": 1.0, "b": {"c": 2, "d": 3}}, {"a": True, "b": {"c": 2, "d": 3}}, {"a": 1}, None):
        assert not (await cache.tool.check("t", other)).hit
    assert not (await cache.tool.check("u", {"a": 1, "b": {"c": 2, "d": 3}})).hit
    await cache.tool.store("t", None, "none")
    assert (await cache.tool.check("t", {})).response == "none"


@pytest.mark.parametrize(("cost", "stored"), [(None, None), (0, 0), (1, 1), (0.25, 0.25)])
async def test_tool_stores_cost_as_given(cache: AgentCache, plain: valkey.Valkey, cost: Any, stored: Any) -> None:
    result = await cache.tool.get_or_load("t", SOFIA, lambda: "x", cost=cost)
    assert result.cost == cost
    await cache.flush_writes()
    assert json.loads(plain.get(result.key)).get("cost") == stored


async def test_tool_invalidate_by_tool_leaves_other_tools(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    for tool in ("search", "search2", "se*rch"):
        for n in range(3):
            await cache.tool.store(tool, {"n": n}, "x")
    assert await cache.tool.invalidate("search", {"n": 0})
    assert not await cache.tool.invalidate("search", {"n": 0})
    assert await cache.tool.invalidate_by_tool("search") == 2
    assert not (await cache.tool.check("search", {"n": 1})).hit
    assert (await cache.tool.check("search2", {"n": 1})).source == "l1"
    assert await cache.tool.invalidate_by_tool("se*rch") == 3
    assert await cache.tool.clear() == 3
    assert len(entry_keys(plain)) == 0


async def test_tool_clear_leaves_llm_tier(cache: AgentCache) -> None:
    llm = {"model": "m", "messages": []}
    await cache.llm.store(llm, "x")
    await cache.tool.store("t", SOFIA, "x")
    assert await cache.tool.clear() == 1
    assert (await cache.llm.check(llm)).source == "l1"


async def test_tool_cancels_abandoned_load(cache: AgentCache) -> None:
    loader = Loader(held=True)
    task = asyncio.create_task(cache.tool.get_or_load("t", None, loader))
    await loader.started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert loader.cancelled == 1


CALLS: dict[str, Callable[[AgentCache, Any, Any], Awaitable[Any]]] = {
    "check": lambda cache, tool, args: cache.tool.check(tool, args),
    "store": lambda cache, tool, args: cache.tool.store(tool, args, "x"),
    "get_or_load": lambda cache, tool, args: cache.tool.get_or_load(tool, args, lambda: "x"),
    "invalidate": lambda cache, tool, args: cache.tool.invalidate(tool, args),
}


@pytest.mark.parametrize("tool", ["", "a:b", ":", None, 5, "\ud800"])
async def test_tool_refuses_bad_name_in_every_method(cache: AgentCache, plain: valkey.Valkey, tool: Any) -> None:
    for call in (*CALLS.values(), lambda cache, tool, args: cache.tool.invalidate_by_tool(tool)):
        with pytest.raises(UsageError, match="tool "):
            await call(cache, tool, {})
    assert len(entry_keys(plain)) == 0


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("args", [{"a": {1}}, b"x", object(), {"a": "\udc00"}, {1: 1, "a": 2}])
async def test_tool_refuses_args_that_are_not_json(
    cache: AgentCache, plain: valkey.Valkey, method: str, args: Any
) -> None:
    with pytest.raises(UsageError, match="args"):
        await CALLS[method](cache, "t", args)
    assert len(entry_keys(plain)) == 0


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), "1", True])
async def test_tool_refuses_cost_that_is_no_amount(cache: AgentCache, plain: valkey.Valkey, cost: Any) -> None:
    for call in (
        lambda: cache.tool.store("t", {}, "x", cost=cost),
        lambda: cache.tool.get_or_load("t", {}, lambda: "x", cost=cost),
    ):
        with pytest.raises(UsageError, match="cost must be"):
            await call()
    assert len(entry_keys(plain)) == 0


@pytest.mark.parametrize("value", [{1}, b"x", object(), "\ud800"])
async def test_tool_refuses_result_that_is_not_json(cache: AgentCache, plain: valkey.Valkey, value: Any) -> None:
    with pytest.raises(UsageError, match="response"):
        await cache.tool.store("t", {}, value)
    assert len(entry_keys(plain)) == 0


async def test_tool_refuses_positional_args_for_loader_with_parameters(cache: AgentCache) -> None:
    with pytest.raises(UsageError, match="mapping of keyword arguments"):
        await cache.tool.get_or_load("t", [1, 2], lambda a: "x")


@pytest.mark.parametrize("options", [LlmOptions(ignore=("a",)), LlmOptions(key=lambda params: params)])
def test_tool_refuses_options_of_llm_tier(options: TierOptions) -> None:
    with pytest.raises(UsageError, match="tool must be a TierOptions, not a LlmOptions: ignore and key"):
        AgentCache.in_memory(tool=options)


@pytest.mark.parametrize(
    "junk",
    [b"junk", b"[]", b"null", b'{"response":"x"}', b'{"response":"x","toolName":"t","storedAt":1,"cost":"abc"}',
     b'{"response":"x","toolName":5,"storedAt":1}', b'{"response":"x","toolName":"t","storedAt":1,"json":5}',
     b"\xff", b'{"response":"not json","toolName":"t","storedAt":1,"json":true}'],
)  # fmt: skip
async def test_tool_counts_undecodable_entry_as_miss_and_replaces_it(
    cache: AgentCache, plain: valkey.Valkey, junk: bytes
) -> None:
    key = (await cache.tool.check("t", SOFIA)).key
    plain.set(key, junk)
    result = await cache.tool.check("t", SOFIA)
    assert not result.hit
    assert result.value is None
    assert (await cache.tool.get_or_load("t", SOFIA, lambda: "repaired")).response == "repaired"
    await cache.flush_writes()
    assert json.loads(plain.get(key))["response"] == "repaired"
