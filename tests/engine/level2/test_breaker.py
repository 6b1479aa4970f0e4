"""The breaker: an outage costs a few timeouts, is logged once, and ends without a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import record_pings, record_reads
from tests.support import UNTRACKED, StallingProxy, kept_registry, until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    ConnectionOptions,
    L2UnavailableError,
    ResilienceOptions,
    TelemetryOptions,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.level2.breaker import Breaker, GuardedLevel2
from tiercache.engine.level2.writes import WriteSet
from tiercache.log import CacheLog
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.telemetry import names

LOST = L2UnavailableError("away")


def new_breaker(failures: int) -> Breaker:
    return Breaker(ResilienceOptions(breaker_failures=failures), CacheLog("test"))


async def test_breaker_opens_after_consecutive_failures_and_closes_on_an_answer() -> None:
    breaker = new_breaker(3)
    for _ in range(2):
        breaker.failed(LOST)
    breaker.succeeded()
    for _ in range(3):
        breaker.check_allowed()
        breaker.failed(LOST)
    await breaker.wait_open()
    for _ in range(3):
        with pytest.raises(L2UnavailableError):
            breaker.check_allowed()
    breaker.succeeded()
    breaker.check_allowed()
    assert not breaker.is_open
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(breaker.wait_open(), 0.01)


def test_breaker_logs_outage_once_and_recovery_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tiercache")
    breaker = new_breaker(3)
    for _ in range(2):
        for _ in range(10):
            breaker.failed(LOST)
        for _ in range(10):
            breaker.succeeded()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2


async def test_breaker_opens_on_unanswered_writes_and_closes_on_answered_write(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    breaker = new_breaker(2)
    level2 = GuardedLevel2(ValkeyLevel2(Settings.from_client(client_from_url(server.url)), timeout=0.05), breaker)
    write = WriteSet("k", b"v", None)
    assert await level2.apply([write]) == [1]
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        assert not breaker.is_open
        with pytest.raises(L2UnavailableError):
            await level2.apply([write])
    assert breaker.is_open
    os.kill(pid, signal.SIGCONT)
    assert await level2.apply([write]) == [1]
    assert not breaker.is_open
    await level2.aclose()


async def test_breaker_degrades_lookups_while_server_is_stopped_and_recovers(
    own_server: tuple[EmbeddedValkey, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, pid = own_server
    reads = record_reads(monkeypatch)
    # The L1 of this test is trusted for as long as the test takes.
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_failures=3, breaker_pause=0.05)
    coherence = CoherenceOptions(max_staleness=600)
    async with AgentCache.from_url(server.url, resilience=resilience, coherence=coherence) as cache:
        await cache.llm.store(HELLO, "before")
        os.kill(pid, signal.SIGSTOP)
        assert (await cache.llm.check(HELLO)).source == "l1"
        for n in range(100):
            result = await cache.llm.get_or_load(asking(str(n)), Loader())
            assert (result.source, result.degraded) == ("loader", True)
        # The fill after each of the first loads failed too, so that three failures came even sooner.
        assert len(reads) <= 3
        assert cache.local_stats().degraded
        counters = cache.local_stats().tiers["llm"]
        assert counters.l2_errors == 100
        assert counters.fills_dropped >= 90
        assert counters.fills_dropped + counters.fill_errors + cache.local_stats().queued_write_count == 100
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not cache.local_stats().degraded, 20)
        cache.clear_l1()
        assert (await cache.llm.check(HELLO)).source == "l2"
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


async def test_breaker_costs_a_thousand_calls_few_connections_and_its_gauge_follows_the_outage(
    url: str, plain: valkey.Valkey, tmp_path: Path
) -> None:
    attempts: list[None] = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(None)
        writer.close()

    registry, labels = kept_registry(), {"cache_name": "test"}
    # The probe of the breaker waits for longer than the thousand calls take, unless the test lets it go on.
    options = {
        "resilience": ResilienceOptions(l2_timeout=0.5, breaker_failures=3, breaker_pause=0.5),
        "telemetry": TelemetryOptions(registry=registry),
    }

    def gauge() -> float | None:
        return registry.get_sample_value(f"agent_cache_{names.BREAKER_OPEN.name}", labels)

    proxy = StallingProxy(url)
    down = await asyncio.start_unix_server(hang_up, tmp_path / "down")
    async with proxy as address, down, AgentCache.from_url(address, name="test", **options) as cache:  # type: ignore[arg-type]
        await cache.kv.set("k", 1)
        assert gauge() == 0
        proxy.lead_to(f"unix://{tmp_path / 'down'}")
        for kind in ("normal", "pubsub"):
            plain.client_kill_filter(_type=kind, skipme=True)
        await until(lambda: _degraded(cache), 20)
        assert gauge() == 1
        before = len(attempts)
        for number in range(1000):
            assert (await cache.kv.get_or_load(str(number), lambda: 1)).degraded
        # The probe and the bus connect again on their own; no call does.
        assert len(attempts) - before <= 20
        assert gauge() == 1
        # No caller asks, and the cache recovers by itself.
        proxy.lead_to(url)
        await until(lambda: gauge() == 0, 20)


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_probe_asks_a_stopped_server_and_no_lookup_waits_for_it(
    own_server: tuple[EmbeddedValkey, int], monkeypatch: pytest.MonkeyPatch, multiplexed: bool
) -> None:
    server, pid = own_server
    reads, pings = record_reads(monkeypatch), record_pings(monkeypatch)
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_pause=0.05)
    connection = ConnectionOptions(multiplexed=multiplexed)
    async with AgentCache.from_url(server.url, name="test", resilience=resilience, connection=connection) as cache:
        await cache.session.set("thread", "field", "value")
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: _degraded(cache), 20)
        del reads[:], pings[:]
        while len(pings) < 3:
            result = await cache.llm.get_or_load(HELLO, Loader(), mode="refresh")
            assert result.source == "loader"
            assert (await cache.llm.check(asking("x"))).degraded
            with pytest.raises(L2UnavailableError):
                await cache.session.get("thread", "field", fresh=True)
            await asyncio.sleep(0.001)
        assert reads == []
        # No caller asks, and the cache recovers by itself.
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not cache.local_stats().degraded, 20)
        assert reads == []


async def _degraded(cache: AgentCache) -> bool:
    """Look a key up; return whether the breaker is open."""
    await cache.kv.get("k")
    return cache.local_stats().degraded


async def test_breaker_opens_when_a_connection_gets_no_answer_within_its_long_deadline(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    # The default user takes any password, and opening a connection waits for the answer.
    url = f"{server.url}?username=default&password=any"
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_failures=1000)
    async with AgentCache.from_url(url, name="test", coherence=UNTRACKED, resilience=resilience) as cache:
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: _degraded(cache), 20)
        os.kill(pid, signal.SIGCONT)
