"""``ttl`` of a loaded value: what the levels keep, and not what the options say."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.seams import in_l1
from tests.support import MakeCache, until
from tiercache import AgentCache, L1Options, LlmResponse, ResilienceOptions, TierOptions, WriteOptions
from tiercache.embedded import EmbeddedValkey

HOUR = 3600.0
KV = TierOptions(ttl=HOUR, l1_ttl=30)


async def test_loaded_ttl_is_the_lifetime_in_valkey(make_cache: MakeCache) -> None:
    cache = make_cache(kv=KV)
    assert ((await cache.kv.get_or_load("k", lambda: 1)).ttl or 0) > HOUR - 60
    assert ((await cache.kv.get_or_load("k", lambda: 1)).ttl or 0) > HOUR - 60


async def test_loaded_ttl_without_valkey_is_the_lifetime_in_l1(tmp_path: Any) -> None:
    async with AgentCache.in_memory(kv=KV) as cache:
        assert ((await cache.kv.get_or_load("k", lambda: 1)).ttl or 0) > HOUR - 60
    async with AgentCache.in_memory(kv=TierOptions(ttl=HOUR, l1=False)) as cache:
        assert (await cache.kv.get_or_load("k", lambda: 1)).ttl is None


@pytest.mark.parametrize("method", ["get_or_load", "hit"])
async def test_loaded_ttl_while_valkey_is_unavailable_is_the_trust_in_l1(tmp_path: Any, method: str) -> None:
    async with AgentCache.from_url(f"unix://{tmp_path}/none.sock", kv=KV) as cache:
        result = await cache.kv.get_or_load("k", lambda: 1)
        if method == "hit":
            result = await cache.kv.get_or_load("k", lambda: 2)
            assert result.source == "l1"
        assert result.ttl is not None
        assert result.ttl <= 3


async def test_loaded_ttl_is_none_while_valkey_is_unavailable_and_l1_keeps_nothing(tmp_path: Any) -> None:
    options = TierOptions(ttl=HOUR, l1=False)
    async with AgentCache.from_url(f"unix://{tmp_path}/none.sock", kv=options) as cache:
        assert (await cache.kv.get_or_load("k", lambda: 1)).ttl is None


async def test_loaded_ttl_is_the_life_in_l1_after_the_write_has_failed(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    """The load reads Valkey, and Valkey stops before the value is sent."""
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_failures=100)
    options = TierOptions(ttl=HOUR, lease=False)
    async with AgentCache.from_url(server.url, kv=options, resilience=resilience) as cache:
        result = await cache.kv.get_or_load("k", lambda: os.kill(pid, signal.SIGSTOP))
        await until(lambda: cache.local_stats().tiers["kv"].fill_errors, 20)
        os.kill(pid, signal.SIGCONT)
        assert result.ttl is None or result.ttl <= 30
        held = await cache.kv.get_or_load("k", lambda: None)
        assert held.source != "l1" or (held.ttl or 0) <= 30


async def test_loaded_ttl_is_the_life_in_l1_if_the_queue_is_full(make_cache: MakeCache) -> None:
    cache = make_cache(kv=KV, writes=WriteOptions(max_queue_bytes=1000))
    result = await cache.kv.get_or_load("k", lambda: "x" * 5000)
    assert cache.local_stats().tiers["kv"].fills_dropped == 1
    assert in_l1(cache, result.key)
    assert result.ttl is not None
    assert result.ttl <= 30


async def test_loaded_ttl_is_none_if_neither_level_keeps_the_value(make_cache: MakeCache) -> None:
    options = TierOptions(ttl=HOUR, max_value_bytes=1000, store_when=lambda value: value != "refused")
    cache = make_cache(kv=options, llm=TierOptions(ttl=HOUR))

    async def overtaken() -> str:
        await cache.kv.set("overtaken", "newer")
        return "older"

    kv = cache.kv
    results = {
        "bypass": await kv.get_or_load("k", lambda: 1, mode="bypass"),
        "unstorable": await kv.get_or_load("k", lambda: "\ud83d"),
        "too large": await kv.get_or_load("k", lambda: "x" * 2000),
        "store_when": await kv.get_or_load("k", lambda: "refused"),
        "overtaken": await kv.get_or_load("overtaken", overtaken),
        "store=False": await cache.llm.get_or_load(
            {"model": "m", "messages": []}, lambda: LlmResponse("x", store=False)
        ),
    }
    assert {name: result.ttl for name, result in results.items()} == dict.fromkeys(results)


async def test_loaded_ttl_is_none_after_the_lease_was_lost(make_cache: MakeCache, plain: Any) -> None:
    cache = make_cache(name="test", kv=KV)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await go_on.wait()
        return "older"

    loading = asyncio.create_task(cache.kv.get_or_load("k", load))
    await started.wait()
    plain.delete("test:__tc:kv:kv:k")
    go_on.set()
    result = await loading
    await cache.flush_writes()
    assert result.ttl is None


async def test_loaded_ttl_of_a_value_that_l1_cannot_hold_either_is_none(make_cache: MakeCache) -> None:
    cache = make_cache(kv=KV, l1=L1Options(max_bytes=1000), writes=WriteOptions(max_queue_bytes=1000))
    assert (await cache.kv.get_or_load("k", lambda: "x" * 5000)).ttl is None
