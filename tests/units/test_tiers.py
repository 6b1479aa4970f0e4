"""Every method of every tier on a fakeredis client, with which users may test their own code without a server."""

from __future__ import annotations

from collections.abc import Iterable

import fakeredis
import pytest

from tests.requests import HELLO, Loader, asking
from tests.support import MakeCache
from tiercache import MISS, AgentCache, ToolPolicy


@pytest.fixture
def cache(make_fake: MakeCache) -> AgentCache:
    return make_fake(default_ttl=60)


async def test_cache_loads_reads_and_invalidates_on_a_fake_client() -> None:
    client = fakeredis.FakeAsyncValkey()
    async with AgentCache(client, name="fake", default_ttl=60) as cache:
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
        await cache.flush_writes()
        cache.clear_l1()
        result = await cache.llm.check(HELLO)
        assert (result.source, result.degraded) == ("l2", False)
        await cache.tool.store("t", {}, {"a": 1})
        await cache.kv.set("k", 1)
        cache.clear_l1()
        assert await cache.kv.get("k") == 1
        assert await cache.tool.invalidate_by_tool("t") == 1
        assert await cache.llm.clear() == 1
        assert (await cache.stats()).llm.hits == 1
    await client.aclose()


async def test_llm_methods_agree_on_a_fake_client(cache: AgentCache) -> None:
    loader = Loader()
    sources = [(await cache.llm.get_or_load(HELLO, loader)).source for _ in range(2)]
    assert (sources, loader.calls) == (["loader", "l1"], 1)
    assert not (await cache.llm.get_or_load(asking("x"), loader, mode="only_cached")).hit
    assert (await cache.llm.get_or_load(HELLO, Loader("new"), mode="refresh")).response == "new"
    assert (await cache.llm.get_or_load(HELLO, Loader("other"), mode="bypass")).response == "other"
    assert (await cache.llm.check(HELLO)).response == "new"
    assert await cache.llm.invalidate(HELLO)
    assert not await cache.llm.invalidate(HELLO)
    await cache.llm.store(HELLO, "x")
    await cache.llm.store(asking("x", model="other"), "y")
    assert await cache.llm.invalidate_by_model("gpt-4o") == 1
    assert await cache.llm.clear() == 1


async def test_tool_methods_agree_on_a_fake_client(cache: AgentCache) -> None:
    result = await cache.tool.get_or_load("t", {"a": 1}, lambda a: {"a": a}, cost=0.5)
    assert (result.value, result.source) == ({"a": 1}, "loader")
    await cache.flush_writes()
    cache.clear_l1()
    again = await cache.tool.check("t", {"a": 1})
    assert (again.value, again.source, again.cost) == ({"a": 1}, "l2", 0.5)
    batched = cache.tool.batch_loader(lambda calls: [call["a"] for call in calls])
    assert (await cache.tool.get_or_load("t", {"a": 2}, batched)).value == 2
    await cache.tool.set_policy("t", ToolPolicy(ttl=5))
    await cache.tool.store("t", {"a": 3}, "x")
    left = (await cache.tool.check("t", {"a": 3})).ttl
    assert left is not None
    assert left <= 5
    assert await cache.tool.refresh_policies()
    assert cache.tool.get_policy("t") == ToolPolicy(ttl=5)
    assert await cache.tool.invalidate("t", {"a": 3})
    await cache.flush_writes()
    assert await cache.tool.invalidate_by_tool("t") == 2


async def test_kv_methods_agree_on_a_fake_client(cache: AgentCache) -> None:
    def lengths(keys: Iterable[str]) -> dict[str, int]:
        return {key: len(key) for key in keys}

    assert (await cache.kv.get_or_load("a", lambda: None)).value is None
    assert await cache.kv.get("a", MISS) is None
    assert await cache.kv.get("b", MISS) is MISS
    await cache.kv.set_many({"b": 1, "c": [2]})
    cache.clear_l1()
    assert await cache.kv.get_many(["c", "b", "d"]) == {"c": [2], "b": 1, "d": None}
    assert await cache.kv.get_or_load_many(["b", "dddd"], lengths) == {"b": 1, "dddd": 4}
    assert await cache.kv.exists("b")
    assert await cache.kv.delete("b")
    assert not await cache.kv.exists("b")
    await cache.flush_writes()
    assert await cache.kv.delete_many(["a", "b", "c"]) == 2
    other = cache.tier("other")
    await other.set("dddd", "x")
    assert await cache.kv.clear() == 1
    assert await other.get("dddd") == "x"


async def test_session_methods_agree_on_a_fake_client(cache: AgentCache) -> None:
    session = cache.session
    await session.set("t", "f", "v")
    assert (await session.get("t", "f"), await session.get("t", "f", fresh=True)) == ("v", "v")
    assert await session.get_or_load("t", "g", lambda: "w") == "w"
    await session.set_json("t", "j", {"a": 1})
    assert await session.get_json("t", "j") == {"a": 1}
    assert await session.append("t", "l", 1) == 1
    assert await session.append("t", "l", 2) == 2
    assert await session.incr("t", "n", 5) == 5
    assert await session.compare_and_set("t", "f", "v", "x")
    assert not await session.compare_and_set("t", "f", "v", "y")
    assert await session.get_all("t") == {"f": "x", "g": "w", "j": '{"a":1}', "l": "[1,2]", "n": "5"}
    assert await session.touch("t") == 5
    assert await session.delete("t", "f")
    assert await session.destroy_thread("t") == 4
    assert await session.get_all("t") == {}


async def test_tags_reach_every_tier_on_a_fake_client(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "x", tags=["doc"])
    await cache.tool.store("t", {}, "x", tags=["doc"])
    await cache.kv.set("k", 1, tags=["doc", "other"])
    await cache.kv.set("kept", 1, tags=["other"])
    assert await cache.invalidate_tag("doc") == 3
    assert await cache.kv.get("kept") == 1
    assert await cache.flush() >= 1
    assert await cache.kv.get("kept") is None


async def test_statistics_count_calls_on_a_fake_client(cache: AgentCache) -> None:
    for _ in range(3):
        await cache.tool.get_or_load("t", {}, lambda: 1, cost=0.5)
    await cache.session.set("t", "f", "v")
    await cache.session.get("t", "f")
    stats = await cache.stats()
    assert (stats.tool.hits, stats.tool.misses, stats.cost_saved_micros) == (2, 1, 1_000_000)
    assert (stats.session.reads, stats.session.writes) == (1, 1)
    assert [each.tool for each in await cache.tool_effectiveness()] == ["t"]
