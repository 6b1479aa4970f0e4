"""Copies of values: each caller gets its own, or, with ``TierOptions(share=True)``, all callers get the same object."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import MakeCache
from tiercache import AgentCache, LlmOptions, SessionOptions, TierOptions, UsageError
from tiercache.tiers.values.sizes import memory_of

ROWS = [{"id": 1, "tags": ["a"]}, {"id": 2, "tags": ["b"]}]
SHARED = {"kv": TierOptions(share=True), "tool": TierOptions(share=True)}

Read = Callable[[AgentCache], Any]


async def _tool_check(cache: AgentCache) -> Any:
    return (await cache.tool.check("t", {})).value


async def _tool_load(cache: AgentCache) -> Any:
    return (await cache.tool.get_or_load("t", {}, _load)).value


async def _kv_get(cache: AgentCache) -> Any:
    return await cache.kv.get("k")


async def _kv_many(cache: AgentCache) -> Any:
    return (await cache.kv.get_many(["k"]))["k"]


async def _kv_load(cache: AgentCache) -> Any:
    return (await cache.kv.get_or_load("k", _load)).value


async def _kv_load_many(cache: AgentCache) -> Any:
    return (await cache.kv.get_or_load_many(["k"], lambda keys: [_load()]))["k"]


def _load() -> list[Any]:
    return [dict(row) for row in ROWS]


READS: dict[str, tuple[Read, ...]] = {
    "tool": (_tool_check, _tool_load),
    "kv": (_kv_get, _kv_many, _kv_load, _kv_load_many),
}


async def _store(cache: AgentCache) -> None:
    await cache.kv.set("k", ROWS)
    await cache.tool.store("t", {}, ROWS)


@pytest.mark.parametrize("level", ["l1", "l2"])
@pytest.mark.parametrize("tier", READS)
async def test_value_that_a_caller_changes_is_unchanged_for_the_next(cache: AgentCache, tier: str, level: str) -> None:
    await _store(cache)
    for read in READS[tier] * 2:
        if level == "l2":
            cache.clear_l1()
        value = await read(cache)
        assert value == ROWS
        value[0]["tags"].append("changed")
        value.clear()


@pytest.mark.parametrize("tier", READS)
async def test_shared_value_is_one_object_for_all_callers(make_cache: MakeCache, tier: str) -> None:
    cache = make_cache(**SHARED)
    await _store(cache)
    for _ in ("stored", "read from Valkey"):
        values = [await read(cache) for read in READS[tier]]
        assert values[0] == ROWS
        assert len({id(value) for value in values}) == 1
        cache.clear_l1()


@pytest.mark.parametrize("read", [_tool_load, _kv_load, _kv_load_many])
async def test_shared_value_of_a_load_is_no_object_of_the_loader(make_cache: MakeCache, read: Read) -> None:
    cache = make_cache(**SHARED)
    values = await asyncio.gather(*(read(cache) for _ in range(3)))
    values.append(await read(cache))
    assert values[0] == ROWS
    assert len({id(value) for value in values}) == 1


async def test_shared_value_differs_from_the_object_that_was_stored(make_cache: MakeCache) -> None:
    cache = make_cache(**SHARED)
    rows = _load()
    await cache.kv.set("k", rows)
    rows.clear()
    assert await cache.kv.get("k") == ROWS


async def test_shared_values_that_are_no_objects_come_back_as_they_are(make_cache: MakeCache) -> None:
    cache = make_cache(**SHARED)
    for value in (None, 5, 0.5, True, "text", b"bytes"):
        await cache.kv.set("k", value)
        for _ in range(2):
            assert await cache.kv.get("k") == value
            cache.clear_l1()
    await cache.tool.store("t", {}, "text")
    assert (await cache.tool.check("t", {})).value == "text"
    surrogate = ["\ud800"]
    assert (await cache.kv.get_or_load("other", lambda: surrogate)).value == surrogate


async def test_shared_value_is_that_of_a_decorated_function(make_cache: MakeCache) -> None:
    cache = make_cache()
    tier = cache.tier("shared", TierOptions(share=True))

    @tier.memoize
    async def rows(count: int) -> list[Any]:
        return ROWS[:count]

    assert await rows(1) is await rows(1)
    assert await rows(1) == ROWS[:1]


async def test_shared_value_counts_the_memory_of_its_objects() -> None:
    async with AgentCache.in_memory(**SHARED) as shared, AgentCache.in_memory() as copied:
        for cache in (shared, copied):
            await cache.kv.set("k", ROWS)
        assert shared.local_stats().l1_bytes > copied.local_stats().l1_bytes + 500


def test_memory_of_a_value_has_each_part() -> None:
    size = sys.getsizeof
    assert memory_of(5) == size(5)
    assert memory_of({"a": ["b"]}) == size({"a": 1}) + size("a") + size(["b"]) + size("b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": LlmOptions(share=True)}, "llm has no share"),
        ({"llm": TierOptions(share=True)}, "llm has no share"),
        ({"session": TierOptions(share=True)}, "a session has no .*share"),
    ],
)
def test_share_is_refused_for_llm_and_sessions(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AgentCache.in_memory(**options)
    with pytest.raises(TypeError):
        SessionOptions(share=True)  # type: ignore[call-arg]
