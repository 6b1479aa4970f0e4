"""``explain``: each reason for a hit or a miss."""

from __future__ import annotations

import asyncio
import math
import os
import signal

import pytest
import valkey

from tests.requests import HELLO
from tests.seams import L1View
from tests.support import MakeCache, until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    L2UnavailableError,
    ResilienceOptions,
    TierOptions,
    UsageError,
    WriteOptions,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import FakeClock

UNBOUNDED = CoherenceOptions(max_staleness=1e6)


async def test_explain_reports_miss_for_absent_key(cache: AgentCache) -> None:
    for report in (
        await cache.kv.explain("k"),
        await cache.llm.explain(HELLO),
        await cache.tool.explain("t", {"a": 1}),
    ):
        assert (report.source, report.l1, report.l2) == (None, "absent", "absent")
        assert (report.age, report.l1_ttl, report.l2_ttl, report.lease_holder) == (None, None, None, None)
        assert "would miss" in str(report)
        assert report.key in str(report)


async def test_explain_reports_l1_hit(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", default_ttl=60)
    key = await cache.tool.store("t", {"a": 1}, "x")
    report = await cache.tool.explain("t", {"a": 1})
    assert (report.key, report.source, report.l1, report.l2) == (key, "l1", "hit", "hit")
    assert report.age is not None
    assert 0 <= report.age < 5
    assert 20 < (report.l1_ttl or 0) <= 30
    assert 50 < (report.l2_ttl or 0) <= 60
    assert report.trusted
    assert report.tracked


async def test_explain_reports_l2_hit(cache: AgentCache) -> None:
    await cache.kv.set("k", 1)
    cache.clear_l1()
    report = await cache.kv.explain("k")
    assert (report.source, report.l1, report.l2, report.l2_ttl) == ("l2", "absent", "hit", math.inf)


async def test_explain_reports_queued_write_behind_value(make_cache: MakeCache) -> None:
    writes = WriteOptions(mode="behind", max_delay=3600)
    cache = make_cache(name="test", writes=writes, llm=TierOptions(l1=False))
    await cache.llm.store(HELLO, "queued")
    report = await cache.llm.explain(HELLO)
    assert (report.source, report.l1, report.l2) == ("l1", "off", "queued")
    assert "on its way to Valkey" in str(report)
    assert (await cache.llm.check(HELLO)).source == report.source
    await cache.flush_writes()
    report = await cache.llm.explain(HELLO)
    assert (report.source, report.l2) == ("l2", "hit")


async def test_explain_changes_and_counts_nothing(cache: AgentCache) -> None:
    await cache.kv.set("k", 1)
    cache.clear_l1()
    before = cache.local_stats()
    await cache.kv.explain("k")
    after = cache.local_stats()
    assert (after.tiers, after.l1_entry_count) == (before.tiers, 0)


async def test_explain_reports_expired_l1_entry(make_cache: MakeCache) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock, coherence=UNBOUNDED)
    await cache.kv.set("k", 1)
    clock.advance(31)
    report = await cache.kv.explain("k")
    assert (report.source, report.l1, report.l1_ttl) == ("l2", "expired", 0)


async def test_explain_reports_untrusted_l1_entry(make_cache: MakeCache) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock, coherence=CoherenceOptions(max_staleness=300))
    await cache.kv.set("k", 1)
    await cache.open()
    clock.advance(29)
    assert (await cache.kv.explain("k")).l1 == "hit"
    L1View(cache).end_trust()
    assert (await cache.kv.explain("k")).l1 == "hit"  # The entry was stored less than 300 s ago.
    other = make_cache(name="test", clock=clock.clock, coherence=CoherenceOptions(max_staleness=5), kv=TierOptions())
    await other.kv.get("k")
    L1View(other).end_trust()
    clock.advance(6)
    report = await other.kv.explain("k")
    assert (report.source, report.l1, report.trusted) == ("l2", "untrusted", False)
    assert "cannot know" in str(report)


async def test_explain_reports_l1_turned_off(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", kv=TierOptions(l1=False))
    await cache.kv.set("k", 1)
    report = await cache.kv.explain("k")
    assert (report.source, report.l1, report.l2) == ("l2", "off", "hit")


async def test_explain_reports_cache_without_valkey() -> None:
    async with AgentCache.in_memory() as cache:
        await cache.kv.set("k", 1)
        report = await cache.kv.explain("k")
        assert (report.source, report.l1, report.l2, report.trusted, report.tracked) == (
            "l1",
            "hit",
            "off",
            True,
            False,
        )


async def test_explain_reports_lease_holder_of_load_in_flight(make_cache: MakeCache) -> None:
    holder, other = make_cache(name="test"), make_cache(name="test")
    loading, release = asyncio.Event(), asyncio.Event()

    async def load() -> int:
        loading.set()
        await release.wait()
        return 1

    waiter = asyncio.create_task(holder.kv.get_or_load("k", load))
    await loading.wait()
    report, remote = await holder.kv.explain("k"), await other.kv.explain("k")
    assert (report.source, report.l2, report.is_loading, report.holds_lease) == (None, "leased", True, True)
    assert (remote.source, remote.l2, remote.is_loading, remote.holds_lease) == (None, "leased", False, False)
    assert report.lease_holder == remote.lease_holder is not None
    release.set()
    await waiter
    assert not (await holder.kv.explain("k")).is_loading


@pytest.mark.parametrize("junk", ["a hash", b"\xff", b"q?"])
async def test_explain_reports_undecodable_value(cache: AgentCache, plain: valkey.Valkey, junk: object) -> None:
    key = (await cache.kv.explain("k")).key
    if junk == "a hash":
        plain.hset(key, "a", "b")
    else:
        plain.set(key, junk)
    report = await cache.kv.explain("k")
    assert (report.source, report.l2) == (None, "undecodable")


async def test_explain_reports_unavailable_valkey_and_pending_invalidation(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_pause=0.1)
    async with AgentCache.from_url(server.url, resilience=resilience) as cache:
        await cache.kv.set("k", 1)
        os.kill(pid, signal.SIGSTOP)
        report = await cache.kv.explain("k")
        assert (report.source, report.l2) == ("l1", "unavailable")
        with pytest.raises(L2UnavailableError):
            await cache.kv.delete("k")
        report = await cache.kv.explain("k")
        assert (report.source, report.l1, report.l2) == (None, "absent", "unsettled")
        os.kill(pid, signal.SIGCONT)

        async def is_settled() -> bool:
            return (await cache.kv.explain("k")).l2 == "absent"

        await until(is_settled, 10)


async def test_explain_refuses_bad_arguments(cache: AgentCache) -> None:
    with pytest.raises(UsageError):
        await cache.kv.explain("")
    with pytest.raises(UsageError):
        await cache.tool.explain("a:b", {})
    with pytest.raises(UsageError):
        await cache.llm.explain({})
