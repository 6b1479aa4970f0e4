"""Announcements: a change by one replica drops the entries of the others, and breaks their reads and loads."""

from __future__ import annotations

import asyncio
import time

import pytest
import valkey

from tests.engine.coherence.replicas import CHANGES, CHANNEL, fill_replicas
from tests.requests import HELLO, Loader
from tests.seams import HeldReads, caught_up, in_l1
from tests.support import SEQUENCE, UNTRACKED, MakeCache, Pair, distrusted, until
from tiercache import AgentCache, TierOptions, ToolPolicy


@pytest.mark.parametrize("change", CHANGES)
async def test_announcement_drops_changed_entry_from_l1_of_replica(
    replicas: Pair, plain: valkey.Valkey, change: str
) -> None:
    a, b = replicas
    keys = await fill_replicas(a, b)
    await caught_up(b, plain)
    distrusted_before = distrusted(b)
    make, expected = CHANGES[change]
    await make(a)
    await caught_up(b, plain)
    assert {tier for tier, key in keys.items() if not in_l1(b, key)} == expected
    assert distrusted(b) == distrusted_before


async def test_announcement_reaches_replica_within_100_ms(replicas: Pair) -> None:
    a, b = replicas
    took = []
    for number in range(5):
        await a.kv.set("k", number)
        assert await b.kv.get("k") == number
        assert in_l1(b, "test:__tc:kv:kv:k")
        await a.kv.delete("k")
        began = time.monotonic()
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
        took.append(time.monotonic() - began)
    assert min(took) < 0.1


async def test_announcement_keeps_own_store_in_own_l1(replicas: Pair, plain: valkey.Valkey) -> None:
    a, _ = replicas
    await a.kv.set("k", "v")
    await a.llm.store(HELLO, "x")
    await caught_up(a, plain)
    assert (await a.kv.get_or_load("k", Loader())).source == "l1"
    assert (await a.llm.check(HELLO)).source == "l1"
    assert a.local_stats().heard_count == 0


async def test_announcement_is_not_published_for_first_fill(cache: AgentCache, plain: valkey.Valkey) -> None:
    with plain.pubsub(ignore_subscribe_messages=True) as bus:
        bus.subscribe(CHANNEL)
        bus.get_message(timeout=1)
        await cache.llm.get_or_load(HELLO, Loader())
        await cache.tool.get_or_load("t", {}, lambda: 1)
        await cache.kv.get_or_load("k", lambda: 1)
        await cache.kv.get_or_load_many(["l", "m"], lambda keys: [1] * len(keys))
        await cache.flush_writes()
        await cache.kv.set("last", 1)
        message = bus.get_message(timeout=2)
        assert message is not None
        assert b'"k":["test:__tc:kv:kv:last"]' in message["data"]


async def test_announcement_carries_next_number_for_each_change(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.clear()
    first = int(plain.get(SEQUENCE))
    now = time.time() * 1e6
    assert now - 60e6 < first <= now  # The first number is the clock in microseconds, not 1.
    await cache.kv.clear()
    await cache.tool.clear()
    assert int(plain.get(SEQUENCE)) == first + 2


async def test_announcement_carries_at_most_64_keys(cache: AgentCache, plain: valkey.Valkey) -> None:
    with plain.pubsub(ignore_subscribe_messages=True) as bus:
        bus.subscribe(CHANNEL)
        bus.get_message(timeout=1)
        await cache.kv.set_many({str(number): number for number in range(100)})
        messages = []
        while (message := bus.get_message(timeout=0.2)) is not None:
            messages.append(message["data"])
    counts = [message.count(b"test:__tc:kv:kv:") for message in messages]
    assert sum(counts) == 100
    assert max(counts) <= 64


async def test_announcement_publishes_changed_tool_policy(replicas: Pair) -> None:
    a, b = replicas
    await a.tool.set_policy("t", ToolPolicy(7))
    await until(lambda: b.tool.get_policy("t") == ToolPolicy(7), seconds=2)


async def test_announcement_does_not_reach_cache_of_other_name(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = make_cache(name="test"), make_cache(name="test.eu")
    await b.kv.set("k", 1)
    await a.kv.set("k", 1)
    await a.kv.clear()
    await caught_up(a, plain)
    assert (await b.kv.get_or_load("k", Loader())).source == "l1"
    assert b.local_stats().heard_count == 0


# Loads and reads in flight in another process


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("change", ["kv.set", "kv.delete", "kv.clear", "kv.delete_pattern", "invalidate_tag"])
async def test_announcement_breaks_load_in_flight_of_replica(
    make_cache: MakeCache, plain: valkey.Valkey, change: str, lease: bool
) -> None:
    a, b = (make_cache(name="test", coherence=UNTRACKED, kv=TierOptions(lease=lease)) for _ in range(2))
    await a.open()
    loader = Loader("older", held=True)
    loading = asyncio.create_task(b.kv.get_or_load("k", loader, tags=["both"]))
    await loader.started.wait()
    await CHANGES[change][0](a)
    await caught_up(b, plain)
    later = await b.kv.get_or_load("k", Loader("newest"))
    assert later.value == ("newer" if change == "kv.set" else "newest")
    loader.release()
    assert (await loading).value == "older"
    await b.flush_writes()
    assert await b.kv.get("k") == later.value
    b.clear_l1()
    assert await b.kv.get("k") == later.value


async def test_announcement_breaks_read_in_flight_of_replica(
    replicas: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = replicas
    await a.kv.set("k", "older")
    reads = HeldReads(monkeypatch)
    reading = asyncio.create_task(b.kv.get("k"))
    await reads.answered.wait()
    await a.kv.set("k", "newer")
    await caught_up(b, plain)
    reads.release.set()
    assert await reading == "older"
    assert not in_l1(b, "test:__tc:kv:kv:k")
    assert await b.kv.get("k") == "newer"


async def test_announcement_that_is_unreadable_keeps_load_out_of_l1(replicas: Pair, plain: valkey.Valkey) -> None:
    _, b = replicas
    loader = Loader("older", held=True)
    loading = asyncio.create_task(b.kv.get_or_load("k", loader))
    await loader.started.wait()
    before = distrusted(b)
    plain.publish(CHANNEL, "what is this?")
    await until(lambda: distrusted(b) > before)
    loader.release()
    await loading
    assert not in_l1(b, "test:__tc:kv:kv:k")
