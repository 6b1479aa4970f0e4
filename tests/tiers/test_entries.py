"""scan and inspect: the entries of a tier and of one key, as both levels have them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import internals, slow_writes
from tests.support import UNTRACKED, MakeCache
from tiercache import (
    AgentCache,
    CoherenceOptions,
    Entry,
    L2UnavailableError,
    LlmResponse,
    ResilienceOptions,
    TierOptions,
    UsageError,
)
from tiercache.testing import ChaosProxy, FakeClock

PATIENT = ResilienceOptions(l2_timeout=0.3, breaker_failures=1000, breaker_pause=60)


async def names(entries: Any) -> list[str]:
    return sorted([entry.name async for entry in entries])


async def test_scan_yields_every_entry_of_the_tier_alone(cache: AgentCache) -> None:
    keys = {f"user:{number}": number for number in range(2500)}
    await cache.kv.set_many(keys)
    await cache.tier("named").set("other", 1)
    await cache.llm.store(HELLO, "x")
    assert await names(cache.kv.scan()) == sorted(keys)
    assert await names(cache.kv.scan(match="user:1?")) == [f"user:{number}" for number in range(10, 20)]
    assert await names(cache.tier("named").scan()) == ["other"]


async def test_scan_of_llm_and_tool_yields_groups(cache: AgentCache) -> None:
    key = await cache.llm.store(HELLO, "x", tags=["tag"], ttl=60)
    await cache.llm.store(asking("y", model="gpt-4o-mini"), "y")
    await cache.tool.store("weather", {"city": "Sofia"}, 21, cost=0.25)
    await cache.tool.store("weather2", {}, 22)
    llm = {entry.group: entry async for entry in cache.llm.scan()}
    assert set(llm) == {"gpt-4o", "gpt-4o-mini"}
    assert (llm["gpt-4o"].key, llm["gpt-4o"].tags, llm["gpt-4o"].tier) == (key, ("tag",), "llm")
    assert llm["gpt-4o"].ttl == pytest.approx(60, abs=5)
    assert llm["gpt-4o-mini"].ttl == math.inf
    (tool,) = [entry async for entry in cache.tool.scan("weather:*")]
    assert (tool.group, tool.name, tool.cost) == ("weather", None, 0.25)


async def test_scan_is_safe_while_entries_are_removed(cache: AgentCache) -> None:
    keys = [f"k{number}" for number in range(3000)]
    await cache.kv.set_many(dict.fromkeys(keys, 1))
    seen = []
    async for entry in cache.kv.scan():
        seen.append(entry.name)
        assert entry.name is not None
        await cache.kv.delete(entry.name)
    assert sorted(seen) == sorted(keys)
    assert await names(cache.kv.scan()) == []


async def test_scan_leaves_loads_in_progress_out_and_waits_for_queued_values(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_writes(monkeypatch)
    loader = Loader("x", held=True)
    loading = asyncio.create_task(cache.kv.get_or_load("loading", loader))
    await loader.started.wait()
    await cache.kv.get_or_load("loaded", Loader("x"))
    assert await names(cache.kv.scan()) == ["loaded"]
    assert not (await cache.kv.inspect("loading")).exists
    loader.release()
    await loading
    assert await names(cache.kv.scan()) == ["loaded", "loading"]


async def test_scan_of_a_cache_in_memory_yields_its_l1(memory: AgentCache) -> None:
    await memory.kv.set_many({"a": 1, "b": [1]}, ttl=60, tags=["tag"])
    await memory.llm.store(HELLO, "x")
    assert await names(memory.kv.scan()) == ["a", "b"]
    async for entry in memory.kv.scan(match="b"):
        assert (entry.in_l1, entry.in_l2, entry.ttl, entry.tags) == (True, False, None, ("tag",))
        assert entry.l1_ttl == pytest.approx(60, abs=5)
        assert entry.size_bytes > 0
        assert await memory.kv.delete("a")
    assert [entry.group async for entry in memory.llm.scan()] == ["gpt-4o"]


async def test_scan_shows_entries_that_cannot_be_read(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.set("test:llm:strange", "no JSON")
    plain.hset("test:llm:hash", "field", "x")
    plain.set(b"test:llm:\xff", "no text")
    found = {entry.key: entry async for entry in cache.llm.scan()}
    assert set(found) == {"test:llm:strange", "test:llm:hash"}
    for entry in found.values():
        assert (entry.exists, entry.in_l2, entry.is_readable, entry.group) == (True, True, False, None)
    assert [entry.size_bytes for _, entry in sorted(found.items())] == [0, 7]


async def test_scan_never_sends_keys(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.config_resetstat()
    await cache.kv.set("k", 1)
    assert await names(cache.kv.scan()) == ["k"]
    commands = plain.info("commandstats")
    assert "cmdstat_scan" in commands
    assert "cmdstat_keys" not in commands


async def test_scan_stays_in_the_scope_of_its_caller(cache: AgentCache) -> None:
    with cache.calls(scope="a"):
        await cache.kv.set("k", 1)
        entries = cache.kv.scan()
    await cache.kv.set("l", 1)
    assert await names(entries) == ["k"]
    assert await names(cache.kv.scan()) == ["l"]


async def test_scan_and_inspect_raise_without_valkey(proxy: ChaosProxy) -> None:
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=PATIENT) as cache:
        await cache.kv.set("k", 1)
        proxy.refuse()
        proxy.kill(lane="commands")
        with pytest.raises(L2UnavailableError):
            await names(cache.kv.scan())
        with pytest.raises(L2UnavailableError):
            await cache.kv.inspect("k")


async def test_scan_and_inspect_show_no_entry_whose_removal_is_pending(proxy: ChaosProxy) -> None:
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=PATIENT) as cache:
        await cache.kv.set_many({"a": 1, "b": 1})
        proxy.refuse()
        proxy.kill(lane="commands")
        with pytest.raises(L2UnavailableError):
            await cache.kv.delete("a")
        proxy.refuse(False)
        assert internals(cache).has_pending_invalidations
        assert await names(cache.kv.scan()) == ["b"]
        assert not (await cache.kv.inspect("a")).exists


async def test_inspect_of_a_missing_key_says_that_it_does_not_exist(cache: AgentCache) -> None:
    entries = [
        await cache.kv.inspect("k"),
        await cache.llm.inspect(HELLO),
        await cache.tool.inspect("t", {}),
        await cache.tool.inspect(cache.tool.key("t", {})),
    ]
    for entry in entries:
        assert (entry.exists, entry.in_l1, entry.in_l2, entry.size_bytes) == (False, False, False, 0)
        assert (entry.ttl, entry.l1_ttl, entry.age, entry.cost, entry.tags) == (None, None, None, None, ())
    assert [entry.tier for entry in entries] == ["kv", "llm", "tool", "tool"]
    assert (entries[0].name, entries[2].group) == ("k", "t")
    assert cache.local_stats().tiers["kv"].misses == 0


async def test_inspect_shows_both_levels(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock, kv=TierOptions(l1_ttl=10), prices={"gpt-4o": (1.0, 2.0)})
    await cache.kv.set("k", "text", ttl=100, tags=["a", "b"])
    clock.advance(1)
    entry = await cache.kv.inspect("k")
    data = plain.get(entry.key)
    assert entry.size_bytes == len(data)
    assert (entry.exists, entry.in_l1, entry.in_l2, entry.tags) == (True, True, True, ("a", "b"))
    assert (entry.l1_ttl, entry.age) == (pytest.approx(9), pytest.approx(1))
    assert entry.ttl == pytest.approx(100, abs=5)
    cache.clear_l1()
    entry = await cache.kv.inspect("k")
    assert (entry.in_l1, entry.in_l2, entry.age, entry.l1_ttl) == (False, True, None, None)
    result = await cache.llm.get_or_load(HELLO, lambda: LlmResponse("x", tokens={"input": 1000, "output": 500}))
    await cache.flush_writes()
    for params in (HELLO, result.key, cache.llm.key(HELLO)):
        shown = await cache.llm.inspect(params)
        assert (shown.key, shown.group, shown.cost, shown.in_l1) == (result.key, "gpt-4o", 2.0, True)
    cache.clear_l1()
    assert (await cache.llm.inspect(HELLO)).age is not None


@pytest.mark.parametrize(("seconds", "max_staleness"), [(11, 60), (5, 3)], ids=["expired", "untrusted"])
async def test_inspect_shows_an_expired_or_untrusted_copy_as_none(
    proxy: ChaosProxy, seconds: float, max_staleness: float
) -> None:
    clock = FakeClock()
    options = {"coherence": CoherenceOptions(max_staleness=max_staleness), "kv": TierOptions(l1_ttl=10)}
    async with AgentCache.from_url(proxy.url, name="test", clock=clock.clock, **options) as cache:
        await cache.kv.set("k", 1)
        proxy.stall(lane="bus")  # No PONG brings trust back.
        clock.advance(seconds)
        entry = await cache.kv.inspect("k")
        assert (entry.in_l1, entry.in_l2, entry.l1_ttl) == (False, True, None)
        proxy.heal()


async def test_inspect_shows_a_compressed_entry(make_cache: MakeCache) -> None:
    options = TierOptions(compress_above=100)
    cache = make_cache(name="test", kv=options, llm=options)
    await cache.kv.set("large", "x" * 10_000, tags=["tag"])
    await cache.kv.set("small", "x")
    await cache.llm.store(HELLO, "x" * 10_000)
    cache.clear_l1()
    large, small, answer = (
        await cache.kv.inspect("large"),
        await cache.kv.inspect("small"),
        await cache.llm.inspect(HELLO),
    )
    assert (large.is_compressed, small.is_compressed, answer.is_compressed) == (True, False, True)
    assert large.size_bytes < 1000
    assert (large.tags, answer.group) == (("tag",), "gpt-4o")


async def test_scan_and_inspect_of_a_sync_cache_show_the_same(cache: AgentCache) -> None:
    await cache.kv.set_many({"a": 1, "b": 2})
    await cache.tool.store("t", {}, 1)
    await cache.llm.store(HELLO, "x")

    def work() -> tuple[list[str | None], list[Entry]]:
        sync = cache.sync
        seen = []
        for entry in sync.kv.scan():
            seen.append(entry.name)
            assert entry.name is not None
            sync.kv.delete(entry.name)
        next(iter(sync.llm.scan()))  # Left before its end.
        found = [*sync.tool.scan(), *sync.llm.scan(), sync.kv.inspect("a"), sync.llm.inspect(HELLO)]
        return sorted(seen, key=str), [*found, sync.tool.inspect("t", {})]

    seen, entries = await asyncio.to_thread(work)
    assert seen == ["a", "b"]
    assert [entry.exists for entry in entries] == [True, True, False, True, True]


@pytest.mark.parametrize("match", ["", 1, "\ud800", "x" * 600, "[a-é]"])
async def test_scan_refuses_wrong_pattern_at_once(memory: AgentCache, match: Any) -> None:
    for tier in (memory.kv, memory.llm, memory.tool):
        with pytest.raises(UsageError, match=r"match|pattern"):
            tier.scan(match)
