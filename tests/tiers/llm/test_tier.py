"""The llm tier: the stored bytes, the returned parts of an answer, and results of their own for each caller."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import weakref
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, LlmResponse, ModelPrice
from tiercache.testing import FakeClock

BLOCKS = [{"type": "text", "text": "Hi "}, {"type": "tool_call", "id": "1", "name": "n", "args": {"a": [1, 2]}}]
TOKENS = {"input": 10, "output": 50, "details": {"cached": 7}}


async def test_llm_returns_every_part_of_answer_from_every_source(cache: AgentCache) -> None:
    answer = LlmResponse("Hi", content_blocks=BLOCKS, tokens=TOKENS)
    loaded = await cache.llm.get_or_load(HELLO, Loader(answer))
    near = await cache.llm.check(HELLO)
    await cache.flush_writes()
    cache.clear_l1()
    far = await cache.llm.check(HELLO)
    assert [r.source for r in (loaded, near, far)] == ["loader", "l1", "l2"]
    for result in (loaded, near, far):
        assert (result.response, result.content_blocks, result.tokens) == ("Hi", BLOCKS, TOKENS)
        assert result.cost == pytest.approx(0.000525)
        assert result.key.startswith("test:llm:")
        assert result.age is not None
        assert result.age < 60


async def test_llm_miss_contains_only_its_key(cache: AgentCache) -> None:
    result = await cache.llm.check(HELLO)
    assert (result.hit, result.response, result.source, result.degraded, result.stale) == (
        False, None, None, False, False,
    )  # fmt: skip
    assert result.tokens is result.content_blocks is result.cost is result.age is result.ttl is None
    assert repr(result).startswith("LlmResult(hit=False, response=None, key='test:llm:")


async def test_llm_joins_text_blocks_to_response(cache: AgentCache) -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, {"type": "text"}]
    await cache.llm.store_multipart(HELLO, blocks)
    result = await cache.llm.check(HELLO)
    assert (result.response, result.content_blocks) == ("ab", blocks)
    loaded = await cache.llm.get_or_load(asking("x"), Loader(LlmResponse(None, blocks)))
    assert loaded.response == "ab"


@pytest.mark.parametrize("source", ["loader", "l1", "l2"])
async def test_llm_result_changed_by_caller_leaves_other_results(cache: AgentCache, source: str) -> None:
    async def get() -> Any:
        return await cache.llm.get_or_load(HELLO, Loader(LlmResponse("Hi", content_blocks=BLOCKS, tokens=TOKENS)))

    if source != "loader":
        await get()
    if source == "l2":
        await cache.flush_writes()
        cache.clear_l1()
    results = await asyncio.gather(get(), get())
    assert results[0].source == source
    for result in results:
        assert result.content_blocks == BLOCKS
        assert result.tokens == TOKENS
        result.content_blocks[1]["args"]["a"].append("changed")
        result.content_blocks.clear()
        result.tokens["details"]["cached"] = "changed"
        assert result.content_blocks == []  # The caller sees its own changes.
    again = await get()
    assert (again.content_blocks, again.tokens) == (BLOCKS, TOKENS)
    with pytest.raises(AttributeError):
        again.response = "changed"


class WatchedMapping(dict[str, Any]):
    """A mapping that a weak reference can watch."""

    __slots__ = ("__weakref__",)


class WatchedText(str):
    """A text that a weak reference can watch."""

    __slots__ = ("__weakref__",)

    def __str__(self) -> str:
        return "something else"


async def test_llm_keeps_no_object_of_caller(cache: AgentCache) -> None:
    async def use() -> list[weakref.ref[Any]]:
        params = WatchedMapping(HELLO, user=WatchedMapping(name="alice"), model=WatchedText("gpt-4o"))
        block, tokens, text = WatchedMapping(type="text", text="Hi"), WatchedMapping(input=1), WatchedText("Hi")
        await cache.llm.store(params, text, tokens=tokens)
        await cache.llm.get_or_load(params, lambda: LlmResponse(text, [block], tokens), mode="refresh")
        await cache.llm.check(params)
        return [weakref.ref(item) for item in (params, params["user"], params["model"], block, tokens, text)]

    kept = await use()
    await cache.flush_writes()
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
    assert (await cache.llm.check(WatchedMapping(HELLO, user={"name": "alice"}))).response == "Hi"


async def test_llm_load_is_unstored_when_params_change_during_load(cache: AgentCache) -> None:
    """It is unknown which of the two requests the loader has read."""
    params = asking("before")
    loader = Loader(held=True)
    waiting = asyncio.create_task(cache.llm.get_or_load(params, loader))
    await loader.started.wait()
    params["messages"][0]["content"] = "after"
    loader.release()
    assert (await waiting).response == "answer"
    await cache.flush_writes()
    assert not (await cache.llm.check(asking("before"))).hit
    assert not (await cache.llm.check(asking("after"))).hit


async def test_llm_load_is_unstored_when_loader_changes_params(cache: AgentCache) -> None:
    def load(params: Any) -> str:
        params.pop("model")
        return "x"

    assert (await cache.llm.get_or_load(asking("x"), load)).response == "x"
    assert not (await cache.llm.check(asking("x"))).hit


async def test_llm_returns_empty_answer_as_hit(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "")
    cache.clear_l1()
    result = await cache.llm.check(HELLO)
    assert (result.hit, result.response) == (True, "")


async def test_llm_invalidate_returns_whether_entry_existed(make_cache: MakeCache) -> None:
    one, other = make_cache(), make_cache()
    await one.llm.store(HELLO, "x")
    assert await other.llm.invalidate(HELLO)
    assert not await other.llm.invalidate(HELLO)


async def test_llm_invalidate_by_model_leaves_other_models(cache: AgentCache, plain: valkey.Valkey) -> None:
    for n in range(1500):
        plain.set(f"test:llm:foreign-{n}", b'{"response":"x","model":"m1","storedAt":1}')
    for model, count in (("gpt-4o", 3), ("gpt-4o-mini", 2)):
        for n in range(count):
            await cache.llm.store(asking(str(n), model=model), "x")
    plain.set("test:llm:junk", "junk")
    plain.hset("test:llm:hash", "a", "b")
    assert await cache.llm.invalidate_by_model("gpt-4o") == 3
    assert not (await cache.llm.check(asking("0"))).hit
    assert (await cache.llm.check(asking("0", model="gpt-4o-mini"))).hit
    assert await cache.llm.invalidate_by_model("m1", sweep=True) == 1500
    assert await cache.llm.invalidate_by_model("never used") == 0
    assert len(entry_keys(plain)) == 4


async def test_llm_clear_leaves_other_names_and_keys(cache: AgentCache, plain: valkey.Valkey) -> None:
    for n in range(2500):
        plain.set(f"test:llm:{n}", "x")
    others = ["test2:llm:1", "test:llmx:1", "test:session:t:f", "test.eu:llm:1", "unrelated", "testing"]
    for key in others:
        plain.set(key, "x")
    assert await cache.llm.clear() == 2500
    assert entry_keys(plain) == sorted(others)


@pytest.mark.parametrize(
    "junk",
    [
        b"", b"junk", b"[]", b"null", b"5", b'"text"', b"{}", b"\xff\xfe", b'{"response":"x"}',
        b'{"response":5,"model":"m","storedAt":1}', b'{"response":"x","model":"m","storedAt":"now"}',
        b'{"response":"x","model":"m","storedAt":1,"cost":"abc"}',
        b'{"response":"x","model":"m","storedAt":1,"cost":-1}',
        b'{"response":"x","model":"m","storedAt":1,"cost":NaN}',
        b'{"response":"x","model":"m","storedAt":1,"tokens":[1]}',
        b'{"response":"x","model":"m","storedAt":1,"contentBlocks":"x"}',
        b'{"response":"x","model":"m","storedAt":1', b"tiercache-lease 1", b"[" * 100_000,
        b'{"response":"x","model":"m","storedAt":1,"contentBlocks":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'{"response":"x","model":"m","storedAt":1,"further":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"response":"x","model":"m","storedAt":1,"contentBlocks":["\xff"]}',
        b'{"response":"x","model":"m","storedAt":1,"tokens":{"input":' + b"9" * 5_000 + b"}}",
    ],
)  # fmt: skip
async def test_llm_counts_undecodable_entry_as_miss_and_replaces_it(
    cache: AgentCache, plain: valkey.Valkey, junk: bytes
) -> None:
    key = (await cache.llm.check(HELLO)).key
    plain.set(key, junk)
    assert not (await cache.llm.check(HELLO)).hit
    result = await cache.llm.get_or_load(HELLO, Loader("repaired"))
    assert (result.source, result.degraded) == ("loader", False)
    await cache.flush_writes()
    assert json.loads(plain.get(key))["response"] == "repaired"
    assert cache.local_stats().tiers["llm"].undecodable == 2


async def test_llm_counts_hash_under_its_key_as_miss(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = (await cache.llm.check(HELLO)).key
    plain.hset(key, "a", "b")
    result = await cache.llm.check(HELLO)
    assert (result.hit, result.degraded) == (False, False)
    await cache.llm.store(HELLO, "x")
    cache.clear_l1()
    assert (await cache.llm.check(HELLO)).response == "x"


@pytest.mark.parametrize(
    ("stored", "blocks"),
    [
        ('{"storedAt":1.5,"model":"m","further":{"a":1},"response":"x"}', None),
        ('{"response":"x","model":"m","storedAt":1,"tokens":null,"cost":null,"contentBlocks":null}', None),
        ('{"response":"x","model":"m","storedAt":1,"contentBlocks":[{"a":Infinity}]}', [{"a": float("inf")}]),
        (f'{{"response":"x","model":"m","storedAt":1,"contentBlocks":[{{"a":{2**70}}}]}}', [{"a": 2**70}]),
        ('  {"response": "\\u00e9", "model": "m", "storedAt": 1}', None),
    ],
)
async def test_llm_reads_entries_of_other_writers(
    cache: AgentCache, plain: valkey.Valkey, stored: str, blocks: Any
) -> None:
    plain.set((await cache.llm.check(HELLO)).key, stored)
    result = await cache.llm.check(HELLO)
    assert result.response in ("x", "é")
    assert (result.content_blocks, result.tokens, result.cost) == (blocks, None, None)


async def test_llm_keeps_values_that_only_json_module_writes(cache: AgentCache) -> None:
    blocks = [{"type": "tool_call", "args": {"a": float("inf"), "b": 2**70, "c": 1e-7, "d": (1, 2)}}]
    await cache.llm.store_multipart(HELLO, blocks)
    cache.clear_l1()
    (block,) = (await cache.llm.check(HELLO)).content_blocks or []
    assert block["args"] == {"a": float("inf"), "b": 2**70, "c": 1e-7, "d": [1, 2]}


@pytest.mark.parametrize(
    ("options", "model", "tokens", "cost"),
    [
        ({}, "gpt-4o", {"input": 10, "output": 50}, 0.000525),
        ({}, "gpt-4o", {"input": 10}, 0.000025),
        ({}, "gpt-4o", {"other": 10}, None),
        ({}, "gpt-4o", {}, None),
        ({}, "a model of our own", {"input": 10, "output": 50}, None),
        ({"prices": {"a model of our own": (1.0, 2.0)}}, "a model of our own", {"input": 500, "output": 250}, 1.0),
        ({"prices": {"gpt-4o": ModelPrice(0, 0)}}, "gpt-4o", {"input": 10, "output": 50}, 0.0),
        ({"use_default_prices": False}, "gpt-4o", {"input": 10, "output": 50}, None),
    ],
)
async def test_llm_cost_follows_prices_and_tokens(
    make_cache: MakeCache, options: Any, model: str, tokens: Any, cost: float | None
) -> None:
    cache = make_cache(**options)
    await cache.llm.store(asking("x", model=model), "x", tokens=tokens)
    result = await cache.llm.check(asking("x", model=model))
    assert result.cost == (None if cost is None else pytest.approx(cost, rel=1e-12))
    assert result.tokens == (tokens or None)


async def test_llm_l1_is_bounded_by_entries_and_bytes(make_cache: MakeCache) -> None:
    from tiercache import L1Options

    cache = make_cache(l1=L1Options(max_entries=2))
    for text in "abc":
        await cache.llm.store(asking(text), text)
    assert [(await cache.llm.check(asking(text))).source for text in "cba"] == ["l1", "l1", "l2"]
    cache = make_cache(l1=L1Options(max_bytes=20_000))
    for n in range(20):
        await cache.llm.store(asking(str(n)), "x" * 5_000)
        assert cache.local_stats().l1_bytes <= 20_000
    assert cache.local_stats().l1_entry_count == 3
    await cache.llm.store(HELLO, "x" * 50_000)
    assert (await cache.llm.check(HELLO)).source == "l2"


async def test_results_are_equal_if_all_their_attributes_are() -> None:
    clock = FakeClock()
    async with AgentCache.in_memory(clock=clock.clock) as cache:
        await cache.llm.store(HELLO, "Hi", tokens=TOKENS)
        await cache.tool.store("t", {}, [1])

        async def results() -> list[Any]:
            return [
                await cache.llm.check(HELLO),
                await cache.llm.check(asking("x")),
                await cache.tool.check("t", {}),
                await cache.kv.get_or_load("k", lambda: [1], mode="bypass"),
            ]

        first, second = await results(), await results()
        assert first[0].tokens == TOKENS  # Decoded in one of the two results alone.
        assert first == second == copy.deepcopy(first)
        assert list(map(hash, first)) == list(map(hash, second))
        clock.advance(1)
        assert [one == other for one, other in zip(first, await results(), strict=True)] == [False, True, False, True]
        await cache.llm.store(HELLO, "Hi", tokens={})
        assert (await cache.llm.check(HELLO)).tokens is None
        assert await cache.llm.check(HELLO) != first[0]


async def test_repr_of_a_result_shows_every_plain_attribute(cache: AgentCache) -> None:
    assert repr(await cache.llm.check(HELLO)).endswith("coalesced=False, degraded=False, stale=False)")
    value = await cache.kv.get_or_load("k", lambda: 1, mode="bypass")
    assert repr(value).endswith("coalesced=False, degraded=False, stale=False)")
