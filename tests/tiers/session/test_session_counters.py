"""The counters of the session tier."""

from __future__ import annotations

from tests.seams import SessionView
from tests.support import MakeCache
from tiercache import AgentCache
from tiercache.testing import FakeClock


async def test_session_counts_reads_writes_and_hits(make_either: MakeCache) -> None:
    async with make_either() as cache:
        session = cache.session
        await session.get("t", "a")
        await session.set("t", "a", "1")
        await session.get("t", "a")
        await session.get("t", "a")
        await session.incr("t", "n")
        await session.get_or_load("t", "b", lambda: "x")
        await session.get_or_load("t", "b", lambda: "x")
        assert not await session.compare_and_set("t", "a", "other", "x")
        await session.get_all("t")
        counters = cache.local_stats().tiers["session"]
        assert (session.reads, session.writes) == (5, 3)
        assert (counters.l1_hits + counters.l2_hits, counters.misses, counters.loads) == (3, 2, 1)
        operations = cache.local_stats().operations
        assert {"session.get", "session.set", "session.incr", "session.get_or_load"} <= set(operations)


async def test_session_active_count_decays_with_time(make_either: MakeCache) -> None:
    time = FakeClock()
    async with make_either(clock=time.clock) as cache:
        session = cache.session
        assert session.active_count == 0
        await session.get("unknown", "a")
        assert session.active_count == 0
        await session.set("short", "a", "x", ttl=10)
        await session.set("long", "a", "x", ttl=100)
        await session.set("long", "b", "x", ttl=10)
        await session.set("endless", "a", "x")
        await session.set("gone", "a", "x")
        assert session.active_count == 4
        await session.destroy_thread("gone")
        assert session.active_count == 3
        time.advance(11)
        assert session.active_count == 2
        time.advance(90)
        assert session.active_count == 1
        time.advance(3600)
        assert session.active_count == 0


async def test_session_bounds_memory_of_active_threads_and_renewals(cache: AgentCache) -> None:
    sessions = SessionView(cache)
    for n in range(10_050):
        sessions.use_thread(str(n))
    assert len(sessions.active_threads) == sessions.sliding_count == 10_000
    assert "49" not in sessions.active_threads
    assert "10049" in sessions.active_threads
