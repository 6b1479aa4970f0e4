"""Sessions in process memory alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.seams import SessionView
from tests.tiers.session.threads import change_all
from tiercache import AgentCache, L1Options, TierOptions, UsageError
from tiercache.testing import FakeClock


async def test_session_in_memory_keeps_ttl_of_changed_field() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, session=TierOptions(ttl=50)) as cache:
        await change_all(cache)
        await change_all(cache, ttl=10)
        await change_all(cache)
        time.advance(11)
        assert await cache.session.get_all("t") == {}


async def test_session_in_memory_evicts_no_field_and_removes_expired_fields() -> None:
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


async def test_session_in_memory_survives_end_of_loop() -> None:
    cache = AgentCache.in_memory()

    def run(call: Any) -> Any:
        with asyncio.Runner() as runner:
            return runner.run(call())

    await asyncio.to_thread(run, lambda: cache.session.set("t", "a", "x"))
    assert await asyncio.to_thread(run, lambda: cache.session.get("t", "a")) == "x"


async def test_session_takes_its_options_from_a_subclass_of_tier_options() -> None:
    class ShortOptions(TierOptions):
        """The options of a caller that has a class of its own for them."""

    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, session=ShortOptions(ttl=5, lease=False)) as cache:
        await cache.session.set("t", "f", "v")
        time.advance(6)
        assert await cache.session.get("t", "f") is None
    with pytest.raises(UsageError, match="session must be a SessionOptions"):
        AgentCache.in_memory(session=ShortOptions(jitter=0.1))
