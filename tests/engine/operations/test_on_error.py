"""``on_error``: which calls of a tier raise while Valkey does not answer."""

from __future__ import annotations

from typing import Any

import pytest
import valkey

from tests.seams import record_reads
from tests.support import until
from tiercache import MISS, AgentCache, L2UnavailableError, ResilienceOptions, TierOptions, UsageError
from tiercache.testing import ChaosProxy

OPTIONS: dict[str, Any] = {
    "name": "test",
    "resilience": ResilienceOptions(l2_timeout=0.1, breaker_failures=5, breaker_pause=0.1),
}


def behind(proxy: ChaosProxy, on_error: Any) -> AgentCache:
    """Return a cache behind ``proxy`` whose kv tier has ``on_error``."""
    return AgentCache.from_url(proxy.url, kv=TierOptions(on_error=on_error, l1=False), **OPTIONS)


async def test_on_error_degrade_swallows_and_counts_stores(proxy: ChaosProxy, plain: valkey.Valkey) -> None:
    async with behind(proxy, "degrade") as cache:
        await cache.kv.set("key", "old")
        proxy.refuse()
        proxy.kill()
        await cache.kv.set("key", "new")
        await cache.kv.set_many({"a": 1, "b": 2})
        assert await cache.kv.get("key") is None
        assert cache.local_stats().tiers["kv"].write_errors == 3
        proxy.heal()
        # The older value must not be served again.
        await until(lambda: not plain.exists("test:__tc:kv:kv:key"))
        await until(lambda: not cache.local_stats().degraded)
        assert await cache.kv.get("key", MISS) is MISS


async def test_on_error_none_raises_for_stores_alone(proxy: ChaosProxy) -> None:
    async with behind(proxy, None) as cache:
        proxy.refuse()
        proxy.kill()
        with pytest.raises(L2UnavailableError):
            await cache.kv.set("key", "new")
        assert (await cache.kv.get_or_load("key", lambda: "x")).degraded


async def test_on_error_raise_raises_for_lookups_and_loads(proxy: ChaosProxy) -> None:
    async with behind(proxy, "raise") as cache:
        await cache.kv.set("key", "x")
        proxy.refuse()
        proxy.kill()
        loads: list[int] = []
        with pytest.raises(L2UnavailableError):
            await cache.kv.get("key")
        with pytest.raises(L2UnavailableError):
            await cache.kv.get_many(["key", "b"])
        with pytest.raises(L2UnavailableError):
            await cache.kv.get_or_load("key", lambda: loads.append(1))
        with pytest.raises(L2UnavailableError):
            await cache.kv.set("key", "y")
        assert loads == []


async def test_on_error_lets_a_thousand_calls_ask_valkey_a_few_times(
    proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = record_reads(monkeypatch)
    async with behind(proxy, None) as cache:
        await cache.kv.set("key", "x")
        proxy.refuse()
        proxy.kill()
        for n in range(1000):
            assert (await cache.kv.get_or_load(f"key{n}", lambda: "x")).value == "x"
        stats = cache.local_stats()
        assert stats.degraded
        assert len(asked) == 5  # ``breaker_failures``
        assert stats.tiers["kv"].loads == 1000
        proxy.heal()
        await until(lambda: not cache.local_stats().degraded)
        assert await cache.kv.get("key") == "x"


def test_on_error_refuses_other_values() -> None:
    with pytest.raises(UsageError, match=r"TierOptions\.on_error must be"):
        TierOptions(on_error="ignore")  # type: ignore[arg-type]


async def test_on_error_degrade_is_refused_for_sessions() -> None:
    for on_error in ("degrade", "raise"):
        with pytest.raises(UsageError, match="on_error"):
            AgentCache.in_memory(session=TierOptions(on_error=on_error))  # type: ignore[arg-type]
