"""Order of writes: a write whose exchange was broken off never lands behind a write acknowledged later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import remember_no_broken_connections
from tests.support import StallingProxy
from tiercache import AgentCache, CoherenceOptions, L2UnavailableError, ResilienceOptions, TierOptions

TRACKING = ["interest", "broadcast"]
PATIENCE = ResilienceOptions(l2_timeout=0.1, breaker_failures=100)


async def late_write(url: str, plain: valkey.Valkey, tracking: Any, *, lease: bool) -> bytes | None:
    """Let a fill time out on its way, store a newer value, let the fill arrive; return the value in Valkey after that.

    Args:
        tracking: The value of ``CoherenceOptions.tracking``.
        lease: Whether the fill has a lease.
    """
    proxy = StallingProxy(url)
    options: dict[str, Any] = {
        "coherence": CoherenceOptions(tracking=tracking),
        "resilience": PATIENCE,
        "llm": TierOptions(lease=lease),
    }
    async with proxy as through, AgentCache.from_url(through, name="test", **options) as cache:
        await cache.llm.store(asking("warm"), "x")  # Opens the connection of the writer.
        proxy.stall_at = b"OLDER"
        result = await cache.llm.get_or_load(HELLO, Loader("OLDER"))
        await proxy.stalled.wait()
        await cache.flush_writes()
        assert cache.local_stats().tiers["llm"].fill_errors == 1
        await cache.llm.store(HELLO, "newer")
        proxy.release()
        await asyncio.sleep(0.2)
        value: bytes | None = plain.get(result.key)
        return value


@pytest.mark.parametrize("tracking", TRACKING)
@pytest.mark.parametrize("lease", [True, False])
async def test_write_that_timed_out_never_lands_behind_a_later_write(
    url: str, plain: valkey.Valkey, lease: bool, tracking: Any
) -> None:
    value = await late_write(url, plain, tracking, lease=lease)
    assert value is not None
    assert b"newer" in value


@pytest.mark.parametrize("tracking", TRACKING)
async def test_write_that_timed_out_lands_late_without_ending_its_connection(
    url: str, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, tracking: Any
) -> None:
    remember_no_broken_connections(monkeypatch)
    # Without a lease: Valkey would refuse a fill under a lease, for the key no longer holds the placeholder.
    value = await late_write(url, plain, tracking, lease=False)
    assert value is not None
    assert b"OLDER" in value


async def test_connection_has_a_deadline_of_its_own_for_opening(url: str) -> None:
    """The deadline is long enough for an exchange, but not for the two round trips of the handshake before it."""
    proxy = StallingProxy(url)
    proxy.delay = 0.3
    patience = ResilienceOptions(l2_timeout=0.5, breaker_failures=100)
    async with proxy as through, AgentCache.from_url(f"{through}?client_name=far", resilience=patience) as cache:
        await cache.llm.store(HELLO, "x")
        cache.clear_l1()
        results = await asyncio.gather(*(cache.llm.check(HELLO) for _ in range(5)))
        assert [(result.source, result.degraded) for result in results] == [("l2", False)] * 5


async def test_cache_closes_in_time_when_the_server_stays_silent(url: str) -> None:
    proxy = StallingProxy(url)
    async with proxy as through:
        cache = AgentCache.from_url(
            through, name="test", resilience=ResilienceOptions(l2_timeout=0.1, drain_timeout=0.2)
        )
        await cache.llm.store(HELLO, "x")
        proxy.stall_at = b""
        with pytest.raises(L2UnavailableError):
            await cache.llm.store(HELLO, "y")
        async with asyncio.timeout(10):
            await cache.aclose()
