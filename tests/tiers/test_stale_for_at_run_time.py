"""``stale_for`` among the settings at run time: which tier, tool and function it reaches, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support import MakeCache, settled, until
from tiercache import AgentCache, RuntimeSettings, TierOptions
from tiercache.testing import FakeClock

PARAMS = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
LATE = RuntimeSettings(stale_for=30)


async def load(cache: AgentCache, tier: str, value: str = "new", tool: str = "search") -> Any:
    """Load an entry of ``tier``, and return the source of the answer."""
    if tier == "llm":
        return (await cache.llm.get_or_load(PARAMS, lambda: value, ttl=60)).source
    if tier == "tool":
        return (await cache.tool.get_or_load(tool, {"q": 1}, lambda: value, ttl=60)).source
    return (await cache.tier(tier).get_or_load("key", lambda: value, ttl=60)).source


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize("tier", ["llm", "tool", "kv", "named"])
async def test_setting_lets_a_tier_serve_stale_values(clock: FakeClock, tier: str) -> None:
    async with AgentCache.in_memory(name="test", clock=clock.clock) as cache:
        await cache.configure(tier, LATE)
        assert await load(cache, tier, "old") == "loader"
        clock.advance(61)
        assert await load(cache, tier) == "stale"
        await settled()
        assert await load(cache, tier) == "l1"
        clock.advance(91)
        assert await load(cache, tier) == "loader"


async def test_callers_do_not_wait_for_the_refresh_of_a_stale_value(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", clock=clock.clock) as cache:
        await cache.configure("kv", LATE)
        await load(cache, "kv", "old")
        clock.advance(61)
        release = asyncio.Event()

        async def slow() -> str:
            await release.wait()
            return "new"

        for _ in range(3):
            assert (await cache.kv.get_or_load("key", slow)).source == "stale"
        release.set()
        await settled()


async def test_setting_is_served_by_lookups_without_a_loader(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", clock=clock.clock) as cache:
        await cache.configure("llm", LATE)
        await load(cache, "llm", "old")
        clock.advance(61)
        result = await cache.llm.check(PARAMS)
        assert (result.source, result.response) == ("stale", "old")
        explanation = await cache.llm.explain(PARAMS)
        assert (explanation.source, explanation.kept_ttl) == ("stale", pytest.approx(29))


async def test_removed_setting_ends_stale_values_at_once(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", clock=clock.clock) as cache:
        await cache.configure("kv", LATE)
        await load(cache, "kv", "old")
        clock.advance(61)
        await cache.configure("kv", None)
        assert await cache.kv.get("key") is None
        assert (await cache.kv.explain("key")).source is None
        assert await load(cache, "kv") == "loader"


async def test_shorter_setting_counts_at_once_and_longer_one_for_new_entries(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", kv=TierOptions(stale_for=30), clock=clock.clock) as cache:
        await load(cache, "kv", "old")
        clock.advance(65)
        await cache.configure("kv", RuntimeSettings(stale_for=4))
        assert await cache.kv.get("key") is None
        await cache.configure("kv", RuntimeSettings(stale_for=9))
        assert (await cache.kv.explain("key")).kept_ttl == pytest.approx(4)
        await cache.configure("kv", RuntimeSettings(stale_for=100))
        assert await cache.kv.get("key") == "old"
        assert (await cache.kv.explain("key")).kept_ttl == pytest.approx(25)
        clock.advance(26)
        assert await cache.kv.get("key") is None
        await load(cache, "kv", "new")
        clock.advance(150)
        assert await cache.kv.get("key") == "new"


async def test_setting_of_zero_turns_the_option_of_the_tier_off(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", kv=TierOptions(stale_for=30), clock=clock.clock) as cache:
        await cache.configure("kv", RuntimeSettings(stale_for=0))
        await load(cache, "kv", "old")
        clock.advance(61)
        assert await load(cache, "kv") == "loader"


async def test_setting_of_a_tool_wins_over_that_of_the_tier(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", clock=clock.clock) as cache:
        await cache.configure("tool", LATE)
        await cache.configure("tool", RuntimeSettings(stale_for=0), tool="search")
        await cache.configure("tool", RuntimeSettings(stale_for=90), tool="weather")
        for tool in ("search", "weather", "other"):
            await load(cache, "tool", "old", tool)
        clock.advance(61)
        assert await load(cache, "tool", tool="search") == "loader"
        assert await load(cache, "tool", tool="other") == "stale"
        await settled()
        clock.advance(60)
        assert await load(cache, "tool", tool="weather") == "stale"
        await settled()


async def test_own_option_of_a_function_wins_over_the_setting(clock: FakeClock) -> None:
    async with AgentCache.in_memory(name="test", clock=clock.clock) as cache:
        calls: list[str] = []

        @cache.memoize(ttl=60, stale_for=10, tier="kv")
        async def own() -> str:
            calls.append("own")
            return "x"

        @cache.memoize(ttl=60, retry_pause=5, tier="kv")
        async def other() -> str:
            calls.append("other")
            return "x"

        await cache.configure("kv", RuntimeSettings(stale_for=100))
        await own()
        await other()
        clock.advance(80)
        assert (await own.result()).source == "loader"
        assert (await other.result()).source == "stale"
        await settled()
        assert calls == ["own", "other", "own", "other"]


async def test_setting_reaches_other_processes_and_ends_there(make_cache: MakeCache) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    await other.open()
    await cache.configure("kv", LATE)
    await until(lambda: other.settings("kv") == LATE)
    await other.kv.set("key", "old", ttl=0.1)

    async def is_stale() -> bool:
        return (await other.kv.explain("key")).source == "stale"

    await until(is_stale)
    assert await other.kv.get("key") == "old"
    await cache.configure("kv", None)
    await until(lambda: other.settings("kv") is None)
    assert (await other.kv.explain("key")).l1 == "expired"
    assert await other.kv.get("key") is None
