"""Guards of kept answers: races between stale values, early refreshes, remembered errors, closing and doubt."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.engine.operations.sources import Source
from tests.seams import internals
from tests.support import MakeCache, settled, until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    L2UnavailableError,
    ResilienceOptions,
    RuntimeSettings,
    TierOptions,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.testing.clock import FakeClock

KEY = "test:__tc:kv:kv:k"


class KnownError(Exception):
    """An error that the tier remembers."""


def memory(clock: FakeClock, **options: Any) -> AgentCache:
    return AgentCache.in_memory(name="test", kv=TierOptions(ttl=60, **options), clock=clock.clock)


# Remembered errors


async def test_error_of_an_unavailable_valkey_is_not_remembered(
    make_cache: MakeCache, own_server: tuple[EmbeddedValkey, int]
) -> None:
    server, pid = own_server
    tier = TierOptions(on_error="raise", cache_errors={Exception: 600})
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_failures=1, breaker_pause=0.05)
    async with AgentCache.from_url(server.url, name="test", kv=tier, resilience=resilience) as cache:
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(L2UnavailableError):
            await cache.kv.get_or_load("k", Source("x"))
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not cache.local_stats().degraded)
        await until(lambda: cache.local_stats().trusted)
        assert (await cache.kv.get_or_load("k", Source("x"))).value == "x"


async def test_error_is_not_remembered_by_a_load_that_may_have_missed_a_change(make_cache: MakeCache) -> None:
    cache, source = make_cache(name="test", kv=TierOptions(cache_errors={KnownError: 600})), Source(KnownError("old"))
    assert await asyncio.to_thread(cache.sync.kv.get, "other") is None  # Both faces are in use.
    source.gate.clear()
    loading = asyncio.create_task(cache.kv.get_or_load("k", source))
    await until(lambda: source.count == 1)
    # Any key may have been changed: the other face drops everything.
    await asyncio.to_thread(cache.sync.clear_l1)
    source.gate.set()
    with pytest.raises(KnownError):
        await loading
    source.answer = "new"
    assert (await cache.kv.get_or_load("k", source)).value == "new"


# Stale values


async def test_stale_value_without_the_tags_of_a_call_is_not_served(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache, source = make_cache(name="test", kv=TierOptions(ttl=0.1, stale_for=600)), Source("old")
    await cache.kv.get_or_load("k", source)
    await cache.flush_writes()
    await until(lambda: not plain.exists(KEY))
    source.answer = "new"
    result = await cache.kv.get_or_load("k", source, tags=["t"])
    assert (result.value, result.source) == ("new", "loader")


CLOSING: list[Callable[[AgentCache, Any], Awaitable[object]]] = [
    lambda cache, source: cache.kv.get_or_load("k", source),
    lambda cache, source: cache.kv.get_or_load_many(["k"], lambda keys: source.many(keys)),
]


@pytest.mark.parametrize("look", CLOSING, ids=["one", "many"])
async def test_stale_value_is_not_refreshed_while_the_cache_closes(
    look: Callable[[AgentCache, Any], Awaitable[object]],
) -> None:
    clock, source, found = FakeClock(), Source("old"), list[object]()
    source.many = lambda keys: dict.fromkeys(keys, source.loaded())  # type: ignore[attr-defined]
    cache = memory(clock, stale_for=30)
    await cache.kv.get_or_load("k", source)
    clock.advance(61)
    gate, began = asyncio.Event(), asyncio.Event()
    refreshed: list[str] = []

    def loaded() -> str:
        refreshed.append("many")
        return "new"

    source.loaded = loaded  # type: ignore[attr-defined]

    async def load() -> str:
        began.set()
        await gate.wait()
        found.append(await look(cache, source))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "x"

    loading = asyncio.create_task(cache.kv.get_or_load("other", load))
    await began.wait()
    closing = asyncio.create_task(cache.aclose())
    await until(lambda: internals(cache).is_closing)
    gate.set()
    await asyncio.gather(loading, closing)
    assert len(found) == 1
    assert (source.count, refreshed) == (1, [])


async def test_stale_values_of_many_keys_are_refreshed_once_and_pause() -> None:
    clock, asked, fails = FakeClock(), list[list[str]](), False
    gate = asyncio.Event()

    async def load(keys: list[str]) -> dict[str, str]:
        asked.append(keys)
        if len(asked) > 1:
            await gate.wait()
        if fails:
            raise KnownError("down")
        return dict.fromkeys(keys, "v")

    async with memory(clock, stale_for=300, retry_pause=5) as cache:
        await cache.kv.get_or_load_many(["a", "b"], load)
        clock.advance(61)
        single = Source("v")
        single.gate.clear()
        assert (await cache.kv.get_or_load("a", single)).source == "stale"
        # The key "a" is being refreshed.
        assert await cache.kv.get_or_load_many(["a", "b"], load) == {"a": "v", "b": "v"}
        await until(lambda: len(asked) == 2)
        assert asked[1] == ["b"]
        # Both are being refreshed, the pause of "b" has ended.
        clock.advance(6)
        assert await cache.kv.get_or_load_many(["a", "b"], load) == {"a": "v", "b": "v"}
        fails = True
        gate.set()
        single.gate.set()
        await settled()
        assert len(asked) == 2
        assert await cache.kv.get_or_load_many(["b"], load) == {"b": "v"}
        await settled()
        assert asked[2:] == [["b"]]
        # The refresh has failed, and pauses.
        assert await cache.kv.get_or_load_many(["b"], load) == {"b": "v"}
        await settled()
        assert asked[2:] == [["b"]]
        clock.advance(5)
        assert await cache.kv.get_or_load_many(["b"], load) == {"b": "v"}
        await settled()
        assert asked[2:] == [["b"], ["b"]]


async def test_values_of_many_keys_past_their_time_in_l1_are_read_from_valkey(make_cache: MakeCache) -> None:
    clock = FakeClock()
    tier = TierOptions(ttl=3600, l1_ttl=0.5, stale_for=600)
    cache = make_cache(name="test", kv=tier, clock=clock.clock)
    await cache.kv.set("k", "v")
    clock.advance(1)
    await until(lambda: cache.local_stats().trusted)

    def load(keys: list[str]) -> dict[str, str]:
        raise AssertionError(f"{keys} are in Valkey")

    assert await cache.kv.get_or_load_many(["k"], load) == {"k": "v"}
    counts = cache.local_stats().tiers["kv"]
    assert (counts.stale_hits, counts.l2_hits, counts.refreshes) == (0, 1, 0)


# Early refresh


async def early(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, **options: Any
) -> tuple[AgentCache, Source]:
    """Return a cache in which the value of "k" is due for its early refresh, and its loader."""
    monkeypatch.setattr("random.random", lambda: 0.9)
    tier = TierOptions(ttl=600, l1_ttl=None, early_refresh=1000)
    cache = make_cache(name="test", kv=tier, clock=clock.clock, **options)
    source = Source("old")

    async def slow() -> Any:
        clock.advance(1)
        return await source()

    await cache.kv.get_or_load("k", slow)
    await cache.flush_writes()
    return cache, source


async def test_early_refresh_loads_although_valkey_has_the_value_itself(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    cache, source = await early(make_cache, monkeypatch, clock)
    # The second read of the expiry differs from the first one by latencies.
    clock.advance(0.5)
    await until(lambda: cache.local_stats().trusted)
    source.answer = "new"
    result = await cache.kv.get_or_load("k", source)
    assert (result.value, result.source) == ("old", "l1")
    await settled()
    assert source.count == 2
    assert await cache.kv.get("k") == "new"


async def test_early_refresh_takes_a_value_that_another_process_has_refreshed(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    # Without tracking the copy in L1 stays when another client changes the key.
    cache, source = await early(make_cache, monkeypatch, clock, coherence=CoherenceOptions(tracking="off"))
    plain.expire(KEY, 1200)
    result = await cache.kv.get_or_load("k", source)
    assert (result.value, result.source) == ("old", "l1")
    await settled()
    assert source.count == 1
    assert (await cache.kv.explain("k")).l2_ttl == pytest.approx(1200, abs=10)


# Settings at run time


async def test_load_of_a_disabled_tier_takes_no_lease(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    await cache.configure("kv", RuntimeSettings(enabled=False))

    async def load() -> bool:
        return bool(plain.exists(KEY))

    assert (await cache.kv.get_or_load("k", load)).value is False
    assert await cache.kv.get_or_load_many(["k"], lambda keys: dict.fromkeys(keys, plain.exists(KEY))) == {"k": 0}
