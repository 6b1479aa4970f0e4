"""Leases: of all processes one loads a key, and no waiter waits longer than the lease lives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import valkey

from tests.engine.coherence.holders import KEY, is_leased, load, start_holder, wait_for_lease
from tests.engine.coherence.replicas import CHANNEL
from tests.requests import HELLO, Loader, asking, turns
from tests.seams import (
    HeldReads,
    HeldWrites,
    caught_up,
    in_l1,
    internals,
    record_writes,
    set_lease_polls,
    without_lease_wakeups,
)
from tests.support import UNTRACKED, MakeCache, Pair, until
from tiercache import AgentCache, CoherenceOptions, ResilienceOptions, TierOptions
from tiercache.engine.coherence.leases import Lease, Leases
from tiercache.testing import ChaosProxy

# One load in all processes


async def test_lease_coalesces_loads_of_two_processes(tracked: Pair) -> None:
    loader = Loader(held=True)
    tasks = [load(cache, loader) for cache in tracked]
    await loader.started.wait()
    await until(lambda: sum(cache.local_stats().tiers["kv"].lease_waits for cache in tracked) == 1)
    loader.release()
    results = await asyncio.gather(*tasks)
    assert loader.calls == 1
    assert [result.value for result in results] == ["answer", "answer"]
    assert sorted(result.source for result in results) == ["l2", "loader"]


@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
async def test_lease_coalesces_loads_in_every_tier(tracked: Pair, tier: str) -> None:
    loader = Loader(held=True)

    def ask(cache: AgentCache) -> Any:
        match tier:
            case "llm":
                return cache.llm.get_or_load(HELLO, loader)
            case "tool":
                return cache.tool.get_or_load("t", {}, loader)
        return cache.kv.get_or_load("k", loader)

    tasks = [asyncio.create_task(ask(cache)) for cache in tracked for _ in range(3)]
    await loader.started.wait()
    await asyncio.sleep(0.05)
    loader.release()
    await asyncio.gather(*tasks)
    assert loader.calls == 1


async def test_lease_is_renewed_during_load_longer_than_its_ttl(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = (make_cache(name="test", coherence=CoherenceOptions(lease_ttl=0.3)) for _ in range(2))
    await b.open()
    first, second = Loader("first", held=True), Loader("second")
    loading = await start_holder(a, first)
    began = time.monotonic()
    other = load(b, second)
    await wait_for_lease(b)
    await until(lambda: time.monotonic() > began + 1)
    assert is_leased(plain)
    assert 0 < plain.pttl(KEY) <= 300
    first.release()
    assert ((await loading).value, (await other).value) == ("first", "first")
    assert (first.calls, second.calls) == (1, 0)


async def test_lease_is_not_renewed_after_its_end(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=0.1))
    await cache.kv.get_or_load("k", Loader(), ttl=0.4)
    await cache.flush_writes()
    began = time.monotonic()
    await until(lambda: plain.get(KEY) is None, seconds=2)
    assert time.monotonic() > began + 0.2


async def test_lease_end_is_announced_only_to_waiters(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    with plain.pubsub(ignore_subscribe_messages=True) as bus:
        bus.subscribe(CHANNEL)
        bus.get_message(timeout=1)
        await a.kv.get_or_load("alone", Loader())
        loader = Loader(held=True)
        loading = await start_holder(a, loader)
        other = load(b, Loader())
        await until(lambda: internals(a).is_lease_wanted(KEY))
        loader.release()
        await asyncio.gather(loading, other)
        messages = []
        while (message := bus.get_message(timeout=0.1)) is not None:
            messages.append(message["data"])
    assert not any(b"alone" in message for message in messages)
    wanted = [message for message in messages if b'"w":["test:__tc:kv:kv:k"]' in message]
    settled = [message for message in messages if b'"d":["test:__tc:kv:kv:k"]' in message]
    assert len(settled) == 1
    assert wanted + settled == messages
    assert all(b'"s":null' in message for message in messages)


async def test_lease_waiter_polls_valkey_without_wakeups(
    tracked: Pair, monkeypatch: pytest.MonkeyPatch, plain: valkey.Valkey
) -> None:
    a, b = tracked
    without_lease_wakeups(monkeypatch)
    loader = Loader(held=True)
    loading = await start_holder(a, loader)
    other = load(b, Loader("never"))
    await wait_for_lease(b)
    loader.release()
    await loading
    async with asyncio.timeout(2):
        assert (await other).source == "l2"


# How a lease ends


async def test_lease_waiter_loads_at_once_when_loader_raises(tracked: Pair, plain: valkey.Valkey) -> None:
    a, b = tracked
    failing = Loader(ValueError("no"), held=True)
    loading = await start_holder(a, failing)
    other = load(b, Loader("second"))
    await wait_for_lease(b)
    failing.release()
    with pytest.raises(ValueError, match="no"):
        await loading
    async with asyncio.timeout(2):
        result = await other
    assert (result.value, result.source) == ("second", "loader")
    await b.flush_writes()
    assert plain.get(KEY) == b"ssecond"
    assert (await a.kv.get_or_load("k", Loader())).source == "l2"


async def test_lease_is_released_when_loader_raises(cache: AgentCache, plain: valkey.Valkey) -> None:
    with pytest.raises(ValueError, match="no"):
        await cache.kv.get_or_load("k", Loader(ValueError("no")))
    await cache.flush_writes()
    assert plain.get(KEY) is None


async def test_lease_is_released_when_store_when_refuses_value(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", kv=TierOptions(store_when=lambda value: False))
    await cache.kv.get_or_load("k", Loader())
    await cache.flush_writes()
    assert plain.get(KEY) is None


async def test_lease_is_released_when_holder_is_cancelled(tracked: Pair, plain: valkey.Valkey) -> None:
    a, b = tracked
    cancelled = Loader(held=True)
    loading = await start_holder(a, cancelled)
    assert is_leased(plain)
    other = load(b, Loader("second"))
    await wait_for_lease(b)
    loading.cancel()
    async with asyncio.timeout(2):
        assert (await other).value == "second"
    assert cancelled.cancelled == 1


async def test_lease_is_released_when_cache_closes(make_cache: MakeCache, plain: valkey.Valkey, url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    loading = await start_holder(cache, Loader(held=True))
    assert is_leased(plain)
    loading.cancel()
    await turns()
    await cache.aclose()
    assert plain.get(KEY) is None


async def test_lease_waiter_cancelled_leaves_other_waiters(make_cache: MakeCache) -> None:
    a, b, c = (make_cache(name="test") for _ in range(3))
    loader, unwanted = Loader(held=True), Loader()
    loading = await start_holder(a, loader)
    tasks = [load(b, unwanted), load(b, unwanted), load(c, unwanted), load(c, unwanted)]
    await wait_for_lease(b)
    await wait_for_lease(c)
    tasks[0].cancel()
    tasks[2].cancel()
    await turns()
    loader.release()
    for task in (loading, tasks[1], tasks[3]):
        assert (await task).value == "answer"
    assert (tasks[0].cancelled(), tasks[2].cancelled()) == (True, True)
    assert unwanted.calls == 0
    assert internals(b).lease_waiter_count == 0


async def test_lease_wait_bounds_the_wait_and_keeps_late_load_unstored(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    b = make_cache(name="test", coherence=CoherenceOptions(lease_wait=0.2))
    await b.open()
    loader = Loader("theirs", held=True)
    loading = await start_holder(a, loader)
    began = time.monotonic()
    result = await b.kv.get_or_load("k", Loader("ours"))
    assert 0.2 <= time.monotonic() - began < 1.5
    assert (result.value, result.source) == ("ours", "loader")
    await b.flush_writes()
    assert is_leased(plain)
    loader.release()
    assert (await loading).value == "theirs"
    await a.flush_writes()
    assert plain.get(KEY) == b"stheirs"
    assert a.local_stats().tiers["kv"].overtaken == 0


async def test_lease_of_dead_holder_expires_after_its_ttl(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    await cache.open()
    plain.set(KEY, b"tc:lease:gone:1", px=400)
    began = time.monotonic()
    result = await cache.kv.get_or_load("k", Loader())
    assert result.source == "loader"
    assert 0.3 < time.monotonic() - began < 2
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"


@pytest.mark.parametrize("through", [False, True], ids=["its own key", "through another load"])
async def test_lease_does_not_block_nested_load_of_its_own_key(cache: AgentCache, through: bool) -> None:
    """The load of the loader is in doubt, so that the nested call starts a new load, which finds the first lease."""

    async def other(_: object) -> str:
        return (await cache.llm.get_or_load(HELLO, lambda: "inner")).response or ""

    async def outer(_: object) -> str:
        internals(cache).distrust()
        inner = await (cache.llm.get_or_load(asking("other"), other) if through else other(None))
        return f"outer of {inner if isinstance(inner, str) else inner.response}"

    await cache.open()
    async with asyncio.timeout(10):
        result = await cache.llm.get_or_load(HELLO, outer)
    assert result.response == "outer of inner"


async def test_lease_avoids_deadlock_of_holder_and_waiter_in_one_process(
    cache: AgentCache,
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def other(_: object) -> str:
        return (await cache.llm.get_or_load(HELLO, lambda: "inner")).response or ""

    async def outer(_: object) -> str:
        began.set()
        await go_on.wait()
        return f"outer of {(await cache.llm.get_or_load(asking('other'), other)).response}"

    await cache.open()
    async with asyncio.timeout(10):
        first = asyncio.create_task(cache.llm.get_or_load(HELLO, outer))
        await began.wait()
        internals(cache).distrust()
        second = asyncio.create_task(cache.llm.get_or_load(HELLO, lambda: "second"))
        await until(lambda: cache.local_stats().tiers["llm"].lease_waits == 1)
        go_on.set()
        assert (await first).response == "outer of inner"
        assert (await second).response == "outer of inner"


async def test_lease_avoids_deadlock_while_the_waiter_reads_the_key_again(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two waits, too, the load of a waiter depends on the load that holds the lease."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def outer(_: object) -> str:
        began.set()
        await go_on.wait()
        return f"outer of {(await cache.llm.get_or_load(HELLO, lambda: 'inner')).response}"

    await cache.open()
    async with asyncio.timeout(10):
        first = asyncio.create_task(cache.llm.get_or_load(HELLO, outer))
        await began.wait()
        internals(cache).distrust()
        second = asyncio.create_task(cache.llm.get_or_load(HELLO, lambda: "second"))
        await until(lambda: cache.local_stats().tiers["llm"].lease_waits == 1)
        reads = HeldReads(monkeypatch)
        await reads.answered.wait()
        go_on.set()
        assert (await first).response == "outer of inner"
        reads.release.set()
        assert (await second).response == "outer of inner"


async def test_lease_waiter_lends_its_slot(make_cache: MakeCache) -> None:
    """A loader whose nested call waits for the lease of another process lends its slot for that time."""
    a = make_cache(name="test")
    b = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    loader = Loader(held=True)
    loading = await start_holder(a, loader)

    async def outer() -> Any:
        return (await b.kv.get_or_load("k", Loader("never"))).value

    other = load(b, outer, key="outer")
    await wait_for_lease(b)
    async with asyncio.timeout(2):
        assert (await b.kv.get_or_load("another", Loader())).source == "loader"
    loader.release()
    await loading
    assert (await other).value == "answer"


# Without leases


async def test_lease_turned_off_loads_in_every_process(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = (make_cache(name="test", kv=TierOptions(lease=False)) for _ in range(2))
    await b.open()
    loader = Loader("first", held=True)
    loading = await start_holder(a, loader)
    assert plain.get(KEY) is None
    async with asyncio.timeout(2):
        assert (await b.kv.get_or_load("k", Loader("second"))).value == "second"
    loader.release()
    await loading
    assert b.local_stats().tiers["kv"].lease_waits == 0


async def test_lease_is_not_taken_without_valkey() -> None:
    async with AgentCache.in_memory() as cache:
        results = await asyncio.gather(*(cache.kv.get_or_load("k", Loader()) for _ in range(10)))
        assert {result.value for result in results} == {"answer"}
        assert cache.local_stats().tiers["kv"].lease_waits == 0


async def test_lease_is_not_taken_in_bypass_mode(tracked: Pair, plain: valkey.Valkey) -> None:
    a, b = tracked
    loader = Loader(held=True)
    loading = await start_holder(a, loader, mode="bypass")
    assert plain.get(KEY) is None
    assert (await b.kv.get_or_load("k", Loader("b"))).value == "b"
    loader.release()
    await loading


# Many keys


async def test_lease_of_other_process_is_left_alone_by_load_many(tracked: Pair, plain: valkey.Valkey) -> None:
    a, b = tracked
    loader = Loader("theirs", held=True)
    loading = await start_holder(a, loader)
    got = await b.kv.get_or_load_many(["k", "l"], lambda keys: {key: f"own {key}" for key in keys})
    assert got == {"k": "own k", "l": "own l"}
    await b.flush_writes()
    assert is_leased(plain)
    assert plain.get("test:__tc:kv:kv:l") == b"sown l"
    loader.release()
    await loading
    await a.flush_writes()
    assert plain.get(KEY) == b"stheirs"


async def test_lease_of_every_key_is_released_when_load_many_fails(cache: AgentCache, plain: valkey.Valkey) -> None:
    def fail(keys: list[str]) -> list[str]:
        assert all(is_leased(plain, f"test:__tc:kv:kv:{key}") for key in keys)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await cache.kv.get_or_load_many(["k", "l"], fail)
    await cache.flush_writes()
    assert not plain.exists(KEY, "test:__tc:kv:kv:l")


async def test_lease_on_existing_value_is_neither_renewed_nor_removed() -> None:
    lease = Lease("k", b"value")
    assert not lease.is_placeholder
    Leases(None, origin="me", ttl=1).give_up(lease)  # type: ignore[arg-type]
    lease.end()


# Guards of a load that waits


async def test_lease_waiter_reads_at_once_after_store_of_its_own_process(
    tracked: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_lease_polls(monkeypatch, 60)
    holder, waiter = tracked
    loader = Loader("older", held=True)
    loading = await start_holder(holder, loader)
    waiting = load(waiter, lambda: "not called")
    await until(lambda: internals(waiter).lease_waiter_count == 1)
    await waiter.kv.set("k", "newer")
    async with asyncio.timeout(5):
        assert (await waiting).value == "newer"
    loader.release()
    await loading


async def test_lease_waiter_keeps_value_in_l1_that_other_process_stored_during_wait(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without tracking: a second message about the same store could drop the value again.
    holder, waiter = (make_cache(name="test", coherence=UNTRACKED) for _ in range(2))
    await waiter.open()
    set_lease_polls(monkeypatch, 60)
    loader = Loader("older", held=True)
    loading = await start_holder(holder, loader)
    waiting = load(waiter, lambda: "not called")
    await until(lambda: internals(waiter).lease_waiter_count == 1)
    await holder.kv.set("k", "newer")  # Breaks the fence of the waiting load.
    async with asyncio.timeout(5):
        assert (await waiting).source == "l2"
    assert in_l1(waiter, KEY)
    loader.release()
    await loading


async def test_lease_holder_stores_value_loaded_after_change_during_its_read(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = (make_cache(name="test", coherence=UNTRACKED) for _ in range(2))
    await cache.open()
    reads = HeldReads(monkeypatch)
    loading = load(cache, lambda: "newer")
    await reads.answered.wait()
    await other.kv.delete("k")  # Breaks the fence of the load, whose loader has not been called.
    await caught_up(cache, plain)
    reads.release.set()
    await loading
    await cache.flush_writes()
    assert plain.get(KEY) == b"snewer"


async def test_lease_is_not_taken_after_degraded_read(proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    # The breaker stays closed: the degraded read alone must keep the load from a second wait for Valkey.
    resilience = ResilienceOptions(l2_timeout=0.3, breaker_failures=1000)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=resilience) as cache:
        await cache.open()
        writes = record_writes(monkeypatch)
        proxy.stall()
        result = await cache.kv.get_or_load("k", lambda: "loaded")
        assert (result.source, result.degraded) == ("loader", True)
        assert writes == []
        proxy.heal()


async def test_lease_is_not_taken_by_refresh_while_breaker_is_open(
    proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    resilience = ResilienceOptions(l2_timeout=0.3, breaker_failures=1, breaker_pause=60)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=resilience) as cache:
        await cache.open()
        proxy.stall()
        assert await cache.kv.get("k") is None
        assert internals(cache).breaker.is_open
        writes = record_writes(monkeypatch)
        # A refresh reads nothing first, so that no degraded read tells it of the outage.
        assert (await cache.kv.get_or_load("k", lambda: "loaded", mode="refresh")).value == "loaded"
        assert writes == []
        proxy.heal()


async def test_lease_is_not_taken_during_change_of_source_data(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cache.kv.invalidates("k"):
        writes = record_writes(monkeypatch)
        assert (await cache.kv.get_or_load("k", lambda: "old")).source == "loader"
        assert writes == []


async def test_lease_is_not_taken_during_store_of_its_key(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldWrites(monkeypatch)
    storing = asyncio.create_task(cache.kv.set("k", "newer"))
    await held.sending.wait()
    async with asyncio.timeout(5):
        # A lease would wait in the write pipe, behind the store.
        assert (await cache.kv.get_or_load("k", lambda: "older")).value == "older"
    held.release.set()
    await storing
    assert await cache.kv.get("k") == "newer"
