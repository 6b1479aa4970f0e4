"""Trust: L1 serves no entry past ``max_staleness`` while announcements may be missing: a bus that hangs or is cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import valkey
import valkey.asyncio

from tests.engine.coherence.replicas import CHANNEL, fill_replicas
from tests.requests import Loader
from tests.seams import HeldNumbers, L1View, caught_up, in_l1, internals
from tests.support import SEQUENCE, MakeCache, Pair, distrusted, until
from tiercache import AgentCache, CoherenceOptions, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

# Hanging and cut buses


async def test_trust_ends_within_max_staleness_while_bus_hangs(
    make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    async with AgentCache.from_url(proxy.url, name="test", coherence=CoherenceOptions(max_staleness=0.6)) as b:
        await a.kv.set("k", "older")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "older"
        proxy.stall(lane="bus")
        await a.kv.delete("k")
        acknowledged = time.monotonic()
        assert await b.kv.get("k") == "older"  # The announcement has not arrived.
        while time.monotonic() <= acknowledged + 0.6:
            await b.kv.get("k")
            await asyncio.sleep(0.01)
        assert await b.kv.get("k") is None
        proxy.heal()


async def test_trust_lasts_while_bus_answers_and_returns_when_it_answers_again(
    make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    options = CoherenceOptions(max_staleness=0.6, tracking="off")
    async with AgentCache.from_url(proxy.url, name="test", coherence=options) as b:
        await a.kv.set("k", "v")
        await caught_up(b, plain)
        first = await b.kv.get_or_load("k", Loader())
        assert first.source == "l2"
        loaded = time.monotonic()
        await until(lambda: time.monotonic() > loaded + 0.8)  # Longer than L1 serves an entry without trust.
        assert (await b.kv.get_or_load("k", Loader())).source == "l1"
        proxy.stall(lane="bus")
        await until(lambda: not b.local_stats().trusted)
        assert (await b.kv.get_or_load("k", Loader())).source == "l2"
        proxy.heal()
        await until(lambda: b.local_stats().trusted)
        await b.kv.get("k")
        assert (await b.kv.get_or_load("k", Loader())).source == "l1"


async def test_trust_bounds_joining_a_flight_while_bus_hangs(proxy: ChaosProxy) -> None:
    options = CoherenceOptions(max_staleness=0.6)
    async with AgentCache.from_url(proxy.url, name="test", coherence=options, kv=TierOptions(lease=False)) as b:
        await until(lambda: b.local_stats().trusted)
        loader = Loader(held=True)
        proxy.stall(lane="bus")
        first = asyncio.create_task(b.kv.get_or_load("k", loader))
        await loader.started.wait()
        joined = asyncio.create_task(b.kv.get_or_load("k", loader))
        began = time.monotonic()
        await until(lambda: not b.local_stats().trusted and time.monotonic() > began + 0.7)
        assert (await b.kv.get_or_load("k", Loader("newer"))).value == "newer"
        assert loader.calls == 1
        loader.release()
        assert [(await task).value for task in (first, joined)] == ["answer", "answer"]
        proxy.heal()


async def cut(proxy: ChaosProxy) -> None:
    proxy.refuse()
    proxy.kill(lane="bus")
    await until(lambda: proxy.connection_count("bus") == 0)


async def test_trust_drops_l1_after_reconnect_when_a_change_was_missed(
    make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    # The bound does not end within this test.
    options = CoherenceOptions(max_staleness=300, tracking="off")
    async with AgentCache.from_url(proxy.url, name="test", coherence=options) as b:
        await a.kv.set("k", "older")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "older"
        before = distrusted(b)
        await cut(proxy)
        await a.kv.set("k", "newer")
        assert await b.kv.get("k") == "older"
        proxy.refuse(False)
        await until(lambda: distrusted(b) > before)
        assert await b.kv.get("k") == "newer"
        await a.kv.set("k", "newest")
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))


async def test_trust_drops_l1_after_reconnect(make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey) -> None:
    a = make_cache(name="test")
    options = CoherenceOptions(max_staleness=300, tracking="off")
    async with AgentCache.from_url(proxy.url, name="test", coherence=options) as b:
        await a.kv.set("k", "v")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "v"
        before = distrusted(b)
        subscription = internals(b).subscription
        await cut(proxy)
        proxy.refuse(False)
        await until(lambda: internals(b).subscription not in (None, subscription))
        await a.kv.set("another", "x")
        await caught_up(b, plain)
        assert distrusted(b) == before + 1
        assert (await b.kv.get_or_load("k", Loader())).source == "l2"


async def test_trust_returns_after_reconnect_when_bus_hangs_for_long(
    make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    options = CoherenceOptions(max_staleness=0.6)
    async with AgentCache.from_url(proxy.url, name="test", coherence=options) as b:
        await a.kv.set("k", "older")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "older"
        proxy.half_open(lane="bus")  # Until the end of the test.
        await a.kv.set("k", "newer")
        await until(lambda: not b.local_stats().trusted)
        await until(lambda: b.local_stats().trusted)
        assert await b.kv.get("k") == "newer"
        await a.kv.set("k", "newest")
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"), seconds=1)


# Unreadable and missing announcements


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"what is this?",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"v":2,"s":null,"o":"x","k":["test:__tc:kv:kv:k"]}',
        b'{"v":1,"s":null,"o":"x","k":["test:__tc:kv:kv:k"]}',
        b'{"v":1,"s":null,"o":"x","later":1}',
        b'{"v":1,"s":null,"o":"x","k":"test:__tc:kv:kv:k"}',
        b"[" * 100_000,
    ],
)
async def test_trust_drops_l1_after_unreadable_message(replicas: Pair, plain: valkey.Valkey, message: bytes) -> None:
    a, b = replicas
    await fill_replicas(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.publish(CHANNEL, message)
    await until(lambda: distrusted(b) == before + 1)
    assert b.local_stats().l1_entry_count == 0
    await a.kv.set("k", "newer")
    assert await b.kv.get("k") == "newer"


async def test_trust_drops_l1_after_gap_in_numbers(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    keys = await fill_replicas(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.incr(SEQUENCE)  # A change whose announcement is missing.
    await a.kv.set("another", "x")
    await caught_up(b, plain)
    assert distrusted(b) == before + 1
    assert not any(in_l1(b, key) for key in keys.values())


async def test_trust_drops_l1_after_number_without_announcement(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = (make_cache(name="test", coherence=CoherenceOptions(tracking="off", max_staleness=0.6)) for _ in range(2))
    await fill_replicas(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.incr(SEQUENCE)
    await until(lambda: distrusted(b) == before + 1, seconds=1)


async def test_trust_misses_no_change_after_counter_is_lost(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    await fill_replicas(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.delete(SEQUENCE)
    await a.kv.set("another", "x")
    await until(lambda: distrusted(b) > before)
    await a.kv.set("k", "newer")
    await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
    assert await b.kv.get("k") == "newer"


@pytest.mark.parametrize("junk", [b"no number", b"9223372036854775807"])
async def test_trust_restarts_counter_with_unusable_value(replicas: Pair, plain: valkey.Valkey, junk: bytes) -> None:
    a, b = replicas
    await fill_replicas(a, b)
    plain.set(SEQUENCE, junk)
    await a.kv.set("k", "newer")
    await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
    assert int(plain.get(SEQUENCE)) > 1e15


@pytest.fixture
def silent_writer(server: EmbeddedValkey, plain: valkey.Valkey) -> Iterator[valkey.asyncio.Valkey]:
    """Return a client whose user may run every command but may not publish or subscribe."""
    plain.acl_setuser(
        "silent", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"], reset_channels=True
    )
    path = server.url.removeprefix("unix://")
    yield valkey.asyncio.Valkey(unix_socket_path=path, username="silent", password="secret")
    plain.acl_deluser("silent")


async def test_trust_bounds_staleness_after_change_by_unpublishing_writer(
    make_cache: MakeCache, silent_writer: valkey.asyncio.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    options = CoherenceOptions(tracking="off", max_staleness=0.9)
    b = make_cache(name="test", coherence=options)
    async with AgentCache(silent_writer, name="test", coherence=options) as writer:
        assert "Cannot subscribe to invalidations" in caplog.text
        await writer.kv.set("k", "older")
        assert await b.kv.get("k") == "older"
        await until(lambda: b.local_stats().trusted)
        for number in range(3):
            await writer.kv.set("k", number)
            acknowledged = time.monotonic()
            while await b.kv.get("k") != number:
                assert time.monotonic() < acknowledged + 0.9 + 0.1  # 0.1 s for a slow machine.
                await asyncio.sleep(0.005)


async def test_trust_misses_no_first_change_by_unpublishing_writer(
    make_cache: MakeCache, silent_writer: valkey.asyncio.Valkey, plain: valkey.Valkey
) -> None:
    """The replica subscribes before the first change of all; the second change is announced."""
    options = CoherenceOptions(tracking="off", max_staleness=3)
    a, b = (make_cache(name="test", coherence=options) for _ in range(2))
    await a.kv.get_or_load("k", lambda: "older")
    await a.flush_writes()
    assert await b.kv.get("k") == "older"
    async with AgentCache(silent_writer, name="test", coherence=options) as writer:
        await b.open()
        await writer.kv.set("k", "newer")
        await a.kv.set("another", "x")
        await caught_up(b, plain)
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"), seconds=3.5)


async def test_trust_is_not_extended_by_position_read_before_a_change(
    make_cache: MakeCache, silent_writer: valkey.asyncio.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply with the last number arrives long before the ping that carries the number is sent."""
    options = CoherenceOptions(tracking="off", max_staleness=0.9)
    b = make_cache(name="test", coherence=options)
    async with AgentCache(silent_writer, name="test", coherence=options) as writer:
        await writer.kv.set("k", "older")
        assert await b.kv.get("k") == "older"
        await until(lambda: b.local_stats().trusted)
        positions = HeldNumbers(monkeypatch, b)
        await positions.answered.wait()
        await writer.kv.set("k", "newer")
        acknowledged = time.monotonic()
        await until(lambda: time.monotonic() > acknowledged + 0.3)
        positions.answered.clear()
        positions.release.set()
        positions.release.clear()
        await positions.answered.wait()  # The next ping is held too, so that only the ping before it extends trust.
        assert L1View(b).trusted_until <= acknowledged + 0.9
        positions.release.set()
