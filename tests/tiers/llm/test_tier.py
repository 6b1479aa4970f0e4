"""The llm tier: what is stored, what comes back, and that it is the caller's own."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, LlmResponse, ModelPrice

BLOCKS = [{"type": "text", "text": "Hi "}, {"type": "tool_call", "id": "1", "name": "n", "args": {"a": [1, 2]}}]
TOKENS = {"input": 10, "output": 50, "details": {"cached": 7}}


async def test_every_part_comes_back_from_every_source(cache: AgentCache) -> None:
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


async def test_a_miss_has_nothing_but_its_key(cache: AgentCache) -> None:
    result = await cache.llm.check(HELLO)
    assert (result.hit, result.response, result.source, result.degraded, result.stale) == (
        False, None, None, False, False,
    )  # fmt: skip
    assert result.tokens is result.content_blocks is result.cost is result.age is result.ttl is None
    assert repr(result).startswith("LlmResult(hit=False, response=None, key='test:llm:")


async def test_a_text_made_of_blocks(cache: AgentCache) -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, {"type": "text"}]
    await cache.llm.store_multipart(HELLO, blocks)
    result = await cache.llm.check(HELLO)
    assert (result.response, result.content_blocks) == ("ab", blocks)
    loaded = await cache.llm.get_or_load(asking("x"), Loader(LlmResponse(None, blocks)))
    assert loaded.response == "ab"


@pytest.mark.parametrize("source", ["loader", "l1", "l2"])
async def test_changing_a_result_changes_nobody_elses(cache: AgentCache, source: str) -> None:
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
        assert result.content_blocks == []  # Its own: it sees its own changes.
    again = await get()
    assert (again.content_blocks, again.tokens) == (BLOCKS, TOKENS)
    with pytest.raises(AttributeError):
        again.response = "changed"


class Held(dict[str, Any]):
    """A mapping that can be watched."""

    __slots__ = ("__weakref__",)


class HeldText(str):
    __slots__ = ("__weakref__",)

    def __str__(self) -> str:
        return "something else"


async def test_none_of_the_callers_objects_is_kept(cache: AgentCache) -> None:
    async def use() -> list[weakref.ref[Any]]:
        params = Held(HELLO, user=Held(name="alice"), model=HeldText("gpt-4o"))
        block, tokens, text = Held(type="text", text="Hi"), Held(input=1), HeldText("Hi")
        await cache.llm.store(params, text, tokens=tokens)
        await cache.llm.get_or_load(params, lambda: LlmResponse(text, [block], tokens), mode="refresh")
        await cache.llm.check(params)
        return [weakref.ref(item) for item in (params, params["user"], params["model"], block, tokens, text)]

    kept = await use()
    await cache.flush_writes()
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
    assert (await cache.llm.check(Held(HELLO, user={"name": "alice"}))).response == "Hi"


async def test_an_answer_whose_params_were_changed_meanwhile_is_stored_nowhere(cache: AgentCache) -> None:
    """Nobody can tell which of the two questions the loader has read."""
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


async def test_a_loader_that_takes_the_params_apart_still_answers(cache: AgentCache) -> None:
    def load(params: Any) -> str:
        params.pop("model")
        return "x"

    assert (await cache.llm.get_or_load(asking("x"), load)).response == "x"
    assert not (await cache.llm.check(asking("x"))).hit


async def test_an_empty_answer_is_an_answer(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "")
    cache.clear_l1()
    result = await cache.llm.check(HELLO)
    assert (result.hit, result.response) == (True, "")


async def test_invalidate_says_whether_there_was_something(make_cache: MakeCache) -> None:
    one, other = make_cache(), make_cache()
    await one.llm.store(HELLO, "x")
    assert await other.llm.invalidate(HELLO)
    assert not await other.llm.invalidate(HELLO)


async def test_invalidate_by_model_takes_that_model_and_no_other(cache: AgentCache, plain: valkey.Valkey) -> None:
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


async def test_clear_leaves_other_names_and_other_keys(cache: AgentCache, plain: valkey.Valkey) -> None:
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
async def test_a_corrupt_or_foreign_entry_is_a_miss_that_the_next_fill_repairs(
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


async def test_a_hash_where_a_string_should_be_is_a_miss(cache: AgentCache, plain: valkey.Valkey) -> None:
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
async def test_what_another_writer_may_write_is_read(
    cache: AgentCache, plain: valkey.Valkey, stored: str, blocks: Any
) -> None:
    plain.set((await cache.llm.check(HELLO)).key, stored)
    result = await cache.llm.check(HELLO)
    assert result.response in ("x", "é")
    assert (result.content_blocks, result.tokens, result.cost) == (blocks, None, None)


async def test_values_that_only_json_writes_survive(cache: AgentCache) -> None:
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
async def test_the_cost_of_an_answer(
    make_cache: MakeCache, options: Any, model: str, tokens: Any, cost: float | None
) -> None:
    cache = make_cache(**options)
    await cache.llm.store(asking("x", model=model), "x", tokens=tokens)
    result = await cache.llm.check(asking("x", model=model))
    assert result.cost == (None if cost is None else pytest.approx(cost, rel=1e-12))
    assert result.tokens == (tokens or None)


async def test_memory_is_bounded_by_entries_and_by_bytes(make_cache: MakeCache) -> None:
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
