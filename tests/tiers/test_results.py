"""Results of all tiers: equality and hash do not depend on what a caller has read; copies are results of their own."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tests.requests import HELLO, asking
from tiercache import AgentCache, KvResult, LlmResponse, LlmResult, ToolResult
from tiercache.testing import FakeClock
from tiercache.tiers.result import Result, TextResult

BLOCKS = [{"type": "text", "text": "Hi"}]
TOKENS = {"input": 1, "output": 2}

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda result: pickle.loads(pickle.dumps(result)),
}


async def every_result() -> list[Result]:
    """Return results of all tiers, of each source and with each kind of value; every call returns equal ones."""
    clock = FakeClock()
    async with AgentCache.in_memory(clock=clock.clock) as cache:
        llm, tool, kv = cache.llm, cache.tool, cache.kv
        answer = LlmResponse("Hi", content_blocks=BLOCKS, tokens=TOKENS)
        await llm.store(asking("x"), "Hi", tokens=TOKENS)
        await tool.store("t", {}, [1])
        return [
            await llm.get_or_load(HELLO, lambda: answer),
            await llm.get_or_load(HELLO, lambda: answer),
            await llm.check(asking("x")),
            await llm.check(asking("unknown")),
            await tool.get_or_load("t", {"a": 1}, lambda a: {"a": [a]}, cost=0.5),
            await tool.check("t", {"a": 1}),
            await tool.check("t", {}),
            await tool.check("t", {"a": 2}),
            await tool.get_or_load("t", {"a": 3}, lambda a: "text"),
            await tool.get_or_load("t", {"a": 4}, lambda a: math.nan),
            await kv.get_or_load("k", lambda: {"a": [1]}),
            await kv.get_or_load("k", lambda: {"a": [1]}),
            await kv.get_or_load("none", lambda: None),
            await kv.get_or_load("bytes", lambda: b"x"),
            await kv.get_or_load("nan", lambda: math.nan),
            await kv.get_or_load("unknown", lambda: None, mode="only_cached"),
            await llm.get_or_load(asking("half a pair"), lambda: "\ud83d"),
            await tool.get_or_load("t", {"a": 5}, lambda a: ["\ud83d"]),
            await kv.get_or_load("half a pair", lambda: ["\ud83d"]),
        ]


def read(result: Any) -> dict[str, Any]:
    """Read every attribute of a result, as a caller may."""
    cls = type(result)
    names = [name for name in dir(cls) if not name.startswith("_") and not callable(getattr(cls, name))]
    return {name: getattr(result, name) for name in names}


async def test_results_of_every_class_are_tested() -> None:
    classes = {type(result) for result in await every_result()}
    assert classes == {*Result.__subclasses__(), *TextResult.__subclasses__()} - {TextResult}
    assert classes == {LlmResult, ToolResult, KvResult}


async def test_result_stays_equal_and_keeps_its_hash_when_its_attributes_are_read() -> None:
    for result, unread in zip(await every_result(), await every_result(), strict=True):
        before = hash(result)
        results = {result}
        attributes = read(result)
        assert hash(result) == hash(unread) == before
        assert result in results
        assert result == result
        if not any(value != value for value in attributes.values()):  # A NaN equals no other NaN.
            assert result == unread
        assert repr(result) == repr(unread)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("is_read", [False, True])
async def test_result_equals_its_copies(copied: Callable[[Any], Any], is_read: bool) -> None:
    for result in await every_result():
        if is_read:
            read(result)
        other = copied(result)
        assert type(other) is type(result)
        assert hash(other) == hash(result)
        assert repr(other) == repr(result)
        if not any(value != value for value in read(result).values()):
            assert other == result
            assert read(other) == read(result)


async def test_result_is_unequal_if_one_attribute_differs() -> None:
    results = await every_result()
    for place, result in enumerate(results):
        for other in results[place + 1 :]:
            assert result != other


async def test_result_shares_no_value_with_its_copies() -> None:
    for result in await every_result():
        if isinstance(result, ToolResult | KvResult) and isinstance(result.value, dict):
            other = copy.deepcopy(result)
            other.value["a"].append(2)
            assert result.value == {"a": [1]}


async def test_results_of_kv_have_no_text() -> None:
    result: Any = (await every_result())[10]
    with pytest.raises(AttributeError, match="no attribute 'response'"):
        result.response  # noqa: B018


async def test_result_of_a_generic_class_has_no_dict() -> None:
    result = (await every_result())[10]
    assert type(result) is KvResult
    assert not hasattr(result, "__dict__")
