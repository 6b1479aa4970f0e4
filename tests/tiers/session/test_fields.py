"""The session tier: fields of threads, their windows, the index, L1, interop, and an absent Valkey."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import betterdb_agent_cache as betterdb
import pytest
import valkey
import valkey.asyncio

from tests.peers import betterdb_cache
from tests.support import HeldReads, entry_keys
from tiercache import (
    NO_EXPIRY,
    AgentCache,
    CoherenceOptions,
    L2CommandError,
    L2UnavailableError,
    ResilienceOptions,
    TierOptions,
    UsageError,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Run, Write, WriteSet
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.testing import FakeClock

MakeCache = Callable[..., AgentCache]
KINDS = ["valkey", "memory"]


@pytest.fixture(params=KINDS)
async def either(request: pytest.FixtureRequest, make_cache: MakeCache) -> AsyncIterator[Callable[..., AgentCache]]:
    """Make a cache on Valkey, or of process memory alone."""
    if request.param == "valkey":
        yield lambda **options: make_cache(name="test", **options)
    else:
        yield lambda **options: AgentCache.in_memory(name="test", **options)


def windows(plain: valkey.Valkey, thread: str, name: str = "test") -> dict[str, int]:
    """The thread's hash."""
    return {field.decode(): int(window) for field, window in plain.hgetall(f"{name}:__tc:thread:{thread}").items()}


def key_of(thread: str, field: str) -> str:
    return f"test:session:{thread}:{field}"


def expire_calls(plain: valkey.Valkey) -> int:
    stats = plain.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("expire", "pexpire", "pexpireat"))


# Fields


async def test_a_field_is_set_read_listed_and_deleted(either: MakeCache) -> None:
    async with either() as cache:
        session = cache.session
        assert await session.get("t", "a") is None
        await session.set("t", "a", "é 👍🏽")
        await session.set("t", "b:c %*?[x]\\", "")
        assert await session.get("t", "a") == "é 👍🏽"
        assert await session.get("t", "a", fresh=True) == "é 👍🏽"
        assert await session.get("t", "b:c %*?[x]\\") == ""
        assert await session.get_all("t") == {"a": "é 👍🏽", "b:c %*?[x]\\": ""}
        assert await session.touch("t") == 2
        assert await session.delete("t", "a") is True
        assert await session.delete("t", "a") is False
        assert await session.get("t", "a") is None
        assert await session.get_all("t") == {"b:c %*?[x]\\": ""}
        assert await session.destroy_thread("t") == 1
        assert await session.destroy_thread("t") == 0
        assert await session.get_all("t") == {}
        assert await session.touch("t") == 0


async def test_nothing_is_left_of_a_destroyed_thread(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "1")
    await cache.session.set("t", "b", "2", ttl=60)
    assert entry_keys(plain) == ["test:__tc:thread:t", "test:session:t:a", "test:session:t:b"]
    assert await cache.session.destroy_thread("t") == 2
    assert entry_keys(plain) == []


async def test_values_are_raw_under_the_keys_of_the_contract(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("user:1%", "a:b", "é", ttl=60)
    assert entry_keys(plain) == ["test:__tc:thread:user%3A1%25", "test:session:user%3A1%25:a:b"]
    assert plain.get("test:session:user%3A1%25:a:b") == "é".encode()
    assert windows(plain, "user%3A1%25") == {"a:b": 60_000}


async def test_a_thread_never_sees_counts_or_deletes_another_whose_id_begins_alike(either: MakeCache) -> None:
    async with either() as cache:
        session = cache.session
        for thread in ("user", "user:42", "user%3A42", "us*r", "user:"):
            await session.set(thread, "f", thread)
        assert await session.get("user", "42:f") is None
        for sweep in (False, True):
            assert await session.get_all("user", sweep=sweep) == {"f": "user"}
            assert await session.touch("user", sweep=sweep) == 1
            assert await session.get_all("us*r", sweep=sweep) == {"f": "us*r"}
        assert await session.destroy_thread("us*r", sweep=True) == 1
        assert await session.destroy_thread("user", sweep=True) == 1
        for thread in ("user:42", "user%3A42", "user:"):
            assert await session.get_all(thread) == {"f": thread}


async def test_a_thread_of_many_fields_is_handled_in_parts(cache: AgentCache, plain: valkey.Valkey) -> None:
    await asyncio.gather(*(cache.session.set("t", f"f{n}", str(n)) for n in range(600)))
    plain.config_resetstat()
    assert await cache.session.get_all("t") == {f"f{n}": str(n) for n in range(600)}
    assert await cache.session.touch("t") == 600
    assert await cache.session.destroy_thread("t") == 600
    # Three parts each, and the announcement that the thread has gone.
    assert plain.info("commandstats")["cmdstat_eval"]["calls"] == 9 + 1


# Windows


@pytest.mark.parametrize(
    ("options", "ttl", "expected"),
    [
        ({}, None, None),
        ({"default_ttl": 50}, None, 50),
        ({"default_ttl": 50, "session": TierOptions(ttl="1m")}, None, 60),
        ({"default_ttl": 50, "session": TierOptions(ttl="1m")}, 70, 70),
        ({"default_ttl": 50}, NO_EXPIRY, None),
    ],
)
async def test_the_window_is_the_calls_else_the_tiers_else_the_caches(
    make_cache: MakeCache, plain: valkey.Valkey, options: Any, ttl: Any, expected: float | None
) -> None:
    cache = make_cache(name="test", **options)
    await cache.session.set("t", "a", "x", ttl=ttl)
    assert windows(plain, "t") == {"a": 0 if expected is None else expected * 1000}
    for key in (key_of("t", "a"), "test:__tc:thread:t"):
        left = plain.pttl(key)
        assert left == -1 if expected is None else expected * 1000 - 1000 < left <= expected * 1000


async def test_a_read_by_any_process_slides_to_the_fields_own_window(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    await make_cache(name="test").session.set("t", "a", "x", ttl=10)
    plain.pexpire(key_of("t", "a"), 4000)
    plain.pexpire("test:__tc:thread:t", 4000)
    other = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await other.session.get("t", "a") == "x"
    await other.flush_writes()
    for key in (key_of("t", "a"), "test:__tc:thread:t"):
        assert 9000 < plain.pttl(key) <= 10_000
    # A reader that knows of no windows has renewed it by its own: the next read puts that right.
    plain.expire(key_of("t", "a"), 3600)
    third = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await third.session.get("t", "a") == "x"
    await third.flush_writes()
    assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000


async def test_a_field_without_an_end_gets_none_by_being_read(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await make_cache(name="test").session.set("t", "a", "x")
    plain.expire(key_of("t", "a"), 100)
    other = make_cache(name="test", session=TierOptions(ttl=3600))
    assert await other.session.get("t", "a") == "x"
    await other.flush_writes()
    assert plain.pttl(key_of("t", "a")) == -1


@pytest.mark.parametrize(
    ("before", "after"), [(5_000, 60_000), (3_600_000, 3_600_000), (None, None)], ids=["shorter", "longer", "none"]
)
async def test_another_writers_field_slides_to_the_tiers_window_and_is_never_shortened(
    make_cache: MakeCache, plain: valkey.Valkey, before: int | None, after: int | None
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=60))
    plain.set(key_of("t", "a"), "x", px=before)
    for read in (cache.session.get("t", "a", fresh=True), cache.session.get("t", "a", fresh=True)):
        assert await read == "x"
        await cache.flush_writes()
    assert await cache.session.touch("t") == 1
    assert await cache.session.get_all("t") == {"a": "x"}
    left = plain.pttl(key_of("t", "a"))
    assert left == -1 if after is None else after - 1000 < left <= after


async def test_without_a_ttl_of_the_tier_another_writers_field_keeps_its_own(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    plain.set(key_of("t", "a"), "x", px=50_000)
    assert await cache.session.get("t", "a") == "x"
    await cache.flush_writes()
    assert 49_000 < plain.pttl(key_of("t", "a")) <= 50_000


async def test_a_hundred_reads_within_a_quarter_of_the_window_renew_it_once_at_most(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    time = FakeClock()
    await make_cache(name="test").session.set("t", "a", "x", ttl=100)
    cache = make_cache(name="test", clock=time.clock)
    await cache.open()
    plain.config_resetstat()
    for _ in range(100):
        assert await cache.session.get("t", "a") == "x"  # From L1, and once a second from Valkey.
        await cache.flush_writes()
        time.advance(0.249)
    assert cache.local_stats().tiers["session"].l1_hits > 50
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 1
    assert expire_calls(plain) <= 1
    time.advance(1)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 2
    assert expire_calls(plain) <= 2


async def test_reads_at_once_renew_a_field_once(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await make_cache(name="test").session.set("t", "a", "x", ttl=100)
    cache = make_cache(name="test", session=TierOptions(l1=False))
    await cache.open()
    plain.config_resetstat()
    assert await asyncio.gather(*(cache.session.get("t", "a") for _ in range(100))) == ["x"] * 100
    await cache.flush_writes()
    assert plain.info("commandstats")["cmdstat_getex"]["calls"] == 1


async def test_a_read_that_l1_answers_renews_the_field_in_valkey(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    time = FakeClock()
    cache = make_cache(name="test", clock=time.clock)
    await cache.session.set("t", "a", "x", ttl=2)
    plain.pexpire(key_of("t", "a"), 1000)
    time.advance(0.4)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert plain.pttl(key_of("t", "a")) <= 1000  # Not due yet.
    time.advance(0.2)
    await cache.session.get("t", "a")
    await cache.flush_writes()
    assert cache.local_stats().tiers["session"].l1_hits == 2
    assert 1000 < plain.pttl(key_of("t", "a")) <= 2000


async def test_a_window_that_another_process_has_shortened_is_noticed(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """What a process knows of a long window must not keep it from renewing a short one."""
    cache = make_cache(name="test")
    await cache.session.set("t", "a", "x", ttl=3600)
    await make_cache(name="test").session.set("t", "a", "y", ttl=10)
    plain.pexpire(key_of("t", "a"), 4000)
    assert await cache.session.get("t", "a", fresh=True) == "y"
    await cache.flush_writes()
    assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000


async def test_touch_and_get_all_keep_each_fields_window(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=1000))
    for field, ttl in (("a", 10), ("b", None), ("c", NO_EXPIRY)):
        await cache.session.set("t", field, "x", ttl=ttl)
    for call in (cache.session.touch, cache.session.get_all):
        plain.pexpire(key_of("t", "a"), 5000)
        plain.pexpire(key_of("t", "b"), 5000)
        await call("t")
        assert 9000 < plain.pttl(key_of("t", "a")) <= 10_000
        assert 999_000 < plain.pttl(key_of("t", "b")) <= 1_000_000
        assert plain.pttl(key_of("t", "c")) == -1


async def test_get_all_renews_once_a_quarter(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "x", ttl=100)
    plain.pexpire(key_of("t", "a"), 76_000)
    await cache.session.get_all("t")
    assert plain.pttl(key_of("t", "a")) <= 76_000
    plain.pexpire(key_of("t", "a"), 74_000)
    await cache.session.get_all("t")
    assert plain.pttl(key_of("t", "a")) > 99_000


async def test_a_field_expires_when_nobody_reads_it(either: MakeCache) -> None:
    time = FakeClock()
    async with either(clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=0.05)
        await cache.session.set("t", "b", "y", ttl=0.2)
        time.advance(0.15)
        await asyncio.sleep(0.15)
        assert await cache.session.get("t", "a") is None
        assert await cache.session.get_all("t") == {"b": "y"}
        time.advance(0.15)
        await asyncio.sleep(0.15)
        assert await cache.session.get("t", "b") == "y"  # Renewed by get_all.


async def test_a_field_that_is_read_lives_on_in_memory(make_cache: MakeCache) -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=10)
        for _ in range(5):
            time.advance(9)
            assert await cache.session.get("t", "a") == "x"
        time.advance(10)
        assert await cache.session.get("t", "a") is None


# The index


async def test_the_hash_lives_as_long_as_its_longest_field(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = "test:__tc:thread:t"
    await cache.session.set("t", "a", "x", ttl=100)
    await cache.session.set("t", "b", "x", ttl=10)
    assert 99_000 < plain.pttl(key) <= 100_000
    await cache.session.set("t", "c", "x")
    assert plain.pttl(key) == -1
    await cache.session.set("t", "d", "x")
    await cache.session.delete("t", "c")
    assert plain.pttl(key) == -1
    await cache.session.set("t", "d", "x", ttl=20)
    assert 99_000 < plain.pttl(key) <= 100_000
    await cache.session.set("t", "e", "x")
    await cache.session.delete("t", "a")
    await cache.session.delete("t", "e")
    assert 19_000 < plain.pttl(key) <= 20_000


async def test_fields_that_have_gone_leave_the_index_when_it_is_used(cache: AgentCache, plain: valkey.Valkey) -> None:
    for field in ("a", "b", "c"):
        await cache.session.set("t", field, "x")
    plain.delete(key_of("t", "a"))
    assert await cache.session.get_all("t") == {"b": "x", "c": "x"}
    assert set(windows(plain, "t")) == {"b", "c"}
    plain.delete(key_of("t", "b"))
    assert await cache.session.touch("t") == 1
    assert set(windows(plain, "t")) == {"c"}
    plain.delete(key_of("t", "c"))
    assert await cache.session.destroy_thread("t") == 0
    assert entry_keys(plain) == []


async def test_whole_threads_cost_what_they_touch(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "x")
    plain.config_resetstat()
    await cache.session.get_all("t")
    await cache.session.touch("t")
    await cache.session.destroy_thread("t")
    assert not {"cmdstat_scan", "cmdstat_keys"} & set(plain.info("commandstats"))


async def test_another_writers_field_is_in_the_index_once_it_is_read_and_found_by_a_sweep_before(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    for field in ("seen", "unseen"):
        plain.set(key_of("t", field), "x")
    await cache.session.set("t", "own", "x")
    assert await cache.session.get("t", "seen") == "x"
    await cache.flush_writes()
    assert await cache.session.get_all("t") == {"own": "x", "seen": "x"}
    assert await cache.session.touch("t") == 2
    assert await cache.session.touch("t", sweep=True) == 3
    plain.set(key_of("t", "another"), "x")
    assert set(await cache.session.get_all("t", sweep=True)) == {"own", "seen", "unseen", "another"}
    plain.set(key_of("t", "last"), "x")
    assert await cache.session.destroy_thread("t", sweep=True) == 5
    assert entry_keys(plain) == []


# L1


@pytest.mark.parametrize(
    ("options", "l1_ttl"), [(None, 30), (TierOptions(l1_ttl=1000), 1000), (TierOptions(l1_ttl=0.5), 0.5)]
)
async def test_what_nobody_tells_of_is_seen_after_l1_ttl(
    make_cache: MakeCache, plain: valkey.Valkey, options: TierOptions | None, l1_ttl: float
) -> None:
    time = FakeClock()
    coherence = CoherenceOptions(max_staleness=2000, tracking="off")
    cache = make_cache(name="test", session=options, coherence=coherence, clock=time.clock)
    await cache.session.set("t", "a", "before")
    plain.set(key_of("t", "a"), "after")
    assert await cache.session.get("t", "a") == "before"
    assert await cache.session.get("t", "a", fresh=True) == "after"
    plain.set(key_of("t", "a"), "later")
    time.advance(l1_ttl - 0.01)
    assert await cache.session.get("t", "a") == "after"
    time.advance(0.02)
    assert await cache.session.get("t", "a") == "later"


async def test_without_l1_every_read_asks_valkey(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", session=TierOptions(l1=False), coherence=CoherenceOptions(tracking="off"))
    await cache.session.set("t", "a", "before")
    plain.set(key_of("t", "a"), "after")
    assert await cache.session.get("t", "a") == "after"


async def until(cache: AgentCache, value: str | None) -> None:
    """Read the field until it holds ``value``; fail if word of it does not arrive."""
    for _ in range(1000):
        if await cache.session.get("t", "a") == value:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{value!r} was not heard of")


async def test_what_another_process_changes_is_seen_when_word_of_it_arrives(make_cache: MakeCache) -> None:
    time = FakeClock()  # It stands still: nothing in memory ends, and no trust does.
    options: dict[str, Any] = {"name": "test", "session": TierOptions(l1_ttl=None), "clock": time.clock}
    cache = make_cache(coherence=CoherenceOptions(max_staleness=1000, tracking="off"), **options)
    other = make_cache(**options)
    await cache.session.set("t", "a", "1")
    for change, expected in (
        (lambda: other.session.set("t", "a", "2"), "2"),
        (lambda: other.session.incr("t", "a"), "3"),
        (lambda: other.session.compare_and_set("t", "a", "3", "[4]"), "[4]"),
        (lambda: other.session.append("t", "a", 5), "[4,5]"),
        (lambda: other.session.delete("t", "a"), None),
        (lambda: other.session.set("t", "a", "6"), "6"),
        (lambda: other.session.destroy_thread("t"), None),
        (lambda: other.session.set("t", "a", "7"), "7"),
        (lambda: other.session.clear(), None),
    ):
        hits = cache.local_stats().tiers["session"].l1_hits
        held = await cache.session.get("t", "a")
        assert held is None or cache.local_stats().tiers["session"].l1_hits == hits + 1  # It is in memory.
        await change()
        await until(cache, expected)


CHANGES: dict[str, tuple[Callable[[AgentCache], Awaitable[Any]], str | None]] = {
    "set": (lambda cache: cache.session.set("t", "a", "2"), "2"),
    "delete": (lambda cache: cache.session.delete("t", "a"), None),
    "destroy_thread": (lambda cache: cache.session.destroy_thread("t"), None),
    "incr": (lambda cache: cache.session.incr("t", "a"), "2"),
    "compare_and_set": (lambda cache: cache.session.compare_and_set("t", "a", "1", "2"), "2"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_read_that_a_change_overtook_does_not_fill_l1(
    make_cache: MakeCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without tracking: the server tells the process of what its own scripts change, which hides what is looked at here.
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    call, expected = CHANGES[change]
    await cache.session.set("t", "a", "1")
    cache.clear_l1()
    with monkeypatch.context() as patch:
        reads = HeldReads(patch)
        reading = asyncio.create_task(cache.session.get("t", "a"))
        await reads.answered.wait()
        await call(cache)
        reads.release.set()
        assert await reading == "1"
    assert await cache.session.get("t", "a") == expected


@pytest.mark.parametrize("change", CHANGES)
async def test_a_read_between_the_first_drop_and_the_change_does_not_stay_in_l1(
    make_cache: MakeCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without tracking: the server tells the process of what its own scripts change, which hides what is looked at here.
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    call, expected = CHANGES[change]
    # Without the first of the two guards against this, for the second.
    monkeypatch.setattr(WritePipe, "is_writing", lambda pipe, key: False)
    await cache.session.set("t", "a", "1")
    sending, release = asyncio.Event(), asyncio.Event()
    apply = ValkeyLevel2.apply

    async def held(level2: ValkeyLevel2, writes: Any) -> Any:
        if any(isinstance(write, WriteSet) or _is_change(write) for write in writes):
            sending.set()
            await release.wait()
        return await apply(level2, writes)

    with monkeypatch.context() as patch:
        patch.setattr(ValkeyLevel2, "apply", held)
        changing = asyncio.ensure_future(call(cache))
        await sending.wait()
        assert await cache.session.get("t", "a") == "1"
        release.set()
        await changing
    assert await cache.session.get("t", "a") == expected


def _is_change(write: Write) -> bool:
    return isinstance(write, Run) and "HKEYS" not in write.command


async def test_the_last_of_several_sets_wins_in_both_levels(cache: AgentCache) -> None:
    await asyncio.gather(*(cache.session.set("t", "a", str(n)) for n in range(250)))
    assert await cache.session.get("t", "a") == "249"
    assert await cache.session.get("t", "a", fresh=True) == "249"


# What others have written


@pytest.fixture
async def peer(url: str) -> AsyncIterator[betterdb.AgentCache]:
    async with betterdb_cache(url) as cache:
        yield cache


async def test_betterdb_and_tiercache_read_each_others_fields(
    peer: betterdb.AgentCache, cache: AgentCache, plain: valkey.Valkey
) -> None:
    await peer.session.set("thread-1", "theirs:x", "é", 60)
    await cache.session.set("thread-1", "ours", "👍🏽", ttl=60)
    assert await cache.session.get("thread-1", "theirs:x") == "é"
    assert await peer.session.get("thread-1", "ours") == "👍🏽"
    both = {"theirs:x": "é", "ours": "👍🏽"}
    assert await cache.session.get_all("thread-1", sweep=True) == both
    # The peer's whole-thread methods need a client that decodes.
    async with betterdb_cache(cache_url(plain), decode_responses=True) as decoding:
        assert await decoding.session.get_all("thread-1") == both
        assert await decoding.session.destroy_thread("thread-1") == 2
    assert await cache.session.get("thread-1", "ours", fresh=True) is None
    assert await cache.session.get_all("thread-1") == {}


def cache_url(plain: valkey.Valkey) -> str:
    kwargs = plain.connection_pool.connection_kwargs
    return f"unix://{kwargs['path']}" if "path" in kwargs else f"valkey://{kwargs['host']}:{kwargs['port']}"


@pytest.mark.parametrize("junk", [b"\xff", None], ids=["not UTF-8", "not a string"])
async def test_what_is_no_text_is_a_counted_miss_and_is_repaired(
    cache: AgentCache, plain: valkey.Valkey, junk: bytes | None
) -> None:
    def spoil(field: str) -> None:
        if junk is None:
            plain.hset(key_of("t", field), "a", "b")
        else:
            plain.set(key_of("t", field), junk)

    spoil("a")
    assert await cache.session.get("t", "a") is None
    assert cache.local_stats().tiers["session"].undecodable == 1
    assert await cache.session.get_all("t", sweep=True) == {}
    assert await cache.session.touch("t", sweep=True) == 1
    assert await cache.session.get_or_load("t", "a", lambda: "repaired") == "repaired"
    assert plain.get(key_of("t", "a")) == b"repaired"
    spoil("b")
    await cache.session.set("t", "b", "repaired")
    assert await cache.session.get_all("t") == {"a": "repaired", "b": "repaired"}


async def test_a_field_whose_name_is_not_utf8_is_passed_over_and_destroyed(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    plain.set(b"test:session:t:\xff", "x")
    assert await cache.session.get_all("t", sweep=True) == {}
    assert await cache.session.destroy_thread("t", sweep=True) == 1
    assert plain.exists(b"test:session:t:\xff") == 0


async def test_a_server_without_memory_left_still_answers_reads_and_deletes(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    for thread in ("t", "u"):
        plain.set(key_of(thread, "foreign"), "x")
    await cache.session.set("t", "own", "x", ttl=100)
    plain.pexpire(key_of("t", "own"), 5000)
    plain.config_set("maxmemory", 1)
    try:
        assert await cache.session.get_all("t", sweep=True) == {"own": "x", "foreign": "x"}
        assert plain.pttl(key_of("t", "own")) > 99_000
        assert await cache.session.get_all("u", sweep=True) == {"foreign": "x"}
        for change in (
            lambda: cache.session.set("t", "n", "1"),
            lambda: cache.session.incr("t", "n"),
            lambda: cache.session.append("t", "n", 1),
        ):
            with pytest.raises(L2CommandError, match="maxmemory"):
                await change()
        assert "n" not in windows(plain, "t")
        assert await cache.session.destroy_thread("t", sweep=True) == 2
    finally:
        plain.config_set("maxmemory", 0)


# An absent Valkey


CALLS: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "get": lambda cache: cache.session.get("t", "other"),
    "fresh get": lambda cache: cache.session.get("t", "a", fresh=True),
    "set": lambda cache: cache.session.set("t", "a", "2"),
    "delete": lambda cache: cache.session.delete("t", "a"),
    "get_all": lambda cache: cache.session.get_all("t"),
    "swept get_all": lambda cache: cache.session.get_all("t", sweep=True),
    "touch": lambda cache: cache.session.touch("t"),
    "destroy_thread": lambda cache: cache.session.destroy_thread("t"),
    "get_json": lambda cache: cache.session.get_json("t", "other"),
    "set_json": lambda cache: cache.session.set_json("t", "a", 2),
    "append": lambda cache: cache.session.append("t", "list", 2),
    "incr": lambda cache: cache.session.incr("t", "n"),
    "compare_and_set": lambda cache: cache.session.compare_and_set("t", "a", "1", "2"),
    "get_or_load": lambda cache: cache.session.get_or_load("t", "other", lambda: "x"),
}


async def test_an_absent_valkey_is_an_error_and_nothing_is_repeated_when_it_is_back(
    own_server: tuple[EmbeddedValkey, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.05)
    time = FakeClock()
    async with AgentCache.from_url(server.url, name="test", resilience=resilience, clock=time.clock) as cache:
        await cache.session.set("t", "a", "1")
        await cache.session.incr("t", "n", 5)
        os.kill(pid, signal.SIGSTOP)
        assert await cache.session.get("t", "a") == "1"  # L1 may answer meanwhile.
        for call in CALLS.values():
            with pytest.raises(L2UnavailableError):
                await call(cache)
        with pytest.raises(L2UnavailableError):
            await cache.session.get("t", "a")  # Dropped: it may have been changed.
        writes = cache.session.writes
        os.kill(pid, signal.SIGCONT)
        await cache.flush_writes()
        time.advance(2)
        # Each was sent once, and may have been carried out when the server went on: then once.
        assert await cache.session.get("t", "n", fresh=True) in (None, "1", "5", "6")
        assert cache.session.writes == writes == 2


async def test_an_absent_valkey_is_not_asked_over_and_over(
    own_server: tuple[EmbeddedValkey, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, pid = own_server
    time = FakeClock()
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_failures=2)
    async with AgentCache.from_url(server.url, resilience=resilience, clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=2)
        os.kill(pid, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(L2UnavailableError):
                await cache.session.get("t", "a", fresh=True)
        asked: list[Any] = []
        monkeypatch.setattr(ValkeyLevel2, "execute", lambda level2, commands: asked.append(commands))
        with pytest.raises(L2UnavailableError):
            await cache.session.get_all("t")
        assert asked == []
        time.advance(0.6)
        assert await cache.session.get("t", "a") == "x"  # From L1, and due to be renewed.
        assert cache.local_stats().queued_write_count == 0
        monkeypatch.undo()
        os.kill(pid, signal.SIGCONT)


async def test_a_load_is_not_paid_for_while_valkey_is_away(own_server: tuple[EmbeddedValkey, int]) -> None:
    server, pid = own_server
    calls = []
    async with AgentCache.from_url(server.url, resilience=ResilienceOptions(l2_timeout=0.05)) as cache:
        await cache.open()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(L2UnavailableError):
            await cache.session.get_or_load("t", "a", lambda: calls.append(1))
        os.kill(pid, signal.SIGCONT)
    assert calls == []


# Bad input


@pytest.mark.parametrize("bad", ["", None, 5, b"t", "\ud800"])
async def test_bad_thread_ids_and_fields_are_refused_everywhere(
    cache: AgentCache, plain: valkey.Valkey, bad: Any
) -> None:
    session = cache.session
    of_fields: list[Callable[[Any, Any], Awaitable[Any]]] = [
        session.get,
        lambda thread, field: session.set(thread, field, "x"),
        session.delete,
        session.get_json,
        lambda thread, field: session.set_json(thread, field, 1),
        lambda thread, field: session.append(thread, field, 1),
        session.incr,
        lambda thread, field: session.compare_and_set(thread, field, None, "x"),
        lambda thread, field: session.get_or_load(thread, field, lambda: "x"),
    ]
    for call in of_fields:
        with pytest.raises(UsageError, match="thread_id "):
            await call(bad, "a")
        with pytest.raises(UsageError, match="field "):
            await call("t", bad)
    for whole in (session.get_all, session.touch, session.destroy_thread):
        with pytest.raises(UsageError, match="thread_id "):
            await whole(bad)
    assert entry_keys(plain) == []


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], "\udc00"])
async def test_a_value_that_is_no_text_is_refused_before_anything_is_written(
    cache: AgentCache, plain: valkey.Valkey, value: Any
) -> None:
    for call in (
        lambda: cache.session.set("t", "a", value),
        lambda: cache.session.compare_and_set("t", "a", None, value),
        lambda: cache.session.get_or_load("t", "a", lambda: value),
    ):
        with pytest.raises(UsageError, match=r"str|Unicode"):
            await call()
    assert entry_keys(plain) == []
    assert cache.session.writes == 0


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "soon", True])
async def test_a_bad_ttl_is_refused(cache: AgentCache, plain: valkey.Valkey, ttl: Any) -> None:
    session = cache.session
    for call in (
        lambda: session.set("t", "a", "x", ttl=ttl),
        lambda: session.set_json("t", "a", "x", ttl=ttl),
        lambda: session.append("t", "a", "x", ttl=ttl),
        lambda: session.incr("t", "a", ttl=ttl),
        lambda: session.compare_and_set("t", "a", None, "x", ttl=ttl),
        lambda: session.get_or_load("t", "a", lambda: "x", ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            await call()
    assert entry_keys(plain) == []


@pytest.mark.parametrize(
    "options", [TierOptions(ignore=("a",)), TierOptions(key=lambda params: params), TierOptions(jitter=0.1), 5]
)
def test_options_that_sessions_have_no_use_for_are_refused(options: Any) -> None:
    with pytest.raises(UsageError, match="session must be"):
        AgentCache.in_memory(session=options)


async def test_a_closed_cache_is_refused(either: MakeCache) -> None:
    cache = either()
    await cache.session.set("t", "a", "x")
    await cache.aclose()
    for call in (lambda: cache.session.get("t", "a"), lambda: cache.session.set("t", "a", "x")):
        with pytest.raises(UsageError, match="closed"):
            await call()


# Being counted


async def test_reads_and_writes_and_hits_are_counted(either: MakeCache) -> None:
    async with either() as cache:
        session = cache.session
        await session.get("t", "a")
        await session.set("t", "a", "1")
        await session.get("t", "a")
        await session.get("t", "a")
        await session.incr("t", "n")
        await session.get_or_load("t", "b", lambda: "x")
        await session.get_or_load("t", "b", lambda: "x")
        assert not await session.compare_and_set("t", "a", "other", "x")
        await session.get_all("t")
        counters = cache.local_stats().tiers["session"]
        assert (session.reads, session.writes) == (5, 3)
        assert (counters.l1_hits + counters.l2_hits, counters.misses, counters.loads) == (3, 2, 1)
        operations = cache.local_stats().operations
        assert {"session.get", "session.set", "session.incr", "session.get_or_load"} <= set(operations)


async def test_the_estimate_of_active_threads_decays(either: MakeCache) -> None:
    time = FakeClock()
    async with either(clock=time.clock) as cache:
        session = cache.session
        assert session.active_count == 0
        await session.get("unknown", "a")
        assert session.active_count == 0
        await session.set("short", "a", "x", ttl=10)
        await session.set("long", "a", "x", ttl=100)
        await session.set("long", "b", "x", ttl=10)
        await session.set("endless", "a", "x")
        await session.set("gone", "a", "x")
        assert session.active_count == 4
        await session.destroy_thread("gone")
        assert session.active_count == 3
        time.advance(11)
        assert session.active_count == 2
        time.advance(90)
        assert session.active_count == 1
        time.advance(3600)
        assert session.active_count == 0


async def test_the_memory_of_active_threads_and_of_slides_is_bounded(cache: AgentCache) -> None:
    session: Any = cache.session
    for n in range(10_050):
        session._active.seen(str(n), 0.0, float("inf"))
        session._store._sliding.note(str(n), 0.0, 10.0)
    assert len(session._active._ends) == len(session._store._sliding._known) == 10_000
    assert "49" not in session._active._ends
    assert "10049" in session._active._ends
