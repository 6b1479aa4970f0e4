"""Tracking by interest: the server reports the keys that L1 holds, and L1 holds no key for long that it does not."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import valkey
import valkey.asyncio

from tests.requests import HELLO, Loader
from tests.seams import (
    HeldWrites,
    RecordedWire,
    act_after_values,
    any_write,
    caught_up,
    fail_reads,
    in_l1,
    internals,
    record_distrusts,
    record_reports,
    set_tracking_room,
    shared_connection,
)
from tests.support import UNTRACKED, MakeCache, StallingProxy, distrusted, until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    L2CommandError,
    L2UnavailableError,
    ResilienceOptions,
    TierOptions,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

BY_INTEREST = CoherenceOptions(tracking="interest")
KEY = "test:__tc:kv:kv:k"
LARGE = "x" * 200_000


@pytest.fixture
async def cache(make_cache: MakeCache) -> AgentCache:
    """Return an opened cache that tracks by interest."""
    cache = make_cache(name="test", coherence=BY_INTEREST)
    await cache.open()
    return cache


async def answers_at_once(cache: AgentCache) -> bool:
    """Return whether a call finds the newer value while the load is still in progress."""
    try:
        async with asyncio.timeout(0.02):
            return (await cache.kv.get_or_load("k", Loader())).value == "newer"
    except TimeoutError:
        return False


def tracked_keys(plain: valkey.Valkey) -> int:
    return int(plain.info("stats")["tracking_total_keys"])


@pytest.mark.parametrize("tracking", ["auto", "interest", "broadcast", "off"])
async def test_tracking_option_decides_the_kind_of_tracking(make_cache: MakeCache, tracking: Any) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking=tracking))
    assert cache.local_stats().tracking == "off"
    await cache.open()
    assert cache.local_stats().tracking == ("interest" if tracking == "auto" else tracking)


async def test_tracking_by_interest_reports_a_key_that_this_process_reads(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    reader, other = (make_cache(name="test", coherence=BY_INTEREST) for _ in range(2))
    await other.open()
    plain.set(KEY, b"sv")
    assert await reader.kv.get("k") == "v"
    before = tracked_keys(plain)
    assert await other.kv.get("absent") is None
    assert tracked_keys(plain) == before + 1
    plain.set(KEY, b"snewer")
    await until(lambda: not in_l1(reader, KEY), seconds=0.5)


@pytest.mark.parametrize("change", ["SET", "DEL"])
async def test_foreign_change_is_reported_to_the_processes_that_hold_the_key(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Exactly to them: one has stored the value, one has read it, and two hold other keys or none."""
    caches = [make_cache(name="test", coherence=BY_INTEREST) for _ in range(4)]
    for cache in caches:
        await cache.open()
    await caches[0].kv.set("k", "v")
    assert await caches[1].kv.get("k") == "v"
    await caches[2].kv.set("other", "v")
    reports = record_reports(monkeypatch, *caches)
    plain.execute_command(change, KEY, *([b"snewer"] if change == "SET" else []))
    for cache in caches:
        await caught_up(cache, plain)
    assert sorted(reports, key=lambda report: caches.index(report[0])) == [(caches[0], KEY), (caches[1], KEY)]
    assert not in_l1(caches[0], KEY)
    assert not in_l1(caches[1], KEY)


async def test_value_of_a_store_is_registered(cache: AgentCache, plain: valkey.Valkey) -> None:
    for value in ("v", "w"):  # The second store ends the registration that the first one has made.
        await cache.kv.set("k", value)
        assert in_l1(cache, KEY)
    plain.set(KEY, b"snewer")
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)


async def test_loaded_value_is_registered(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.get_or_load("k", Loader())
    await cache.flush_writes()
    assert in_l1(cache, KEY)
    plain.set(KEY, b"snewer")
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)


async def test_load_in_progress_is_told_of_a_write_of_its_placeholder(cache: AgentCache, plain: valkey.Valkey) -> None:
    release = asyncio.Event()

    async def load(key: str) -> str:
        await release.wait()
        return "older"

    waiter = asyncio.ensure_future(cache.kv.get_or_load("k", load))
    await until(lambda: plain.exists(KEY))
    plain.set(KEY, b"snewer")
    # The message breaks the fence of the load: a later call finds the newer value, and does not join the load.
    await until(lambda: answers_at_once(cache), seconds=0.5)
    release.set()
    assert (await waiter).value == "older"
    assert await cache.kv.get("k") == "newer"


async def test_remembered_error_is_registered(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    tier = TierOptions(cache_errors={KeyError: 600})
    cache = make_cache(name="test", coherence=BY_INTEREST, kv=tier)
    with pytest.raises(KeyError):
        await cache.kv.get_or_load("k", Loader(KeyError("x")))
    await cache.flush_writes()  # The end of the lease ends the registration that the lease has made.
    plain.set(KEY, b"snewer")
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)
    assert (await cache.kv.get_or_load("k", Loader())).value == "newer"


async def test_session_field_is_registered_after_its_window_slides(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", coherence=BY_INTEREST, session=TierOptions(ttl=100))
    key = "test:session:thread:field"
    await cache.session.set("thread", "field", "v")
    plain.pexpire(key, 50_000)
    await until(lambda: not in_l1(cache, key))
    assert await cache.session.get("thread", "field") == "v"  # It restarts the window.
    await until(lambda: plain.pttl(key) > 90_000)
    assert in_l1(cache, key)
    plain.set(key, "newer")
    await until(lambda: not in_l1(cache, key), seconds=0.5)


async def test_large_value_is_registered_before_it_is_read(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.open()
    plain.set(KEY, b"s" + LARGE.encode())
    assert await cache.kv.get("k") == LARGE
    assert in_l1(cache, KEY)
    plain.delete(KEY)
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)


@pytest.mark.parametrize(("count", "size"), [(1, 60_000), (300, 60_000), (300, 1_000)])
async def test_many_reads_at_once_leave_the_connection_of_the_writes_free(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    value = "x" * size
    keys = [f"test:__tc:kv:kv:{number}" for number in range(count)]
    plain.mset(dict.fromkeys(keys, b"s" + value.encode()))
    wire = RecordedWire(internals(cache).store.writer_connection, monkeypatch)
    large = RecordedWire(shared_connection(internals(cache).store.pool), monkeypatch)
    assert await asyncio.gather(*(cache.kv.get(str(number)) for number in range(count))) == [value] * count
    asked = [
        int(last) for last in re.findall(rb"GETRANGE\r\n.*\r\n.*\r\n\$1\r\n0\r\n.*\r\n(\d+)", b"".join(wire.written))
    ]
    assert len(asked) == count
    assert sum(min(size, last + 1) for last in asked) < 2_600_000
    # Small values, and a few larger ones, need no second round trip.
    again = b"".join(large.written).count(b"$3\r\nGET\r\n$")
    assert (again > 0) == (count * size > 2_600_000)
    assert all(in_l1(cache, key) for key in keys)
    for key in keys:
        plain.delete(key)
    await until(lambda: not any(in_l1(cache, key) for key in keys), seconds=0.5)


async def test_many_read_keys_are_registered(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.open()
    keys = [f"test:__tc:kv:kv:{number}" for number in range(600)]
    plain.mset(dict.fromkeys(keys, b"sv"))
    assert len(await cache.kv.get_many([str(number) for number in range(600)])) == 600
    for key in keys:
        plain.delete(key)
    await until(lambda: not any(in_l1(cache, key) for key in keys), seconds=0.5)


@pytest.mark.parametrize("late", ["read", "write", "read, write"])
async def test_late_answer_loses_no_l1_entry(make_cache: MakeCache, plain: valkey.Valkey, late: str) -> None:
    """The server is silent for longer than a deadline, and then answers everything."""
    cache = make_cache(name="test", coherence=BY_INTEREST)
    keys = [f"test:__tc:kv:kv:k{number}" for number in range(50)]
    for number in range(50):
        await cache.kv.set(f"k{number}", "v")
    before, writer = distrusted(cache), internals(cache).store.writer_connection_id
    process_id = plain.info("server")["process_id"]
    os.kill(process_id, signal.SIGSTOP)
    try:
        if "read" in late:
            assert (await cache.kv.get_or_load("other", Loader())).degraded
        if "write" in late:
            with pytest.raises(L2UnavailableError):
                await cache.session.set("thread", "field", "v")
    finally:
        os.kill(process_id, signal.SIGCONT)
    await cache.session.set("thread", "field", "w")
    assert plain.get("test:session:thread:field") == b"w"
    assert internals(cache).store.writer_connection_id == writer
    assert distrusted(cache) == before
    assert all(in_l1(cache, key) for key in keys)
    plain.mset(dict.fromkeys(keys, b"snewer"))
    await until(lambda: not any(in_l1(cache, key) for key in keys), seconds=0.5)


@asynccontextmanager
async def late_cache(url: str, late: str) -> AsyncIterator[tuple[StallingProxy, AgentCache]]:
    """Yield a proxy and a cache; the connection of the writes alone has no answer since a read or a write."""
    proxy, resilience = StallingProxy(url), ResilienceOptions(l2_timeout=0.5)
    async with (
        proxy as proxied,
        AgentCache.from_url(proxied, name="test", coherence=BY_INTEREST, resilience=resilience) as cache,
    ):
        await cache.kv.set("kept", "v")
        proxy.stall_at = {"read": b"GETRANGE", "write": b"older"}[late]
        if late == "read":
            assert (await cache.kv.get_or_load("other", Loader())).degraded
        else:
            with pytest.raises(L2UnavailableError):
                await cache.session.set("thread", "field", "older")
        proxy.stall_at = None
        yield proxy, cache


@pytest.mark.parametrize("late", ["read", "write"])
async def test_write_leaves_a_connection_that_is_dead_without_looking_dead(
    url: str, plain: valkey.Valkey, late: str
) -> None:
    async with late_cache(url, late) as (proxy, cache):
        dead = internals(cache).store.writer_connection_id
        await cache.session.set("thread", "field", "newer")
        assert internals(cache).store.writer_connection_id != dead
        proxy.release()
        await until(lambda: dead not in [int(client["id"]) for client in plain.client_list()])
        assert plain.get("test:session:thread:field") == b"newer"


@pytest.mark.parametrize("late", ["read", "write"])
async def test_late_connection_is_kept_if_it_receives_a_byte_while_a_write_waits(
    url: str, plain: valkey.Valkey, late: str
) -> None:
    async with late_cache(url, late) as (proxy, cache):
        before, writer = distrusted(cache), internals(cache).store.writer_connection_id
        store = asyncio.ensure_future(cache.session.set("thread", "field", "newer"))

        def is_asked_elsewhere() -> bool:
            return any((client["cmd"], client["sub"]) == ("ping", "0") for client in plain.client_list())

        await until(is_asked_elsewhere)
        proxy.release()
        await store
        assert plain.get("test:session:thread:field") == b"newer"
        assert internals(cache).store.writer_connection_id == writer
        assert distrusted(cache) == before
        assert in_l1(cache, "test:__tc:kv:kv:kept")
        await until(lambda: not is_asked_elsewhere())


async def test_reads_behind_a_late_answer_use_another_connection(url: str, plain: valkey.Valkey) -> None:
    proxy, resilience = StallingProxy(url), ResilienceOptions(l2_timeout=0.5)
    async with (
        proxy as proxied,
        AgentCache.from_url(proxied, name="test", coherence=BY_INTEREST, resilience=resilience) as cache,
    ):
        await cache.kv.set("kept", "v")
        before = distrusted(cache)
        plain.set(KEY, b"sv")
        proxy.stall_at = b"GETRANGE"
        assert (await cache.kv.get_or_load("other", Loader())).degraded
        found = await cache.kv.get_or_load("k", Loader())
        assert (found.value, found.degraded) == ("v", False)
        proxy.release()
        await until(lambda: tracked_keys(plain) == 2)  # The late read has registered its key.
        assert distrusted(cache) == before
        assert in_l1(cache, "test:__tc:kv:kv:kept")


@pytest.fixture
def table(server: EmbeddedValkey, plain: valkey.Valkey) -> Iterator[None]:
    """Restore the limit of the server's table of tracked keys after the test."""
    yield
    plain.config_set("tracking-table-max-keys", 1_000_000)


@pytest.fixture
def small_table(table: None, plain: valkey.Valkey) -> None:
    plain.config_set("tracking-table-max-keys", 1000)


async def read_and_let_change(cache: AgentCache, plain: valkey.Valkey) -> list[str]:
    """Let ``cache`` read 5,000 keys, and another client change them; return the keys once the bound has passed."""
    keys = [f"test:__tc:kv:kv:{number}" for number in range(5000)]
    plain.mset(dict.fromkeys(keys, b"sv"))
    for number in range(5000):
        assert await cache.kv.get(str(number)) == "v"
    plain.mset(dict.fromkeys(keys, b"snewer"))
    await asyncio.sleep(0.6)  # From here on no older value may be read.
    for number in range(5000):
        assert await cache.kv.get(str(number)) == "newer"
    return keys


@pytest.mark.usefixtures("small_table")
async def test_table_with_too_little_room_makes_the_server_track_by_broadcast(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6))
    await cache.open()
    assert cache.local_stats().tracking == "broadcast"
    await read_and_let_change(cache, plain)
    assert tracked_keys(plain) == 0


@pytest.mark.usefixtures("small_table")
async def test_full_tracking_table_ends_interest_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tracking_room(monkeypatch, 100)
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"))
    await cache.open()
    assert cache.local_stats().tracking == "interest"
    keys = await read_and_let_change(cache, plain)
    await until(lambda: cache.local_stats().tracking == "broadcast")
    assert sum("by interest is not possible" in line for line in caplog.messages) == 1
    plain.set(keys[0], b"slatest")
    await until(lambda: not in_l1(cache, keys[0]), seconds=0.5)


@pytest.mark.usefixtures("table")
async def test_table_that_becomes_too_small_ends_interest_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """An operator lowers the limit while the cache is open."""
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"))
    await cache.open()
    assert cache.local_stats().tracking == "interest"
    plain.config_set("tracking-table-max-keys", 1000)
    await read_and_let_change(cache, plain)
    await until(lambda: cache.local_stats().tracking == "broadcast")


async def test_full_tracking_table_lets_no_ping_prove_anything(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = record_distrusts(monkeypatch, cache)
    await until(lambda: pings)
    set_tracking_room(monkeypatch, 10_000_000)  # The next PING is due in a second.
    await until(lambda: len(pings) == 2)
    assert pings[1] == pings[0] + 1
    assert cache.local_stats().tracking == "broadcast"


@pytest.mark.parametrize("right", ["multi", "exec", "pttl", "getrange", "exists", "client|trackinginfo", "info"])
async def test_missing_right_for_interest_makes_the_server_track_by_broadcast(
    plain: valkey.Valkey, caplog: pytest.LogCaptureFixture, right: str
) -> None:
    commands = ["+@all", f"-{right}"]
    plain.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=commands)
    path = plain.connection_pool.connection_kwargs["path"]
    client = valkey.asyncio.Valkey(unix_socket_path=path, username="blind", password="pw")
    try:
        async with AgentCache(client, name="test") as cache:
            await cache.kv.set("k", "v")
            assert cache.local_stats().tracking == "broadcast"
            # Another connection of the writes is not a reason to warn again.
            plain.client_kill_filter(_id=internals(cache).store.writer_connection_id)
            before = distrusted(cache)
            await until(lambda: distrusted(cache) > before)
            await cache.kv.set("k", "w")
            plain.set(KEY, b"snewer")
            await until(lambda: not in_l1(cache, KEY), seconds=0.5)
    finally:
        plain.acl_deluser("blind")
    assert sum("by interest is not possible" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("right", ["multi", "exec", "getrange", "pttl"])
async def test_right_for_interest_may_be_lost(plain: valkey.Valkey, right: str) -> None:
    plain.acl_setuser("loser", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all"])
    path = plain.connection_pool.connection_kwargs["path"]
    client = valkey.asyncio.Valkey(unix_socket_path=path, username="loser", password="pw")
    try:
        async with AgentCache(client, name="test", coherence=BY_INTEREST) as cache:
            await cache.kv.set("k", "v")
            assert cache.local_stats().tracking == "interest"
            plain.acl_setuser("loser", commands=[f"-{right}"])
            if right in ("exec", "pttl"):
                with pytest.raises(L2CommandError):
                    await cache.kv.set("k", "refused")
                assert plain.get(KEY) == b"sv"
            await cache.kv.set("k", "w")
            assert plain.get(KEY) == b"sw"
            assert await cache.kv.get("absent") is None
            assert (cache.local_stats().tiers["kv"].l2_errors > 0) == (right == "pttl")
            plain.set(KEY, b"snewer")
            await until(lambda: not in_l1(cache, KEY), seconds=3.5)
    finally:
        plain.acl_deluser("loser")


# Own changes of keys


async def test_value_that_an_own_sweep_deletes_with_its_placeholder_leaves_l1(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep takes every placeholder: its load may bring a value of the model. Here it brings another one."""
    loader = Loader("answer", held=True)
    loading = asyncio.ensure_future(cache.llm.get_or_load(HELLO, loader))
    await loader.started.wait()
    key = cache.llm.key(HELLO).key

    async def store_the_value() -> None:
        loader.release()
        await loading
        await cache.flush_writes()
        assert in_l1(cache, key)

    act_after_values(monkeypatch, store_the_value)
    assert await cache.llm.invalidate_by_model("another model", sweep=True) == 1
    assert not plain.exists(key)
    assert not in_l1(cache, key)


# What is not registered


async def test_read_behind_a_large_store_lives_within_the_bound(url: str, plain: valkey.Valkey) -> None:
    """The read takes another connection, so that it need not wait, and the server does not register its key."""
    async with (
        ChaosProxy(url) as proxy,
        AgentCache.from_url(
            proxy.url,
            name="test",
            coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"),
            resilience=ResilienceOptions(l2_timeout=2),
        ) as cache,
    ):
        plain.set(KEY, b"sv")
        proxy.slow_link(8_000_000, 0.0, lane="commands")
        store = asyncio.ensure_future(cache.kv.set("large", "x" * 4_000_000))
        await until(lambda: internals(cache).store.sends_large_write)
        assert await cache.kv.get("k") == "v"
        assert in_l1(cache, KEY)
        assert not store.done()
        await store
        before = distrusted(cache)
        plain.set(KEY, b"snewer")
        await asyncio.sleep(0.6)
        assert await cache.kv.get("k") == "newer"
        assert distrusted(cache) == before


@pytest.mark.parametrize("tracking", ["interest", "broadcast"])
async def test_lost_connection_of_the_writes_ends_trust_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, tracking: Any
) -> None:
    """The server has lost the connection and its keys, and this process does not know: no PING may prove anything."""
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking=tracking))
    plain.set(KEY, b"sv")
    await cache.open()
    assert await cache.kv.get("k") == "v"
    held = HeldWrites(monkeypatch, any_write)
    await held.sending.wait()  # The question whether the server still tracks is under way.
    plain.client_kill_filter(_id=internals(cache).store.writer_connection_id)
    plain.set(KEY, b"snewer")
    await asyncio.sleep(0.6)
    try:
        assert await cache.kv.get("k") == "newer"
    finally:
        held.release.set()


async def test_new_connection_of_the_writes_ends_trust_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """The connection ends between the fill and the change, and its registrations with it."""
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"))
    await cache.kv.get_or_load("k", Loader())
    await cache.flush_writes()
    assert in_l1(cache, KEY)
    plain.client_kill_filter(_id=internals(cache).store.writer_connection_id)
    plain.set(KEY, b"snewer")
    await asyncio.sleep(0.6)
    assert await cache.kv.get("k") == "newer"
    assert cache.local_stats().tracking == "interest"


async def test_load_behind_a_failed_read_lives_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read fails, so that the server does not know the key, and the subscription goes on being trusted."""
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"))
    await cache.open()
    with monkeypatch.context() as patched:
        fail_reads(patched, cache)
        assert (await cache.kv.get_or_load("k", Loader())).degraded
    assert in_l1(cache, KEY)
    plain.set(KEY, b"snewer")
    await asyncio.sleep(0.6)
    assert await cache.kv.get("k") == "newer"


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_load_in_progress_behind_a_failed_read_is_joined_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """The server does not know the key of the load, and reports no change of it, while L1 is trusted."""
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"))
    await cache.open()
    release, begun = asyncio.Event(), asyncio.Event()

    async def load(keys: Any) -> Any:
        begun.set()
        await release.wait()
        return dict.fromkeys(keys, "older") if many else "older"

    with monkeypatch.context() as patched:
        fail_reads(patched, cache)
        call = cache.kv.get_or_load_many(["k"], load) if many else cache.kv.get_or_load("k", load)
        waiter: asyncio.Future[Any] = asyncio.ensure_future(call)
        await begun.wait()
    plain.set(KEY, b"snewer")
    await asyncio.sleep(0.6)
    await until(lambda: cache.local_stats().trusted)
    try:
        async with asyncio.timeout(1):
            assert (await cache.kv.get_or_load("k", Loader())).value == "newer"
    finally:
        release.set()
    found = await waiter
    assert (found["k"] if many else found.value) == "older"


async def test_error_of_a_load_behind_a_failed_read_is_remembered_within_the_bound(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = TierOptions(cache_errors={KeyError: 600})
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=0.6, tracking="interest"), kv=tier)
    await cache.open()
    with monkeypatch.context() as patched:
        fail_reads(patched, cache)
        with pytest.raises(KeyError):
            await cache.kv.get_or_load("k", Loader(KeyError("x")))
    loader = Loader()
    with pytest.raises(KeyError):
        await cache.kv.get_or_load("k", loader)
    plain.set(KEY, b"snewer")
    await asyncio.sleep(0.6)
    assert (await cache.kv.get_or_load("k", loader)).value == "newer"


# Changes between two commands of one exchange


async def test_change_between_a_store_and_its_registration_is_noticed(url: str, plain: valkey.Valkey) -> None:
    """The store and its registration are one step for the server: the store comes behind the change."""
    proxy = StallingProxy(url)
    async with proxy as proxied, AgentCache.from_url(proxied, name="test", coherence=BY_INTEREST) as cache:
        await cache.kv.set("k", "first")
        proxy.splits, proxy.stall_at = True, b"*2\r\n$4\r\nPTTL"
        store = asyncio.ensure_future(cache.kv.set("k", "second"))
        await proxy.stalled.wait()
        await until(lambda: plain.ping())
        plain.set(KEY, b"snewer")
        proxy.release()
        await store
        await until(lambda: cache.local_stats().trusted)
        stored = plain.get(KEY)
        assert stored is not None
        assert f"s{await cache.kv.get('k')}".encode() == stored


async def test_read_of_an_absent_key_is_no_empty_value_if_the_key_is_set_meanwhile(
    url: str, plain: valkey.Valkey
) -> None:
    proxy = StallingProxy(url)
    async with proxy as proxied, AgentCache.from_url(proxied, name="test", coherence=BY_INTEREST) as cache:
        await cache.session.set("thread", "other", "x")
        proxy.splits, proxy.stall_at = True, b"*2\r\n$4\r\nPTTL"
        read = asyncio.ensure_future(cache.session.get("thread", "field"))
        await proxy.stalled.wait()
        await until(lambda: plain.ping())
        plain.set("test:session:thread:field", "newer")
        proxy.release()
        assert await read == "newer"


async def test_empty_value_is_read_by_interest(make_cache: MakeCache) -> None:
    one, other = (make_cache(name="test", coherence=BY_INTEREST) for _ in range(2))
    await one.session.set("thread", "field", "")
    assert await other.session.get("thread", "field") == ""
    assert await other.session.get("thread", "absent") is None


# Other processes, and stale copies


@pytest.mark.parametrize("joining", [UNTRACKED, CoherenceOptions(tracking="broadcast")], ids=["off", "broadcast"])
async def test_process_that_tracks_otherwise_joins(
    make_cache: MakeCache, plain: valkey.Valkey, joining: CoherenceOptions
) -> None:
    one = make_cache(name="test", coherence=BY_INTEREST)
    await one.kv.set("k", "v")
    other = make_cache(name="test", coherence=joining)
    assert await other.kv.get("k") == "v"
    await one.kv.set("k", "w")
    await until(lambda: not in_l1(other, KEY), seconds=0.5)
    assert await other.kv.get("k") == "w"
    await other.kv.set("k", "x")
    await until(lambda: not in_l1(one, KEY), seconds=0.5)
    assert await one.kv.get("k") == "x"
    await other.kv.delete("k")
    await until(lambda: not in_l1(one, KEY), seconds=0.5)
    await other.kv.get_or_load("k", Loader())  # Loads are not announced.
    assert await one.kv.get("k") == "answer"
    plain.delete(KEY)
    await until(lambda: not in_l1(one, KEY), seconds=0.5)


@pytest.mark.parametrize("tracking", ["broadcast", "interest"])
async def test_change_after_the_end_of_the_ttl_reaches_a_stale_copy_with_the_next_refresh(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any
) -> None:
    """The end of the TTL has used the registration up; and the server reports it as it reports a change."""
    tier = TierOptions(ttl=0.1, stale_for=600)
    cache = make_cache(name="test", kv=tier, coherence=CoherenceOptions(tracking=tracking))
    loader = Loader()
    await cache.kv.get_or_load("k", loader)
    await until(lambda: not plain.exists(KEY))
    assert await cache.kv.get("k") == "answer"
    plain.set(KEY, b"snewer")

    async def is_newer() -> bool:
        return (await cache.kv.get_or_load("k", loader)).value == "newer"

    await until(is_newer)
    assert loader.calls == 1
    plain.set(KEY, b"slatest")
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)
