"""The exact number of active threads: of all processes, until the thread ends, is destroyed or has no field."""

from __future__ import annotations

import asyncio
import time

import pytest
import valkey

from tests.seams import internals, set_intervals
from tests.support import MakeCache, Pair, until
from tiercache import AgentCache, L2UnavailableError, SessionOptions
from tiercache.testing import FakeClock
from tiercache.tiers.session.active import ActiveThreads
from tiercache.tiers.session.exact_active import ExactActive

ACTIVE = "test:__tc:active"
EXACT = SessionOptions(exact_active=True)


@pytest.fixture
async def exact(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Return two processes of one cache that count together, twenty times a second."""
    set_intervals(monkeypatch, send=0.05)
    pair = make_cache(name="test", session=EXACT), make_cache(name="test", session=EXACT)
    for cache in pair:
        await cache.open()
    return pair


async def _counts(pair: Pair, expected: int) -> None:
    await until(lambda: [cache.session.active_count for cache in pair] == [expected] * 2)


async def test_active_count_has_the_threads_of_all_processes(exact: Pair, plain: valkey.Valkey) -> None:
    one, other = exact
    for number in range(3):
        await one.session.set(f"a{number}", "f", "x", ttl=60)
        await other.session.set(f"b{number}", "f", "x")
    await other.session.set("a0", "g", "x", ttl=60)
    await _counts(exact, 6)
    assert 0 < plain.pttl(ACTIVE) <= 3_600_000
    scores = dict(plain.zrange(ACTIVE, 0, -1, withscores=True))
    left = {thread: score - time.time() * 1000 for thread, score in scores.items()}
    assert 50_000 < left[b"a0"] <= 61_000
    # A field without an end counts for an hour.
    assert 3_590_000 < left[b"b0"] <= 3_601_000


async def test_expired_thread_leaves_the_gauge_of_every_process(exact: Pair, plain: valkey.Valkey) -> None:
    one, other = exact
    await one.session.set("short", "f", "x", ttl=0.3)
    await other.session.set("long", "f", "x", ttl=60)
    await _counts(exact, 2)
    await _counts(exact, 1)
    assert plain.zrange(ACTIVE, 0, -1) == [b"long"]


async def test_thread_without_a_field_leaves_the_gauge_of_every_process(exact: Pair) -> None:
    one, other = exact
    for thread in ("destroyed", "deleted", "kept"):
        await one.session.set(thread, "f", "x")
    await _counts(exact, 3)
    await other.session.destroy_thread("destroyed")
    await _counts(exact, 2)
    await other.session.delete("deleted", "f")
    await _counts(exact, 1)
    await other.session.clear()
    await _counts(exact, 0)
    await one.session.set("kept", "f", "x")
    await _counts(exact, 1)


async def test_sync_face_adds_to_the_exact_count(exact: Pair) -> None:
    cache, other = exact

    def work() -> None:
        cache.sync.session.set("plain", "f", "x")

    await asyncio.to_thread(work)
    await until(lambda: other.session.active_count == 1)
    await until(lambda: cache.sync.session.active_count == cache.session.active_count == 1)
    await asyncio.to_thread(cache.sync.close)


async def test_last_uses_are_sent_when_the_cache_closes(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    async with make_cache(name="test", session=EXACT) as cache:
        await cache.session.set("t", "f", "x")
    assert plain.zrange(ACTIVE, 0, -1) == [b"t"]


async def test_use_is_sent_twice_so_that_a_renewal_behind_it_counts(cache: AgentCache, plain: valkey.Valkey) -> None:
    active, level2 = ActiveThreads(), internals(cache).unguarded_level2
    exact = ExactActive(active, "test", time.monotonic)
    hash_key = "test:__tc:thread:t"
    plain.hset(hash_key, "f", 1)
    active.seen("t", 0.0, 1.0)

    async def left_after_round(milliseconds: int) -> float:
        plain.pexpire(hash_key, milliseconds)
        await exact.send(level2)
        return float(plain.zscore(ACTIVE, "t")) - time.time() * 1000

    assert await left_after_round(10_000) < 15_000
    assert await left_after_round(100_000) > 50_000
    # The thread is not used any more.
    assert await left_after_round(1_000_000) < 150_000


async def test_estimate_counts_while_valkey_does_not_answer(make_cache: MakeCache) -> None:
    clock = FakeClock()
    active = ActiveThreads()
    active.seen("t", clock.clock.monotonic(), 10.0**9)
    active.note_exact(7, clock.clock.monotonic())
    assert active.count(clock.clock.monotonic()) == 7
    clock.advance(11)
    assert active.count(clock.clock.monotonic()) == 1


async def test_failed_round_is_repeated(cache: AgentCache, plain: valkey.Valkey) -> None:
    class Unavailable:
        async def execute(self, commands: object) -> object:
            raise L2UnavailableError("gone")

    active = ActiveThreads()
    exact = ExactActive(active, "test", time.monotonic)
    plain.hset("test:__tc:thread:t", "f", 1)
    plain.zadd(ACTIVE, {"older": 10**15})
    active.clear()
    active.seen("t", 0.0, 1.0)
    for _ in range(3):
        with pytest.raises(L2UnavailableError):
            await exact.send(Unavailable())  # type: ignore[arg-type]
    await exact.send(internals(cache).unguarded_level2)
    assert plain.zrange(ACTIVE, 0, -1) == [b"t"]


async def test_cache_without_the_option_keeps_no_set(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "f", "x")
    await cache.aclose()
    assert not plain.exists(ACTIVE)


async def test_cache_in_memory_counts_its_own_threads() -> None:
    async with AgentCache.in_memory(session=EXACT) as cache:
        await cache.session.set("t", "f", "x")
        assert cache.session.active_count == 1
