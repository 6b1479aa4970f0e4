"""``explain``: each reason for which a lookup is answered, or is not."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Callable

import pytest
import valkey

from tests.requests import HELLO
from tests.support import until
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

FOREVER = CoherenceOptions(max_staleness=1e6)


async def test_what_is_nowhere_would_miss(cache: AgentCache) -> None:
    for said in (
        await cache.kv.explain("k"),
        await cache.llm.explain(HELLO),
        await cache.tool.explain("t", {"a": 1}),
    ):
        assert (said.source, said.l1, said.l2) == (None, "absent", "absent")
        assert (said.age, said.l1_ttl, said.l2_ttl, said.lease_holder) == (None, None, None, None)
        assert "would miss" in str(said)
        assert said.key in str(said)


async def test_what_process_memory_has_is_answered_from_there(make_cache: Callable[..., AgentCache]) -> None:
    cache = make_cache(name="test", default_ttl=60)
    key = await cache.tool.store("t", {"a": 1}, "x")
    said = await cache.tool.explain("t", {"a": 1})
    assert (said.key, said.source, said.l1, said.l2) == (key, "l1", "hit", "hit")
    assert said.age is not None
    assert 0 <= said.age < 5
    assert 20 < (said.l1_ttl or 0) <= 30
    assert 50 < (said.l2_ttl or 0) <= 60
    assert said.trusted
    assert said.tracked


async def test_what_only_valkey_has_is_answered_from_there(cache: AgentCache) -> None:
    await cache.kv.set("k", 1)
    cache.clear_l1()
    said = await cache.kv.explain("k")
    assert (said.source, said.l1, said.l2, said.l2_ttl) == ("l2", "absent", "hit", math.inf)


async def test_what_is_stored_behind_is_answered_from_the_queue(make_cache: Callable[..., AgentCache]) -> None:
    writes = WriteOptions(mode="behind", max_delay=3600)
    cache = make_cache(name="test", writes=writes, llm=TierOptions(l1=False))
    await cache.llm.store(HELLO, "queued")
    said = await cache.llm.explain(HELLO)
    assert (said.source, said.l1, said.l2) == ("l1", "off", "queued")
    assert "on its way to Valkey" in str(said)
    assert (await cache.llm.check(HELLO)).source == said.source
    await cache.flush_writes()
    said = await cache.llm.explain(HELLO)
    assert (said.source, said.l2) == ("l2", "hit")


async def test_looking_changes_and_counts_nothing(cache: AgentCache) -> None:
    await cache.kv.set("k", 1)
    cache.clear_l1()
    before = cache.local_stats()
    await cache.kv.explain("k")
    after = cache.local_stats()
    assert (after.tiers, after.l1_entry_count) == (before.tiers, 0)


async def test_a_copy_that_has_been_kept_long_enough_is_expired(make_cache: Callable[..., AgentCache]) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock, coherence=FOREVER)
    await cache.kv.set("k", 1)
    clock.advance(31)
    said = await cache.kv.explain("k")
    assert (said.source, said.l1, said.l1_ttl) == ("l2", "expired", 0)


async def test_a_copy_that_nothing_proves_current_is_untrusted(make_cache: Callable[..., AgentCache]) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock, coherence=CoherenceOptions(max_staleness=300))
    await cache.kv.set("k", 1)
    await cache.open()
    clock.advance(29)
    assert (await cache.kv.explain("k")).l1 == "hit"
    cache._engine.l1.trusted_until = -math.inf
    assert (await cache.kv.explain("k")).l1 == "hit"  # It was stored less than 300 s ago.
    other = make_cache(name="test", clock=clock.clock, coherence=CoherenceOptions(max_staleness=5), kv=TierOptions())
    await other.kv.get("k")
    other._engine.l1.trusted_until = -math.inf
    clock.advance(6)
    said = await other.kv.explain("k")
    assert (said.source, said.l1, said.trusted) == ("l2", "untrusted", False)
    assert "cannot know" in str(said)


async def test_a_tier_without_memory_says_so(make_cache: Callable[..., AgentCache]) -> None:
    cache = make_cache(name="test", kv=TierOptions(l1=False))
    await cache.kv.set("k", 1)
    said = await cache.kv.explain("k")
    assert (said.source, said.l1, said.l2) == ("l2", "off", "hit")


async def test_a_cache_without_valkey_says_so() -> None:
    async with AgentCache.in_memory() as cache:
        await cache.kv.set("k", 1)
        said = await cache.kv.explain("k")
        assert (said.source, said.l1, said.l2, said.trusted, said.tracked) == ("l1", "hit", "off", True, False)


async def test_a_load_under_way_shows_who_loads(make_cache: Callable[..., AgentCache]) -> None:
    holder, other = make_cache(name="test"), make_cache(name="test")
    loading, release = asyncio.Event(), asyncio.Event()

    async def load() -> int:
        loading.set()
        await release.wait()
        return 1

    waiter = asyncio.create_task(holder.kv.get_or_load("k", load))
    await loading.wait()
    said, heard = await holder.kv.explain("k"), await other.kv.explain("k")
    assert (said.source, said.l2, said.is_loading, said.holds_lease) == (None, "leased", True, True)
    assert (heard.source, heard.l2, heard.is_loading, heard.holds_lease) == (None, "leased", False, False)
    assert said.lease_holder == heard.lease_holder is not None
    release.set()
    await waiter
    assert not (await holder.kv.explain("k")).is_loading


@pytest.mark.parametrize("junk", ["a hash", b"\xff", b"q?"])
async def test_what_the_tier_cannot_read_is_undecodable(cache: AgentCache, plain: valkey.Valkey, junk: object) -> None:
    key = (await cache.kv.explain("k")).key
    if junk == "a hash":
        plain.hset(key, "a", "b")
    else:
        plain.set(key, junk)
    said = await cache.kv.explain("k")
    assert (said.source, said.l2) == (None, "undecodable")


async def test_while_valkey_is_silent_and_after_a_failed_invalidation(own_server: tuple[EmbeddedValkey, int]) -> None:
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_pause=0.1)
    async with AgentCache.from_url(server.url, resilience=resilience) as cache:
        await cache.kv.set("k", 1)
        os.kill(pid, signal.SIGSTOP)
        said = await cache.kv.explain("k")
        assert (said.source, said.l2) == ("l1", "unavailable")
        with pytest.raises(L2UnavailableError):
            await cache.kv.delete("k")
        said = await cache.kv.explain("k")
        assert (said.source, said.l1, said.l2) == (None, "absent", "unsettled")
        os.kill(pid, signal.SIGCONT)

        async def is_settled() -> bool:
            return (await cache.kv.explain("k")).l2 == "absent"

        await until(is_settled, 10)


async def test_bad_arguments_are_refused(cache: AgentCache) -> None:
    with pytest.raises(UsageError):
        await cache.kv.explain("")
    with pytest.raises(UsageError):
        await cache.tool.explain("a:b", {})
    with pytest.raises(UsageError):
        await cache.llm.explain({})
