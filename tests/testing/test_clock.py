"""The fake clock: it moves only by ``advance``, and only forward."""

from __future__ import annotations

import math

import pytest

from tiercache import AgentCache, TierCacheError, TierOptions, UsageError
from tiercache.testing import FakeClock


def test_fake_clock_stands_still_without_advance() -> None:
    fake = FakeClock(start=1_000_000.0)
    assert (fake.clock.wall(), fake.clock.wall()) == (1_000_000.0, 1_000_000.0)
    before = fake.clock.monotonic()
    assert fake.clock.monotonic() == before


def test_fake_clock_moves_both_clocks_by_the_same_time() -> None:
    fake = FakeClock(start=1_000_000.0)
    clock, before = fake.clock, fake.clock.monotonic()
    fake.advance(1.5)
    fake.advance(0)
    fake.advance(2)
    assert clock.monotonic() - before == 3.5
    assert clock.wall() == 1_000_003.5
    assert fake.clock is clock


def test_fake_clock_has_two_clocks_with_distant_values() -> None:
    fake = FakeClock()
    assert fake.clock.wall() - fake.clock.monotonic() > 1e9
    assert FakeClock(start=0).clock.monotonic() > 0


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan, math.inf])
def test_fake_clock_refuses_to_go_back(seconds: float) -> None:
    fake = FakeClock()
    before = fake.clock.monotonic()
    with pytest.raises(UsageError, match="forward") as error:
        fake.advance(seconds)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, TierCacheError)
    assert fake.clock.monotonic() == before


@pytest.mark.parametrize("start", [math.nan, math.inf])
def test_fake_clock_refuses_a_start_that_is_not_finite(start: float) -> None:
    with pytest.raises(UsageError, match="start"):
        FakeClock(start)


async def test_fake_clock_ages_the_entries_of_a_cache() -> None:
    fake = FakeClock()
    async with AgentCache.in_memory(clock=fake.clock, kv=TierOptions(ttl="1h")) as cache:

        async def source() -> str | None:
            return (await cache.kv.get_or_load("k", lambda: "loaded")).source

        assert [await source(), await source()] == ["loader", "l1"]
        fake.advance(3599)
        assert await source() == "l1"
        fake.advance(2)
        assert await source() == "loader"
