"""Key handles: keys that callers keep and pass instead of a request."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.requests import HELLO, Loader, asking
from tests.seams import tier_counters
from tiercache import AgentCache, LlmKey, LlmOptions, ToolKey, ToolPolicy, UsageError

ARGS = {"unit": "C", "city": "Sofia"}


async def test_key_handle_replaces_the_params_in_every_method(cache: AgentCache) -> None:
    key = cache.llm.key(HELLO)
    assert isinstance(key, LlmKey)
    assert await cache.llm.store(key, "Hi") == key.key == str(key)
    assert (await cache.llm.check(HELLO)).response == "Hi"
    assert (await cache.llm.check(key)).source == "l1"
    assert (await cache.llm.explain(key)).source == "l1"
    assert await cache.llm.invalidate(key)
    await cache.llm.store_multipart(key, [{"type": "text", "text": "Hello"}])
    async with cache.llm.invalidates(key):
        assert not (await cache.llm.check(HELLO)).hit
    loader = Loader("loaded")
    assert (await cache.llm.get_or_load(key, loader)).source == "loader"
    assert (await cache.llm.get_or_load(key, loader)).source == "l1"
    await cache.flush_writes()
    cache.clear_l1()
    assert (await cache.llm.check(key)).source == "l2"
    assert await cache.llm.invalidate_by_model("gpt-4o") == 1
    assert loader.calls == 1


async def test_key_handle_replaces_tool_and_args_in_every_method(cache: AgentCache) -> None:
    key = cache.tool.key("weather", ARGS)
    assert isinstance(key, ToolKey)
    assert await cache.tool.store(key, "21") == key.key == str(key)
    assert (await cache.tool.check("weather", ARGS)).response == "21"
    assert (await cache.tool.check(key)).source == "l1"
    assert (await cache.tool.explain(key)).source == "l1"
    assert await cache.tool.invalidate(key)
    assert (await cache.tool.get_or_load(key, lambda: "22")).source == "loader"
    async with cache.tool.invalidates(key):
        assert not (await cache.tool.check("weather", ARGS)).hit


async def test_loader_of_a_key_handle_is_called_with_new_args_each_time(cache: AgentCache) -> None:
    args = {"city": "Sofia", "days": [1, 2]}
    key = cache.tool.key("weather", args)
    args["days"] = [3]

    def load(city: str, days: list[int]) -> list[int]:
        days.append(9)
        return days

    for _ in range(2):
        assert (await cache.tool.get_or_load(key, load, mode="refresh")).value == [1, 2, 9]
    assert (await cache.tool.check("weather", {"city": "Sofia", "days": [1, 2]})).value == [1, 2, 9]


@pytest.mark.parametrize("args", [ARGS, None, {}, {"b": 1, "a": (1, 2)}, {"t": "x" * 1000}])
async def test_key_handle_stores_the_same_bytes_as_its_args(cache: AgentCache, plain: Any, args: Any) -> None:
    name = await cache.tool.store("t", args, "result", ttl=100)
    by_args = plain.get(name).split(b',"storedAt"')[0]
    await cache.tool.store(cache.tool.key("t", copy.deepcopy(args)), "result")
    assert plain.get(name).split(b',"storedAt"')[0] == by_args


async def test_key_handle_stays_the_same_when_its_request_changes(cache: AgentCache) -> None:
    request = asking("one")
    key = cache.llm.key(request)
    request["messages"][0]["content"] = "another"
    await cache.llm.store(key, "answer")
    assert (await cache.llm.check(asking("one"))).response == "answer"
    assert not (await cache.llm.check(request)).hit


@pytest.mark.parametrize("loader", [lambda params: "x", lambda params, *, more=1: "x"])
async def test_key_handle_refuses_a_loader_that_takes_the_params(cache: AgentCache, loader: Any) -> None:
    with pytest.raises(UsageError, match="no params to call it with"):
        await cache.llm.get_or_load(cache.llm.key(HELLO), loader)
    assert cache.local_stats().tiers["llm"].loads == 0


async def test_key_handle_of_another_cache_or_tier_is_refused(
    cache: AgentCache, make_cache: Callable[..., AgentCache]
) -> None:
    llm: Any = cache.llm.key(HELLO)
    tool: Any = cache.tool.key("t", ARGS)
    for other in (make_cache(name="other"), make_cache(name="test")):
        for call in (
            lambda other=other: other.llm.check(llm),
            lambda other=other: other.llm.get_or_load(llm, lambda: "x"),
            lambda other=other: other.llm.store(llm, "x"),
            lambda other=other: other.llm.invalidate(llm),
            lambda other=other: other.tool.check(tool),
            lambda other=other: other.tool.store(tool, "x"),
        ):
            with pytest.raises(UsageError, match="another cache"):
                await call()
        with pytest.raises(UsageError, match="another cache"):
            other.llm.invalidates(llm)
    for call in (lambda: cache.llm.check(tool), lambda: cache.tool.check(llm), lambda: cache.tool.check(llm, {})):
        with pytest.raises(UsageError):
            await call()
    with pytest.raises(UsageError):
        await cache.kv.get(llm)


async def test_tool_key_requires_args_with_a_name_and_refuses_args_with_a_key_handle(cache: AgentCache) -> None:
    tool: Any = cache.tool
    key = tool.key("t", ARGS)
    for call in (
        lambda: tool.check(key, ARGS),
        lambda: tool.check("t"),
        lambda: tool.get_or_load("t", lambda: 1),
        lambda: tool.get_or_load(key, ARGS, lambda: 1),
        lambda: tool.store("t", ARGS),
        lambda: tool.store(key, ARGS, "x"),
    ):
        with pytest.raises(UsageError, match="must"):
            await call()


@pytest.mark.parametrize("bad", [5, None, {"messages": []}, {"model": "m", "messages": {1}}])
def test_key_handle_is_refused_for_a_bad_request(bad: Any) -> None:
    with pytest.raises(UsageError):
        AgentCache.in_memory().llm.key(bad)


def test_key_handle_is_immutable_and_equals_the_handle_of_an_equal_request() -> None:
    cache = AgentCache.in_memory()
    key = cache.llm.key(HELLO)
    with pytest.raises(AttributeError):
        key.key = "another"  # type: ignore[misc]
    assert key == AgentCache.in_memory().llm.key(HELLO)
    assert len({key, cache.llm.key(copy.deepcopy(HELLO)), cache.llm.key(asking("x"))}) == 2
    assert repr(key) == f"LlmKey('{key.key}')"


async def test_tool_policy_holds_for_a_key_handle_made_before_it(cache: AgentCache) -> None:
    key = cache.tool.key("t", ARGS)
    assert (await cache.tool.get_or_load(key, lambda: 1)).ttl is None
    await cache.tool.set_policy("t", ToolPolicy(ttl=600))
    assert 590 < ((await cache.tool.get_or_load(key, lambda: 1, mode="refresh")).ttl or 0) <= 600
    assert 590 < ((await cache.tool.get_or_load("t", ARGS, lambda: 1, mode="refresh")).ttl or 0) <= 600


async def test_tags_and_ttl_hold_for_one_call_with_a_key_handle(cache: AgentCache) -> None:
    key = cache.llm.key(HELLO)
    await cache.llm.store(key, "tagged", ttl=100, tags=["a"])
    await cache.llm.store(key, "not")
    assert await cache.invalidate_tag("a") <= 1
    await cache.llm.store(key, "not")
    result = await cache.llm.check(HELLO)
    assert (result.response, result.ttl) == ("not", None)


async def test_lookups_of_models_that_share_an_entry_are_counted_by_model() -> None:
    calls = 0

    def any_model(params: Any) -> Any:
        nonlocal calls
        calls += 1
        return {**params, "model": "any"}

    async with AgentCache.in_memory(llm=LlmOptions(key=any_model)) as cache:
        await cache.llm.store(asking("x", model="a"), "answer")
        for model in ("a", "b", "b", "a", "b"):
            assert (await cache.llm.check(asking("x", model=model))).hit
        book = dict(tier_counters(cache.llm).items())
        assert (book["a"].l1_hits, book["b"].l1_hits) == (2, 3)
        assert calls == 6  # The function may return another key each time.


async def test_key_function_is_called_again_for_every_request() -> None:
    suffix = "one"

    def impure(params: Any) -> Any:
        return {**params, "suffix": suffix}

    async with AgentCache.in_memory(llm=LlmOptions(key=impure, ignore=("user",))) as cache:
        await cache.llm.store(HELLO, "answer")
        assert (await cache.llm.check({**HELLO, "user": "x"})).hit
        suffix = "two"
        assert not (await cache.llm.check(HELLO)).hit
