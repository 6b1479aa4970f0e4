"""The statistics of a process with two faces: every call counts once, on either face."""

from __future__ import annotations

import asyncio

import valkey
from prometheus_client import CollectorRegistry

from tests.requests import HELLO
from tests.support import MakeCache, until
from tiercache import SyncCache, TelemetryOptions


async def test_stats_of_either_face_include_every_call_of_both(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    for number in range(1, 6):
        await cache.llm.store(HELLO, "x")
        await cache.llm.check(HELLO)
        cache.sync.llm.check(HELLO)
        cache.sync.tool.get_or_load("t", {"n": number}, lambda n: n)
        cache.sync.session.get("thread", "absent")
        await cache.session.get("thread", "absent")
        for stats in (await cache.stats(), cache.sync.stats()):
            assert (stats.llm.hits, stats.tool.misses, stats.session.reads) == (2 * number, number, 2 * number)
    assert cache.sync.tool_effectiveness() == await cache.tool_effectiveness()


async def test_counts_of_both_faces_reach_the_hash_once(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")

    def check() -> None:
        for _ in range(200):
            cache.sync.kv.get("absent")

    checking = asyncio.gather(*(asyncio.to_thread(check) for _ in range(3)))
    for number in range(200):
        await cache.kv.get("absent")
        if not number % 20:
            await asyncio.gather(cache.stats(), asyncio.to_thread(cache.sync.stats))
    await checking
    await cache.aclose()
    assert plain.hget("test:__stats", "tc:kv:kv:lookups") == b"800"


async def test_local_stats_are_those_of_both_faces(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    cache.sync.open()
    await cache.kv.clear()
    await until(lambda: cache.local_stats().heard_count >= 1)
    await cache.kv.set("k", 1)
    await cache.kv.get("k")
    cache.sync.kv.get("k")
    cache.sync.kv.get("k")
    assert cache.local_stats() == cache.sync.local_stats()
    stats = cache.local_stats()
    assert (stats.tiers["kv"].l1_hits, stats.tiers["kv"].l2_hits) == (2, 1)
    assert stats.operations["kv.get"].calls == 1
    assert stats.operations["kv.set"].calls == 1
    assert stats.l1_entry_count == 2
    assert stats.trusted


def test_local_stats_of_an_unused_async_face_are_those_of_the_sync_face(sync: SyncCache) -> None:
    sync.kv.set("k", 1)
    stats = sync.local_stats()
    assert stats.trusted
    assert not stats.degraded
    assert stats.l1_entry_count == 1


async def test_prometheus_counts_each_call_and_each_cache_once(make_cache: MakeCache) -> None:
    registry = CollectorRegistry()
    cache = make_cache(name="test", telemetry=TelemetryOptions(registry=registry))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"agent_cache_{name}", {"cache_name": "test", **labels})

    await cache.kv.set("k", 1)
    await cache.kv.get("k")
    cache.sync.kv.get("k")
    await cache.session.set("thread", "field", "x")
    cache.sync.session.get("thread", "field")
    cache.sync.session.get("other", "field")
    assert value("requests_total", tier="kv", result="hit", tool_name="") == 2
    assert value("operation_duration_seconds_count", tier="kv", operation="get") == 1
    assert value("active_sessions") == 1
    assert value("l1_trusted") == 1
    assert value("breaker_open") == 0
    assert value("l1_entries") == cache.local_stats().l1_entry_count
    assert value("config_refresh_failed_total") == 0
    cache.sync.close()
    assert value("requests_total", tier="kv", result="hit", tool_name="") == 2
    await cache.aclose()
    assert value("requests_total", tier="kv", result="hit", tool_name="") == 2
    assert value("operation_duration_seconds_count", tier="kv", operation="get") == 1


async def test_cache_stays_registered_until_its_last_face_is_closed(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test")
    await cache.open()
    cache.sync.open()
    assert plain.exists("__betterdb:heartbeat:test")
    cache.sync.close()
    assert plain.exists("__betterdb:heartbeat:test")
    await cache.aclose()
    assert not plain.exists("__betterdb:heartbeat:test")
