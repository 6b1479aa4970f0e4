"""``flush``: it removes every entry of one cache but sessions, and no key of other caches; statistics of all tiers."""

from __future__ import annotations

import pytest
import valkey

from tests.requests import HELLO
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, ToolPolicy


async def fill(cache: AgentCache) -> None:
    """Store an entry in each tier."""
    await cache.llm.store(HELLO, "x")
    await cache.tool.store("t", {}, "x")
    await cache.kv.set("k", 1)
    await cache.tier("named").set("k", 1)
    await cache.session.set("thread", "field", "x")


async def test_flush_leaves_sessions_policies_and_other_caches(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache, neighbour = make_cache(name="test"), make_cache(name="test.eu")
    for one in (cache, neighbour):
        await fill(one)
    await make_cache(name="test").tier("made elsewhere".replace(" ", "-")).set("k", 1)
    await cache.tool.set_policy("t", ToolPolicy(5))
    plain.set("unrelated", "x")
    theirs = [key for key in entry_keys(plain) if key.startswith("test.eu:")]
    assert await cache.flush() == 5
    spared = ["test:__tc:thread:thread", "test:__tool_policies", "test:session:thread:field", "unrelated"]
    assert entry_keys(plain) == sorted([*theirs, *spared])
    assert not (await cache.llm.check(HELLO)).hit
    assert await cache.session.get("thread", "field") == "x"
    assert await cache.flush(include_session=True) == 1
    assert entry_keys(plain) == sorted([*theirs, "test:__tool_policies", "unrelated"])
    assert await cache.session.get("thread", "field") is None
    assert cache.session.active_count == 0


async def test_flush_empties_cache_in_memory() -> None:
    async with AgentCache.in_memory() as cache:
        await fill(cache)
        await cache.flush()
        assert await cache.session.get("thread", "field") == "x"
        assert await cache.kv.get("k") is None
        assert await cache.flush(include_session=True) == 1
        assert await cache.session.get("thread", "field") is None


async def test_statistics_contain_every_tier(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    await fill(cache)
    await cache.kv.get("k")
    await cache.kv.get("nothing")
    await cache.tier("named").get("k")
    await cache.session.get("thread", "field")
    await cache.session.get("thread", "nothing")
    stats = await cache.stats()
    assert (stats.session.reads, stats.session.writes) == (2, 1)
    fields = {field.decode(): int(value) for field, value in plain.hgetall("test:__stats").items()}
    assert fields == {
        "session:reads": 2,
        "session:writes": 1,
        "tc:kv:kv:lookups": 2,
        "tc:kv:kv:found": 1,
        "tc:kv:named:lookups": 1,
        "tc:kv:named:found": 1,
    }


@pytest.mark.parametrize("tier", ["llm", "tool"])
async def test_statistics_contain_lookup_that_opened_the_cache(
    make_cache: MakeCache, plain: valkey.Valkey, tier: str
) -> None:
    cache = make_cache(name="test")
    if tier == "llm":
        await cache.llm.check(HELLO)
    else:
        await cache.tool.check("t", {})
    await cache.aclose()
    assert plain.hget("test:__stats", f"{tier}:misses") == b"1"
