"""Sessions in process memory alone."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.seams import SessionView
from tests.tiers.session.threads import change_all
from tiercache import AgentCache, L1Options, TierOptions
from tiercache.testing import FakeClock


async def test_a_change_keeps_the_window_in_memory_too() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, session=TierOptions(ttl=50)) as cache:
        await change_all(cache)
        await change_all(cache, ttl=10)
        await change_all(cache)
        time.advance(11)
        assert await cache.session.get_all("t") == {}


# In memory


async def test_memory_keeps_what_l1_would_have_evicted_and_lets_go_of_what_has_expired() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, l1=L1Options(max_entries=1, max_bytes=1)) as cache:
        for n in range(3000):
            await cache.session.set(f"t{n}", "a", str(n), ttl=None if n < 500 else 10)
        cache.clear_l1()
        assert await cache.session.get("t0", "a") == "0"
        assert await cache.session.get("t2999", "a") == "2999"
        time.advance(11)
        for n in range(3000):
            await cache.session.set("new", f"f{n}", "x")
        assert SessionView(cache).kept_counts == (3500, 3500, 501)


async def test_sessions_in_memory_survive_the_end_of_a_loop() -> None:
    cache = AgentCache.in_memory()

    def run(call: Any) -> Any:
        with asyncio.Runner() as runner:
            return runner.run(call())

    await asyncio.to_thread(run, lambda: cache.session.set("t", "a", "x"))
    assert await asyncio.to_thread(run, lambda: cache.session.get("t", "a")) == "x"
