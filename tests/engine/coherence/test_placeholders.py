"""Placeholders: the value under which a lease lies in Valkey is a miss for every reader."""

from __future__ import annotations

import asyncio
from typing import Any

import betterdb_agent_cache as betterdb
import pytest
import valkey

from tests.engine.coherence.holders import is_leased
from tests.requests import HELLO, Loader
from tests.seams import in_l1
from tests.support import Pair
from tiercache import AgentCache
from tiercache.engine.coherence.placeholders import is_placeholder


async def test_placeholder_is_a_miss_for_every_reader(tracked: Pair, plain: valkey.Valkey) -> None:
    a, b = tracked
    loaders = [Loader(held=True) for _ in range(3)]
    tasks = [
        asyncio.create_task(a.kv.get_or_load("k", loaders[0])),
        asyncio.create_task(a.llm.get_or_load(HELLO, loaders[1])),
        asyncio.create_task(a.tool.get_or_load("t", {}, loaders[2])),
    ]
    for loader in loaders:
        await loader.started.wait()
    assert len([key for key in plain.scan_iter() if plain.type(key) == b"string" and is_leased(plain, key)]) == 3
    for cache in tracked:
        assert await cache.kv.get("k") is None
        assert not await cache.kv.exists("k")
        assert await cache.kv.get_many(["k", "l"]) == {"k": None, "l": None}
        assert not (await cache.kv.get_or_load("k", Loader(), mode="only_cached")).hit
        assert not (await cache.llm.check(HELLO)).hit
        assert not (await cache.tool.check("t", {})).hit
    assert b.local_stats().tiers["kv"].undecodable == 0
    assert await b.kv.delete("k") is False
    assert await b.kv.delete_many(["k"]) == 0
    assert await b.llm.invalidate(HELLO) is False
    assert await b.tool.invalidate("t", {}) is False
    for loader in loaders:
        loader.release()
    await asyncio.gather(*tasks)
    await a.flush_writes()
    assert await b.kv.get("k") is None  # The delete removed the lease with its placeholder.


@pytest.mark.parametrize("change", ["clear", "by tool", "by model", "by tag", "flush"])
async def test_placeholder_is_removed_with_its_group_and_not_counted(
    tracked: Pair, plain: valkey.Valkey, change: str
) -> None:
    a, b = tracked
    await a.llm.store({**HELLO, "seed": 1}, "x", tags=["tag"])
    await a.tool.store("t", {"a": 1}, "x", tags=["tag"])
    loaders = [Loader(held=True) for _ in range(2)]
    tasks = [
        asyncio.create_task(a.llm.get_or_load(HELLO, loaders[0], tags=["tag"])),
        asyncio.create_task(a.tool.get_or_load("t", {}, loaders[1], tags=["tag"])),
    ]
    for loader in loaders:
        await loader.started.wait()
    match change:
        case "clear":
            counts = await b.llm.clear() + await b.tool.clear()
        case "by tool":
            counts = await b.tool.invalidate_by_tool("t") + await b.llm.clear()
        case "by model":
            counts = await b.llm.invalidate_by_model("gpt-4o") + await b.tool.clear()
        case "by tag":
            counts = await b.invalidate_tag("tag")
        case _:
            counts = await b.flush()
    assert counts == 2
    for loader in loaders:
        loader.release()
    await asyncio.gather(*tasks)
    await a.flush_writes()
    assert not (await b.llm.check(HELLO)).hit
    assert not (await b.tool.check("t", {})).hit


@pytest.mark.parametrize("tier", ["llm", "tool"])
async def test_placeholder_is_a_miss_for_betterdb(
    cache: AgentCache, peer: betterdb.AgentCache, plain: valkey.Valkey, tier: str
) -> None:
    loader = Loader(held=True)
    if tier == "llm":
        loading = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
        await loader.started.wait()
        theirs: Any = await peer.llm.check(HELLO)  # type: ignore[arg-type]
    else:
        loading = asyncio.create_task(cache.tool.get_or_load("t", {}, loader))  # type: ignore[arg-type]
        await loader.started.wait()
        theirs = await peer.tool.check("t", {})
    assert not theirs.hit
    loader.release()
    result = await loading
    assert result.response == "answer"
    await cache.flush_writes()
    # The peer deletes a value that it cannot decode: the caller has its answer, and the answer is not stored.
    assert plain.get(result.key) is None
    assert not in_l1(cache, result.key)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"tc:lease:abc:1", True),
        (b"tc:lease:", True),
        (b"tc:lease", False),
        (b"", False),
        (b'{"response":"tc:lease:"}', False),
    ],
)
def test_placeholder_is_recognised_by_its_prefix(data: bytes, expected: bool) -> None:
    assert is_placeholder(data) is expected


async def test_placeholder_prefix_in_stored_text_is_a_value(cache: AgentCache) -> None:
    await cache.kv.set("k", "tc:lease:abc:1")
    await cache.kv.set("b", b"tc:lease:abc:1")
    await cache.llm.store(HELLO, "tc:lease:abc:1")
    await cache.tool.store("t", {}, "tc:lease:abc:1")
    await cache.session.set("thread", "field", "tc:lease:abc:1")
    cache.clear_l1()
    assert await cache.kv.get_many(["k", "b"]) == {"k": "tc:lease:abc:1", "b": b"tc:lease:abc:1"}
    assert (await cache.llm.check(HELLO)).response == "tc:lease:abc:1"
    assert (await cache.tool.check("t", {})).response == "tc:lease:abc:1"
    assert await cache.session.get("thread", "field") == "tc:lease:abc:1"
    assert await cache.kv.delete("k") is True
