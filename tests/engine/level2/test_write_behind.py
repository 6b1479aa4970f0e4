"""Write-behind stores of a cache: reads see the queued value, and a failed store leaves no older value behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey
import valkey.asyncio

from tests.requests import HELLO, Loader, asking, turns
from tests.seams import HeldWrites, any_write, caught_up, in_l1, internals, record_writes
from tests.support import UNTRACKED, MakeCache, entry_keys, until
from tiercache import AgentCache, L1Options, L2UnavailableError, ResilienceOptions, TierOptions, WriteOptions
from tiercache.engine.level2.writes import WriteSet
from tiercache.testing import ChaosProxy, FakeClock

# A max_delay longer than any test: only another write or a flush sends the queue.
BEHIND = WriteOptions(mode="behind", max_delay=3600)

# Options that keep a value out of L1.
WITHOUT_L1: dict[str, dict[str, Any]] = {
    "no l1": {"llm": TierOptions(l1=False), "tool": TierOptions(l1=False)},
    "too large": {"l1": L1Options(max_bytes=100)},
}


async def store_older(make_cache: MakeCache) -> str:
    """Store an older answer of each tier in Valkey; return the key of the llm answer."""
    other = make_cache(name="test", writes=WriteOptions())
    await other.tool.store("t", {}, "older")
    return await other.llm.store(HELLO, "older")


@pytest.mark.parametrize("options", [{}, *WITHOUT_L1.values()], ids=["l1", *WITHOUT_L1])
async def test_write_behind_serves_queued_value_to_reads(
    make_cache: MakeCache, plain: valkey.Valkey, options: dict[str, Any]
) -> None:
    key = await store_older(make_cache)
    cache = make_cache(name="test", writes=BEHIND, **options)
    assert await cache.llm.store(HELLO, "newer") == key
    await cache.tool.store("t", {}, "newer")
    for _ in range(2):
        found = await cache.llm.check(HELLO)
        assert (found.response, found.source) == ("newer", "l1")
        loaded = await cache.llm.get_or_load(HELLO, Loader("loaded"))
        assert (loaded.response, loaded.source) == ("newer", "l1")
        assert (await cache.tool.check("t", {})).response == "newer"
        cache.clear_l1()
    assert cache.local_stats().tiers["llm"].l1_hits == 4
    assert cache.local_stats().queued_write_count == 2
    assert b"older" in plain.get(key)
    await cache.flush_writes()
    assert b"newer" in plain.get(key)
    assert internals(cache).write_behind_count == 0


async def test_write_behind_queues_multipart_answer(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", writes=BEHIND)
    key = await cache.llm.store_multipart(HELLO, [{"type": "text", "text": "blocks"}])
    assert plain.get(key) is None
    assert (await cache.llm.check(HELLO)).response == "blocks"


async def test_write_behind_serves_later_of_two_stores(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldWrites(monkeypatch)
    cache = make_cache(name="test", writes=BEHIND)
    await cache.llm.store(HELLO, "first")
    flushing = asyncio.create_task(cache.flush_writes())
    await held.sending.wait()
    await cache.llm.store(HELLO, "second")
    held.release.set()
    await flushing
    assert cache.local_stats().queued_write_count == 1
    assert (await cache.llm.check(HELLO)).response == "second"
    await cache.flush_writes()
    cache.clear_l1()
    assert (await cache.llm.check(HELLO)).response == "second"


async def test_write_behind_orders_invalidation_after_queued_store(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", writes=BEHIND)
    await cache.llm.store(HELLO, "answer", tags=["tag"])
    assert await cache.llm.invalidate(HELLO)
    assert not (await cache.llm.check(HELLO)).hit
    for invalidate in (
        lambda: cache.llm.invalidate_by_model("gpt-4o"),
        lambda: cache.invalidate_tag("tag"),
        cache.llm.clear,
        cache.flush,
    ):
        await cache.llm.store(HELLO, "answer", tags=["tag"])
        assert await invalidate() == 1
        assert not (await cache.llm.check(HELLO)).hit
    assert entry_keys(plain) == []


async def test_write_behind_serves_no_queued_value_during_invalidation(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test", writes=BEHIND)
    await cache.open()
    held = HeldWrites(monkeypatch)
    await cache.llm.store(HELLO, "answer")
    invalidating = asyncio.create_task(cache.llm.invalidate(HELLO))
    await held.sending.wait()
    reading = asyncio.create_task(cache.llm.check(HELLO))
    await turns()
    assert not reading.done()
    held.release.set()
    assert await invalidating
    assert not (await reading).hit


# Other processes


@pytest.mark.parametrize("options", [{}, *WITHOUT_L1.values()], ids=["l1", *WITHOUT_L1])
async def test_write_behind_reads_valkey_after_change_by_other_process(
    make_cache: MakeCache, plain: valkey.Valkey, options: dict[str, Any]
) -> None:
    cache = make_cache(name="test", writes=BEHIND, coherence=UNTRACKED, **options)
    other = make_cache(name="test", coherence=UNTRACKED)
    await cache.open()
    await cache.llm.store(HELLO, "queued")
    await other.llm.invalidate(HELLO)
    await caught_up(cache, plain)
    # The queued store is sent before the read: the last write wins.
    found = await cache.llm.check(HELLO)
    assert (found.response, found.source) == ("queued", "l2")
    assert (await other.llm.check(HELLO)).response == "queued"


async def test_write_behind_serves_queued_value_only_within_max_staleness(make_cache: MakeCache) -> None:
    fake = FakeClock()
    cache = make_cache(
        name="test", writes=BEHIND, coherence=UNTRACKED, clock=fake.clock, llm=TierOptions(l1=False, l1_ttl=None)
    )
    await cache.open()
    await cache.llm.store(HELLO, "queued")
    fake.advance(2.9)
    assert (await cache.llm.check(HELLO)).source == "l1"
    fake.advance(0.2)
    assert (await cache.llm.check(HELLO)).source == "l2"


async def test_write_behind_serves_no_expired_queued_value(make_cache: MakeCache) -> None:
    fake = FakeClock()
    cache = make_cache(name="test", writes=BEHIND, clock=fake.clock, llm=TierOptions(l1=False))
    await cache.llm.store(HELLO, "queued", ttl=1)
    fake.advance(1.1)
    assert (await cache.llm.check(HELLO)).source != "l1"


async def test_write_behind_serves_no_queued_value_while_key_is_barred(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", writes=BEHIND)
    async with cache.llm.invalidates(HELLO):
        key = await cache.llm.store(HELLO, "half")
        assert not in_l1(cache, key)
        assert (await cache.llm.check(HELLO)).source == "l2"
    assert not (await cache.llm.check(HELLO)).hit


# Writes that are awaited in spite of write-behind


@pytest.mark.parametrize(
    "write",
    [
        lambda cache: cache.kv.set("k", 1),
        lambda cache: cache.kv.set_many({"k": 1}),
        lambda cache: cache.session.set("thread", "field", "value"),
        lambda cache: cache.llm.invalidate(HELLO),
    ],
    ids=["kv.set", "kv.set_many", "session.set", "invalidate"],
)
async def test_write_behind_awaits_acknowledgement_of_other_writes(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, write: Callable[[AgentCache], Awaitable[object]]
) -> None:
    cache = make_cache(name="test", writes=BEHIND)
    await cache.open()
    held = HeldWrites(monkeypatch)
    writing = asyncio.ensure_future(write(cache))
    await held.sending.wait()
    await turns()
    assert not writing.done()
    held.release.set()
    await writing


@pytest.mark.parametrize("mode", ["await", "behind"])
async def test_backpressure_delays_stores_and_drops_fills_when_queue_is_full(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    cache = make_cache(name="test", writes=WriteOptions(mode=mode, max_queue_bytes=2000), llm=TierOptions(lease=False))
    await cache.open()
    held = HeldWrites(monkeypatch)
    storing = [asyncio.create_task(cache.llm.store(asking(str(n)), "x" * 500)) for n in range(8)]
    sessions = asyncio.create_task(cache.session.set("thread", "field", "x" * 500))
    many = asyncio.create_task(cache.kv.set_many({"a": "x" * 500}))
    await held.sending.wait()
    await turns()
    assert cache.local_stats().queued_write_count == 3
    assert (await cache.llm.get_or_load(HELLO, Loader("loaded"))).response == "loaded"
    assert cache.local_stats().tiers["llm"].fills_dropped == 1
    deleting = asyncio.create_task(cache.kv.delete("k"))
    await turns()
    assert cache.local_stats().queued_write_count == 4
    held.release.set()
    await asyncio.gather(*storing, sessions, many, deleting)
    await cache.flush_writes()
    for n in range(8):
        assert (await cache.llm.check(asking(str(n)))).hit


async def test_write_behind_batches_stores_into_round_trips(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test", writes=WriteOptions(mode="behind"))
    await cache.open()
    batches = record_writes(monkeypatch)
    for n in range(250):
        await cache.llm.store(asking(str(n)), "answer")
    await cache.flush_writes()
    counts = [sum(isinstance(write, WriteSet) for write in batch) for batch in batches]
    assert [count for count in counts if count] == [100, 100, 50]


# Failures


@pytest.mark.parametrize("options", [{}, *WITHOUT_L1.values()], ids=["l1", *WITHOUT_L1])
async def test_write_behind_counts_lost_store_and_serves_no_older_value(
    make_cache: MakeCache,
    proxy: ChaosProxy,
    plain: valkey.Valkey,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    key = await store_older(make_cache)
    resilience = ResilienceOptions(l2_timeout=0.3, breaker_failures=1000, breaker_pause=0.5)
    async with AgentCache.from_url(proxy.url, name="test", writes=BEHIND, resilience=resilience, **options) as cache:
        proxy.refuse()
        proxy.kill(lane="commands")
        with caplog.at_level(logging.WARNING, "tiercache"):
            await cache.llm.store(HELLO, "lost")
            await cache.llm.store(asking("other"), "lost too")
            await cache.flush_writes()
        assert cache.local_stats().tiers["llm"].write_errors == 2
        assert len([record for record in caplog.records if "write_errors" in record.message]) == 1
        proxy.refuse(False)
        assert b"older" in plain.get(key)
        assert not (await cache.llm.check(HELLO)).hit
        # The older value, which the caller had replaced, is removed.
        await until(lambda: plain.get(key) is None)
        await until(lambda: not internals(cache).has_pending_invalidations)
        assert (await cache.llm.get_or_load(HELLO, Loader("loaded"))).response == "loaded"
        assert (await cache.stats()).write_errors == {"llm": 2, "tool": 0}


async def test_write_behind_removes_older_value_when_store_is_refused(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await store_older(make_cache)
    cache = make_cache(name="test", writes=BEHIND)
    await cache.open()
    await cache.llm.store(HELLO, "refused")
    plain.config_set("maxmemory", 1)
    try:
        await cache.flush_writes()
        assert cache.local_stats().tiers["llm"].write_errors == 1
        # It is a miss even while the delete is in flight.
        assert not (await cache.llm.check(HELLO)).hit
        await until(lambda: plain.get(key) is None)
        await until(lambda: not internals(cache).has_pending_invalidations)
    finally:
        plain.config_set("maxmemory", 0)
    await cache.llm.store(HELLO, "taken")
    await cache.flush_writes()
    assert b"taken" in plain.get(key)
    assert cache.local_stats().tiers["llm"].write_errors == 1


async def test_write_behind_serves_older_value_when_delete_is_refused_too(
    make_cache: MakeCache, plain: valkey.Valkey, url: str
) -> None:
    await store_older(make_cache)
    plain.acl_setuser(
        "reader", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-set", "-del"]
    )
    try:
        client = valkey.asyncio.Valkey.from_url(url, username="reader", password="any")
        async with AgentCache(client, name="test", writes=BEHIND) as cache:
            await cache.llm.store(HELLO, "refused")
            await cache.flush_writes()
            await cache.flush_writes()
            assert not internals(cache).has_pending_invalidations
            assert (await cache.llm.check(HELLO)).response == "older"
    finally:
        plain.acl_deluser("reader")


async def test_write_behind_keeps_later_store_when_earlier_store_is_lost(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test", writes=BEHIND, resilience=ResilienceOptions(breaker_pause=0.01))
    await cache.open()
    with monkeypatch.context() as patch:
        held = HeldWrites(patch, any_write, error=L2UnavailableError("away"))
        await cache.llm.store(HELLO, "first")
        flushing = asyncio.create_task(cache.flush_writes())
        await held.sending.wait()
        await asyncio.sleep(0)
    await cache.llm.store(HELLO, "second")
    held.release.set()
    await flushing
    assert not internals(cache).has_pending_invalidations
    assert (await cache.llm.check(HELLO)).response == "second"
    await cache.flush_writes()
    cache.clear_l1()
    assert (await cache.llm.check(HELLO)).response == "second"


# Close and exit


async def test_write_behind_sends_queued_stores_on_close(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url, name="test", writes=BEHIND) as cache:
        for n in range(250):
            await cache.llm.store(asking(str(n)), "answer")
    assert len(entry_keys(plain)) == 250
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("tiercache")] == []


PROGRAM = """
import asyncio, os, signal, sys
from tiercache import AgentCache, WriteOptions

async def main():
    cache = AgentCache.from_url(sys.argv[1], name="test", writes=WriteOptions(mode="behind", max_delay=3600))
    for n in range(350):
        await cache.tool.store("t", {"n": n}, "result")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize(("end", "code", "at_least"), [("ended", 0, 350), ("killed", -signal.SIGKILL, 250)])
def test_write_behind_loses_nothing_at_exit_and_one_batch_when_killed(
    url: str, plain: valkey.Valkey, end: str, code: int, at_least: int
) -> None:
    arguments = [sys.executable, "-c", PROGRAM, url, end]
    process = subprocess.run(arguments, env=os.environ, check=False, timeout=20)
    assert process.returncode == code
    assert at_least <= len([key for key in entry_keys(plain) if key.startswith("test:tool:")]) <= 350
