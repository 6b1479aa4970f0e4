"""The breaker: an outage costs a few timeouts, is logged once, and ends without a restart."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from tests.requests import HELLO, Loader, asking
from tests.seams import record_reads
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.level2.breaker import Breaker, GuardedLevel2
from tiercache.engine.level2.writes import WriteSet
from tiercache.log import CacheLog
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.testing import FakeClock

LOST = L2UnavailableError("away")


def test_breaker_opens_after_consecutive_failures_and_probes_once_a_pause() -> None:
    time = FakeClock()
    breaker = Breaker(ResilienceOptions(breaker_failures=3, breaker_pause=1.0), time.clock.monotonic, CacheLog("test"))
    for _ in range(2):
        breaker.failed(LOST)
    breaker.succeeded()
    for _ in range(3):
        assert breaker.allows()
        breaker.failed(LOST)
    assert breaker.is_open
    assert not breaker.allows()
    time.advance(1)
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    time.advance(1)  # The probe may never be answered.
    assert breaker.allows()
    breaker.failed(LOST)
    assert not breaker.allows()
    time.advance(1)
    assert breaker.allows()
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allows()


def test_breaker_logs_outage_once_and_recovery_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tiercache")
    breaker = Breaker(ResilienceOptions(breaker_failures=3, breaker_pause=1.0), lambda: 0.0, CacheLog("test"))
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
    breaker = Breaker(ResilienceOptions(breaker_failures=2, breaker_pause=1.0), lambda: 0.0, CacheLog("test"))
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
    time = FakeClock()
    reads = record_reads(monkeypatch)
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_failures=3)
    async with AgentCache.from_url(server.url, resilience=resilience, clock=time.clock) as cache:
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
        await cache.flush_writes()
        time.advance(1)
        cache.clear_l1()
        assert (await cache.llm.check(HELLO)).source == "l2"
        assert not cache.local_stats().degraded
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1
