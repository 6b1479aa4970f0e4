"""Sliding TTLs: a read renews a field to the field's own TTL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from tests.support import MakeCache
from tests.tiers.session.threads import expire_calls, key_of, windows
from tiercache import NO_EXPIRY, AgentCache, TierOptions
from tiercache.testing import FakeClock

# Windows


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
async def test_the_window_is_the_calls_else_the_tiers_else_the_caches(
    make_cache: MakeCache, plain: valkey.Valkey, options: Any, ttl: Any, expected: float | None
) -> None:
    cache = make_cache(name="test", **options)
    await cache.session.set("t", "a", "x", ttl=ttl)
    assert windows(plain, "t") == {"a": 0 if expected is None else expected * 1000}
    for key in (key_of("t", "a"), "test:__tc:thread:t"):
        left = plain.pttl(key)
        assert left == -1 if expected is None else expected * 1000 - 1000 < left <= expected * 1000


async def test_a_read_by_any_process_slides_to_the_fields_own_window(
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
    # A reader that knows of no windows has renewed it by its own: the next read puts that right.
    plain.expire(key_of("t", "a"), 3600)
    third = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await third.session.get("t", "a") == "x"
    await third.flush_writes()
    assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000


async def test_a_field_without_an_end_gets_none_by_being_read(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await make_cache(name="test").session.set("t", "a", "x")
    plain.expire(key_of("t", "a"), 100)
    other = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await other.session.get("t", "a") == "x"
    await other.flush_writes()
    assert plain.pttl(key_of("t", "a")) == -1


@pytest.mark.parametrize(
    ("before", "after"), [(5_000, 60_000), (3_600_000, 3_600_000), (None, None)], ids=["shorter", "longer", "none"]
)
async def test_another_writers_field_slides_to_the_tiers_window_and_is_never_shortened(
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


async def test_without_a_ttl_of_the_tier_another_writers_field_keeps_its_own(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    plain.set(key_of("t", "a"), "x", px=50_000)
    assert await cache.session.get("t", "a") == "x"
    await cache.flush_writes()
    assert 49_000 < plain.pttl(key_of("t", "a")) <= 50_000


async def test_a_hundred_reads_within_a_quarter_of_the_window_renew_it_once_at_most(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    time = FakeClock()
    await make_cache(name="test").session.set("t", "a", "x", ttl=100)
    cache = make_cache(name="test", clock=time.clock)
    await cache.open()
    plain.config_resetstat()
    for _ in range(100):
        assert await cache.session.get("t", "a") == "x"  # From L1, and once a second from Valkey.
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


async def test_reads_at_once_renew_a_field_once(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await make_cache(name="test").session.set("t", "a", "x", ttl=100)
    cache = make_cache(name="test", session=TierOptions(l1=False))
    await cache.open()
    plain.config_resetstat()
    assert await asyncio.gather(*(cache.session.get("t", "a") for _ in range(100))) == ["x"] * 100
    await cache.flush_writes()
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 1


async def test_a_read_that_l1_answers_renews_the_field_in_valkey(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    time = FakeClock()
    cache = make_cache(name="test", clock=time.clock)
    await cache.session.set("t", "a", "x", ttl=2)
    plain.pexpire(key_of("t", "a"), 1000)
    time.advance(0.4)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert plain.pttl(key_of("t", "a")) <= 1000  # Not due yet.
    time.advance(0.2)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert cache.local_stats().tiers["session"].l1_hits == 2
    assert 1000 < plain.pttl(key_of("t", "a")) <= 2000


async def test_a_window_that_another_process_has_shortened_is_noticed(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """What a process knows of a long window must not keep it from renewing a short one."""
    cache = make_cache(name="test")
    await cache.session.set("t", "a", "x", ttl=3600)
    await make_cache(name="test").session.set("t", "a", "y", ttl=10)
    plain.pexpire(key_of("t", "a"), 4000)
    assert await cache.session.get("t", "a", fresh=True) == "y"
    await cache.flush_writes()
    assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000


async def test_touch_and_get_all_keep_each_fields_window(make_cache: MakeCache, plain: valkey.Valkey) -> None:
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


async def test_get_all_renews_once_a_quarter(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "x", ttl=100)
    plain.pexpire(key_of("t", "a"), 76_000)
    await cache.session.get_all("t")
    assert plain.pttl(key_of("t", "a")) <= 76_000
    plain.pexpire(key_of("t", "a"), 74_000)
    await cache.session.get_all("t")
    assert plain.pttl(key_of("t", "a")) > 99_000


async def test_a_field_expires_when_nobody_reads_it(make_either: MakeCache) -> None:
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
        assert await cache.session.get("t", "b") == "y"  # Renewed by get_all.


async def test_a_field_that_is_read_lives_on_in_memory(make_cache: MakeCache) -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=10)
        for _ in range(5):
            time.advance(9)
            assert await cache.session.get("t", "a") == "x"
        time.advance(10)
        assert await cache.session.get("t", "a") is None
