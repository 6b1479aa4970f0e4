"""Sliding TTLs: a read renews a field to the field's own TTL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from tests.support import MakeCache
from tests.tiers.session.threads import expire_calls, key_of, ttls_of
from tiercache import NO_EXPIRY, AgentCache, TierOptions
from tiercache.testing import FakeClock


@pytest.mark.parametrize(
    ("options", "ttl", "expected"),
    [
        ({}, None, None),
        ({"default_ttl": 50}, None, 50),
        ({"default_ttl": 50, "session": TierOptions(ttl="1m")}, None, 60),
        ({"default_ttl": 50, "session": TierOptions(ttl="1m")}, 70, 70),
        ({"default_ttl": 50}, NO_EXPIRY, None),
    ],
)
async def test_sliding_ttl_comes_from_call_then_tier_then_cache(
    make_cache: MakeCache, plain: valkey.Valkey, options: Any, ttl: Any, expected: float | None
) -> None:
    cache = make_cache(name="test", **options)
    await cache.session.set("t", "a", "x", ttl=ttl)
    assert ttls_of(plain, "t") == {"a": 0 if expected is None else expected * 1000}
    for key in (key_of("t", "a"), "test:__tc:thread:t"):
        left = plain.pttl(key)
        assert left == -1 if expected is None else expected * 1000 - 1000 < left <= expected * 1000


async def test_sliding_read_of_other_process_renews_to_ttl_of_field(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    await make_cache(name="test").session.set("t", "a", "x", ttl=10)
    plain.pexpire(key_of("t", "a"), 4000)
    plain.pexpire("test:__tc:thread:t", 4000)
    other = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await other.session.get("t", "a") == "x"
    await other.flush_writes()
    for key in (key_of("t", "a"), "test:__tc:thread:t"):
        assert 9000 < plain.pttl(key) <= 10_000
    # Another program renews the field by its own TTL; the next read of tiercache restores the field's TTL.
    plain.expire(key_of("t", "a"), 3600)
    third = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await third.session.get("t", "a") == "x"
    await third.flush_writes()
    assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000


async def test_sliding_read_removes_expiry_of_field_without_ttl(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await make_cache(name="test").session.set("t", "a", "x")
    plain.expire(key_of("t", "a"), 100)
    other = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await other.session.get("t", "a") == "x"
    await other.flush_writes()
    assert plain.pttl(key_of("t", "a")) == -1


@pytest.mark.parametrize(
    ("before", "after"), [(5_000, 60_000), (3_600_000, 3_600_000), (None, None)], ids=["shorter", "longer", "none"]
)
async def test_sliding_read_renews_other_writers_field_to_ttl_of_tier(
    make_cache: MakeCache, plain: valkey.Valkey, before: int | None, after: int | None
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=60))
    plain.set(key_of("t", "a"), "x", px=before)
    for read in (cache.session.get("t", "a", fresh=True), cache.session.get("t", "a", fresh=True)):
        assert await read == "x"
        await cache.flush_writes()
    assert await cache.session.touch("t") == 1
    assert await cache.session.get_all("t") == {"a": "x"}
    left = plain.pttl(key_of("t", "a"))
    assert left == -1 if after is None else after - 1000 < left <= after


async def test_sliding_read_keeps_ttl_of_other_writers_field_without_tier_ttl(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    plain.set(key_of("t", "a"), "x", px=50_000)
    assert await cache.session.get("t", "a") == "x"
    await cache.flush_writes()
    assert 49_000 < plain.pttl(key_of("t", "a")) <= 50_000


async def test_sliding_reads_renew_field_once_in_a_quarter_of_its_ttl(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    time = FakeClock()
    await make_cache(name="test").session.set("t", "a", "x", ttl=100)
    cache = make_cache(name="test", clock=time.clock)
    await cache.open()
    plain.config_resetstat()
    for _ in range(100):
        assert await cache.session.get("t", "a") == "x"  # L1 serves the read, and Valkey once a second.
        await cache.flush_writes()
        time.advance(0.249)
    assert cache.local_stats().tiers["session"].l1_hits > 50
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 1
    assert expire_calls(plain) <= 1
    time.advance(1)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 2
    assert expire_calls(plain) <= 2


async def test_sliding_concurrent_reads_renew_field_once(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await make_cache(name="test").session.set("t", "a", "x", ttl=100)
    cache = make_cache(name="test", session=TierOptions(l1=False))
    await cache.open()
    plain.config_resetstat()
    assert await asyncio.gather(*(cache.session.get("t", "a") for _ in range(100))) == ["x"] * 100
    await cache.flush_writes()
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 1


async def test_sliding_l1_hit_renews_field_in_valkey(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    time = FakeClock()
    cache = make_cache(name="test", clock=time.clock)
    await cache.session.set("t", "a", "x", ttl=2)
    plain.pexpire(key_of("t", "a"), 1000)
    time.advance(0.4)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert plain.pttl(key_of("t", "a")) <= 1000  # The renewal is not due yet.
    time.advance(0.2)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert cache.local_stats().tiers["session"].l1_hits == 2
    assert 1000 < plain.pttl(key_of("t", "a")) <= 2000


async def test_sliding_read_notices_ttl_shortened_by_other_process(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """A process that remembers the long TTL of a field still renews the field after its TTL became short."""
    cache = make_cache(name="test")
    await cache.session.set("t", "a", "x", ttl=3600)
    await make_cache(name="test").session.set("t", "a", "y", ttl=10)
    plain.pexpire(key_of("t", "a"), 4000)
    assert await cache.session.get("t", "a", fresh=True) == "y"
    await cache.flush_writes()
    assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000


async def test_sliding_touch_and_get_all_renew_each_field_to_its_ttl(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=1000))
    for field, ttl in (("a", 10), ("b", None), ("c", NO_EXPIRY)):
        await cache.session.set("t", field, "x", ttl=ttl)
    for call in (cache.session.touch, cache.session.get_all):
        plain.pexpire(key_of("t", "a"), 5000)
        plain.pexpire(key_of("t", "b"), 5000)
        await call("t")
        assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000
        assert 999_000 < plain.pttl(key_of("t", "b")) <= 1_000_000
        assert plain.pttl(key_of("t", "c")) == -1


async def test_sliding_get_all_renews_field_after_a_quarter_of_its_ttl(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "x", ttl=100)
    plain.pexpire(key_of("t", "a"), 76_000)
    await cache.session.get_all("t")
    assert plain.pttl(key_of("t", "a")) <= 76_000
    plain.pexpire(key_of("t", "a"), 74_000)
    await cache.session.get_all("t")
    assert plain.pttl(key_of("t", "a")) > 99_000


async def test_sliding_field_expires_when_it_is_not_read(make_either: MakeCache) -> None:
    time = FakeClock()
    async with make_either(clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=0.05)
        await cache.session.set("t", "b", "y", ttl=0.2)
        time.advance(0.15)
        await asyncio.sleep(0.15)
        assert await cache.session.get("t", "a") is None
        assert await cache.session.get_all("t") == {"b": "y"}
        time.advance(0.15)
        await asyncio.sleep(0.15)
        assert await cache.session.get("t", "b") == "y"  # get_all has renewed the field.


async def test_sliding_field_in_memory_is_renewed_by_reads(make_cache: MakeCache) -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=10)
        for _ in range(5):
            time.advance(9)
            assert await cache.session.get("t", "a") == "x"
        time.advance(10)
        assert await cache.session.get("t", "a") is None
