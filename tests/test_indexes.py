"""Indexes: group operations touch only their entries if an index is complete, and miss no entry if it is not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import act_after_command, internals, set_intervals
from tests.support import REGISTER, entry_keys, make_due, until
from tiercache import AgentCache, DiscoveryOptions
from tiercache.indexes.scripts import members_script
from tiercache.testing import FakeClock

MakeCache = Callable[..., AgentCache]
Operation = Callable[[AgentCache], Awaitable[int]]

FLAG, TRACE, CLAIMS = "test:__tc:indexed", "test:__tc:others", "test:__tc:indexing"
REGISTRY = "__betterdb:caches"
THEIRS = '{"type":"agent_cache","version":"0.12.0"}'
INDEX = "test:__tc:idx:tool:t"

GROUPS: dict[str, Operation] = {
    "tool": lambda cache: cache.tool.invalidate_by_tool("t"),
    "model": lambda cache: cache.llm.invalidate_by_model("gpt-4o"),
}
THREADS: dict[str, Operation] = {
    "get_all": lambda cache: _length(cache.session.get_all("user")),
    "touch": lambda cache: cache.session.touch("user"),
    "destroy_thread": lambda cache: cache.session.destroy_thread("user"),
}
SWEEPING: dict[str, Operation] = {
    "tool": lambda cache: cache.tool.invalidate_by_tool("t", sweep=True),
    "model": lambda cache: cache.llm.invalidate_by_model("gpt-4o", sweep=True),
    "get_all": lambda cache: _length(cache.session.get_all("user", sweep=True)),
    "touch": lambda cache: cache.session.touch("user", sweep=True),
    "destroy_thread": lambda cache: cache.session.destroy_thread("user", sweep=True),
}
OPERATIONS = GROUPS | THREADS


async def _length(fields: Awaitable[dict[str, str]]) -> int:
    return len(await fields)


async def store(cache: AgentCache) -> None:
    """Store one entry for each operation, and one similar entry that no operation affects."""
    for suffix in ("", "42"):
        await cache.tool.store(f"t{suffix}", {}, "ours")
        await cache.llm.store(HELLO | {"model": f"gpt-4o{suffix}"}, "ours")
        await cache.session.set(f"user{suffix and ':42'}", "ours", "x")


def write_as_another(plain: valkey.Valkey) -> None:
    """Write the same entries as other software, which adds to no index."""
    for suffix in ("", "42"):
        plain.set(f"test:tool:t{suffix}:theirs", '{"response":"x","toolName":"t","args":{},"storedAt":1}')
        plain.set(f"test:llm:theirs{suffix}", f'{{"response":"x","model":"gpt-4o{suffix}","storedAt":1}}')
        plain.set(f"test:session:user{suffix and '%3A42'}:theirs", "x")


def scans(plain: valkey.Valkey) -> int:
    """Return the number of SCANs since the last reset of the server's statistics."""
    return int(plain.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"])


@pytest.mark.parametrize("name", OPERATIONS)
async def test_index_needs_no_scan_if_it_is_complete(cache: AgentCache, plain: valkey.Valkey, name: str) -> None:
    await store(cache)
    plain.config_resetstat()
    assert await OPERATIONS[name](cache) == 1
    assert scans(plain) == 0
    assert await SWEEPING[name](cache) == (name in ("get_all", "touch"))
    assert scans(plain) > 0


async def test_index_reads_a_thread_in_one_exchange(cache: AgentCache, plain: valkey.Valkey) -> None:
    await store(cache)
    await cache.session.get_all("user")
    plain.config_resetstat()
    assert await cache.session.get_all("user") == {"ours": "x"}
    stats = plain.info("commandstats")
    assert stats["cmdstat_eval"]["calls"] == 1
    assert "cmdstat_info" not in stats


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("reason", ["another's marker", "another's junk", "no flag", "trace", "sweep", "evicts"])
async def test_operation_misses_no_entry_if_the_index_may_be_incomplete(
    make_cache: MakeCache, plain: valkey.Valkey, name: str, reason: str
) -> None:
    cache = make_cache(name="test")
    await store(cache)
    write_as_another(plain)
    operation = OPERATIONS[name]
    if reason == "another's marker":
        plain.hset(REGISTRY, "test", THEIRS)
    elif reason == "another's junk":
        plain.hset(REGISTRY, "test", "\xff[")
    elif reason == "no flag":
        plain.delete(FLAG)
    elif reason == "trace":
        plain.set(TRACE, 1)
    elif reason == "sweep":
        operation = SWEEPING[name]
    else:
        plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert await operation(cache) == 2
        assert await cache.session.get_all("user:42", sweep=True) == {"ours": "x", "theirs": "x"}
        if name not in ("get_all", "touch"):
            assert await operation(cache) == 0
            assert len(entry_keys(plain)) == 12 + 2 - 2 - (name == "destroy_thread")
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_operation_trusts_no_index_and_no_hash_if_expiring_keys_are_evicted(
    make_cache: MakeCache, plain: valkey.Valkey, name: str
) -> None:
    plain.config_set("maxmemory-policy", "volatile-lru")
    try:
        cache = make_cache(name="test")
        await store(cache)
        write_as_another(plain)
        assert await OPERATIONS[name](cache) == 2
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


async def test_eviction_policy_of_the_server_is_read_again_after_half_a_minute(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock)
    await store(cache)
    assert await cache.tool.invalidate_by_tool("t") == 1
    write_as_another(plain)
    plain.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        plain.config_resetstat()
        assert await cache.tool.invalidate_by_tool("t") == 0
        assert scans(plain) == 0
        clock.advance(31)
        assert await cache.tool.invalidate_by_tool("t") == 1
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


async def test_flag_stays_deleted_after_the_server_has_evicted(cache: AgentCache, plain: valkey.Valkey) -> None:
    """The flag stays deleted when the server evicts no more, because the server may have evicted an index."""
    plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        await internals(cache).beat()
    finally:
        plain.config_set("maxmemory-policy", "noeviction")
    assert not plain.exists(FLAG)
    await internals(cache).beat()
    assert not plain.exists(FLAG)


async def test_operation_trusts_no_index_without_permission_for_the_registry(url: str, plain: valkey.Valkey) -> None:
    plain.acl_setuser("own", enabled=True, passwords=["+pw"], categories=["+@all"], keys=["test:*"], channels=["*"])
    plain.set(FLAG, 1)
    try:
        async with AgentCache.from_url(f"{url}?username=own&password=pw", name="test") as cache:
            await store(cache)
            write_as_another(plain)
            for operation in OPERATIONS.values():
                assert await operation(cache) == 2
    finally:
        plain.acl_deluser("own")


# The flag of complete indexes


@pytest.mark.parametrize("evicts", [False, True])
async def test_flag_is_written_by_the_first_registration_without_entries(
    make_cache: MakeCache, plain: valkey.Valkey, evicts: bool
) -> None:
    plain.mset({f"test2:llm:{n}": "x" for n in range(3000)} | {"test:__stats:other": "x", "test:lists": "x"})
    plain.config_set("maxmemory-policy", "volatile-lru" if evicts else "noeviction")
    try:
        await make_cache(name="test").open()
        assert plain.exists(FLAG) == (not evicts)
        assert not plain.exists(CLAIMS, TRACE)
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("key", ["test:llm:x", "test:tool:t:x", "test:session:t:f"])
async def test_flag_is_not_written_if_there_are_entries(make_cache: MakeCache, plain: valkey.Valkey, key: str) -> None:
    plain.mset({f"other:{n}": "x" for n in range(3000)})
    plain.set(key, "x")
    await make_cache(name="test").open()
    assert not plain.exists(FLAG, CLAIMS)


async def test_flag_is_not_written_without_a_registration(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", discovery=DiscoveryOptions(enabled=False))
    await store(cache)
    write_as_another(plain)
    assert await cache.tool.invalidate_by_tool("t") == 2
    assert await cache.reindex() == 5
    plain.config_resetstat()
    assert await cache.tool.invalidate_by_tool("t42") == 2
    assert scans(plain) == 0


async def test_index_is_complete_after_a_concurrent_start_of_several_processes(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    caches = [make_cache(name="test") for _ in range(8)]

    async def begin(n: int) -> None:
        await caches[n].open()
        await caches[n].tool.store("t", {"n": n}, "x")

    await asyncio.gather(*map(begin, range(8)))
    assert plain.exists(FLAG)
    plain.config_resetstat()
    assert await caches[0].tool.invalidate_by_tool("t") == 8
    assert scans(plain) == 0


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
async def test_flag_is_not_written_if_other_software_registers_during_the_scan(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, by_hand: bool, is_later: bool
) -> None:
    """Other software registers and writes during the scan, and a tiercache process overwrites its marker."""
    first, second = make_cache(name="test"), make_cache(name="test")
    await first.open()
    if by_hand:
        await second.open()
    plain.delete(FLAG)

    async def act() -> None:
        plain.hset(REGISTRY, "test", THEIRS)
        write_as_another(plain)
        await internals(first).beat()
        assert json.loads(plain.hget(REGISTRY, "test"))["engine"] == "tiercache"
        if is_later:
            assert 0 < plain.pttl(TRACE) <= 90_000
            plain.delete(TRACE)  # In production the trace expires by itself.

    during = act_after_command(monkeypatch, "SCAN", act)
    await (second.reindex() if by_hand else second.open())
    assert during == ["SCAN"]
    assert not plain.exists(FLAG)
    assert await second.tool.invalidate_by_tool("t") == 1


async def test_flag_is_deleted_with_another_softwares_marker(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.hset(REGISTRY, "test", THEIRS)
    await internals(cache).beat()
    assert not plain.exists(FLAG)
    write_as_another(plain)
    # The other software may still be writing, and has had no time to rewrite its marker.
    assert await cache.reindex() == 6
    assert not plain.exists(FLAG)
    plain.delete(TRACE)
    assert await cache.reindex() == 0
    assert plain.exists(FLAG)


async def test_flag_is_written_in_the_background_after_a_long_scan(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, scan=-1, send=0.01)
    plain.mset({f"other:{n}": "x" for n in range(3000)})
    cache = make_cache(name="test")
    await cache.open()
    assert not plain.exists(FLAG)
    write_as_another(plain)
    await store(cache)
    await until(lambda: plain.exists(FLAG))
    plain.config_resetstat()
    for operation in OPERATIONS.values():
        assert await operation(cache) == 2
    assert scans(plain) == 0


async def test_flag_is_written_again_in_the_second_registration_after_a_flush(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    plain.flushdb()
    await internals(cache).beat()
    assert not plain.exists(FLAG)
    await internals(cache).beat()
    assert plain.exists(FLAG)
    plain.flushdb()
    await internals(cache).beat()
    write_as_another(plain)
    await internals(cache).beat()
    assert not plain.exists(FLAG)


async def test_flag_survives_flush(cache: AgentCache, plain: valkey.Valkey) -> None:
    await store(cache)
    await cache.flush(include_session=True)
    assert plain.exists(FLAG)


async def tracked_pair(make_cache: MakeCache) -> tuple[AgentCache, AgentCache]:
    """Return two caches of one name; the server reports the changes of other clients to the second."""
    a, b = make_cache(name="test"), make_cache(name="test")
    await a.open()
    await b.open()

    async def is_tracked() -> bool:
        return (await b.kv.explain("k")).tracked

    await until(is_tracked)
    return a, b


@pytest.mark.parametrize("name", OPERATIONS)
async def test_software_that_never_registers_is_found(
    make_cache: MakeCache, plain: valkey.Valkey, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A betterdb-agent-cache made at module level writes entries and no marker."""
    a, _ = await tracked_pair(make_cache)
    await store(a)
    assert plain.exists(FLAG)
    write_as_another(plain)

    async def is_found() -> bool:
        plain.delete("test:__tc:looked")
        return await internals(a).look_for_foreign_writes()

    await until(is_found)
    assert not plain.exists(FLAG)
    assert "without registering" in caplog.text
    assert plain.exists(TRACE)
    write_as_another(plain)
    assert await OPERATIONS[name](a) == 2


async def test_software_that_never_registers_is_found_among_all_keys(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """The server reports to a process only keys that the process holds, and the pages reach all others."""
    _, b = await tracked_pair(make_cache)
    plain.mset({f"test:tool:t:{n}:known": "x" for n in range(100)})
    assert await b.reindex() == 100
    plain.set("test:__tc:looked", 1)  # No process has the turn.
    write_as_another(plain)
    assert plain.exists(FLAG)
    looked = 0
    while plain.exists(FLAG):
        plain.delete("test:__tc:looked")
        await internals(b).look_for_foreign_writes()
        plain.set("test:__tc:looked", 1)
        looked += 1
    assert looked < 200


async def test_flag_stays_while_only_tiercache_writes(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """The other process receives the keys of stores, loads, deletes, expiries and placeholders."""
    a, b = await tracked_pair(make_cache)
    for n in range(5):
        await a.tool.store("t", {"n": n}, "x")
        await a.llm.get_or_load(asking(str(n)), lambda: "x")
        await a.session.set("user", f"f{n}", "x", ttl=0.05 if n % 2 else None)
        await a.tool.store("t", {"short": n}, "x", ttl=0.05)
        await a.tool.invalidate("t", {"n": n})
        loader = Loader(held=True)
        loading = asyncio.create_task(a.tool.get_or_load("u", {"n": n}, lambda n, loader=loader: loader()))
        await loader.started.wait()
        plain.delete("test:__tc:looked")
        assert not await internals(b).look_for_foreign_writes()
        loader.release()
        await loading
    assert plain.exists(FLAG)


async def test_one_process_of_all_looks_for_foreign_writes(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    _, b = await tracked_pair(make_cache)
    plain.set("test:__tc:looked", 1, px=60_000)
    write_as_another(plain)
    internals(b).note_change("test:tool:t:theirs")
    assert not await internals(b).look_for_foreign_writes()
    assert plain.exists(FLAG)
    plain.delete("test:__tc:looked")
    assert await internals(b).look_for_foreign_writes()


# Reindexing


async def test_reindex_adds_the_entries_of_other_software(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    write_as_another(plain)
    plain.psetex("test:session:user:short", 50_000, "x")
    for junk in ("test:llm:junk", "test:tool:junk", "test:session:junk", "test:session:t:"):
        plain.set(junk, "junk")
    plain.set(b"test:tool:\xff:x", "junk")
    plain.set(b"test:session:t:\xff", "x")
    plain.hset("test:llm:hash", "a", "b")
    cache = make_cache(name="test")
    await store(cache)
    assert await cache.reindex() == 8
    assert await cache.reindex() == 0
    assert plain.ttl("test:session:user:short") <= 50
    plain.config_resetstat()
    assert await cache.session.get_all("user") == {"ours": "x", "theirs": "x", "short": "x"}
    assert await cache.session.destroy_thread("user") == 3
    for operation in GROUPS.values():
        assert await operation(cache) == 2
    assert await cache.session.destroy_thread("user:42") == 2
    assert scans(plain) == 0


async def test_reindex_adds_many_entries(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    entry = '{"response":"x","model":"m","storedAt":1}'
    plain.mset({f"test:llm:{n}": entry for n in range(1500)} | {f"test:session:t:{n}": "x" for n in range(700)})
    cache = make_cache(name="test")
    assert await cache.reindex() == 2200
    plain.config_resetstat()
    assert await cache.llm.invalidate_by_model("m") == 1500
    assert await cache.session.touch("t") == 700
    assert await cache.session.destroy_thread("t") == 700
    assert scans(plain) == 0
    assert entry_keys(plain) == []


async def test_reindex_is_complete_during_writes_of_other_processes(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_as_another(plain)
    cache, other = make_cache(name="test"), make_cache(name="test")
    await cache.open()
    loader = Loader(held=True)
    loading = asyncio.create_task(other.tool.get_or_load("t", {"n": 1}, lambda n: loader()))
    await loader.started.wait()
    act_after_command(monkeypatch, "SCAN", lambda: other.tool.store("t", {"n": 2}, "x"))
    assert await cache.reindex() in (6, 7)
    assert plain.exists(FLAG)
    assert await cache.tool.invalidate_by_tool("t") == 2
    loader.release()
    await loading
    await other.flush_writes()
    assert not plain.keys("test:tool:t:*")


async def test_reindex_warns_if_other_software_is_registered(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.hset(REGISTRY, "test", THEIRS)
    plain.delete(FLAG)
    write_as_another(plain)
    assert await cache.reindex() == 6
    assert not plain.exists(FLAG)
    assert "other software" in caplog.text
    assert caplog.records[-1].getMessage().startswith("cache 'test': ")


async def test_reindex_warns_if_the_server_evicts(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.delete(FLAG)
    plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert await cache.reindex() == 0
    finally:
        plain.config_set("maxmemory-policy", "noeviction")
    assert not plain.exists(FLAG)
    assert "evict" in caplog.text
    assert caplog.records[-1].getMessage().startswith("cache 'test': ")


async def test_reindex_does_nothing_without_valkey() -> None:
    async with AgentCache.in_memory() as cache:
        await store(cache)
        assert await cache.reindex() == 0
        assert await cache.tool.invalidate_by_tool("t", sweep=True) == 1


# Removal from an index


async def test_index_is_removed_in_pages_and_counts_each_entry_once(cache: AgentCache, plain: valkey.Valkey) -> None:
    await asyncio.gather(*(cache.tool.store("t", {"n": n}, "x") for n in range(2300)))
    await asyncio.gather(*(cache.llm.store(asking(str(n)), "x") for n in range(600)))
    plain.delete(*plain.keys("test:tool:t:a*"))
    left = len(plain.keys("test:tool:t:*"))
    assert await cache.tool.invalidate_by_tool("t") == left < 2300
    assert await cache.tool.invalidate_by_tool("t") == 0
    assert await cache.llm.invalidate_by_model("gpt-4o") == 600
    assert entry_keys(plain) == []


@pytest.mark.parametrize("is_tag", [False, True])
async def test_index_drops_removed_entries_except_recently_written_keys(
    cache: AgentCache, plain: valkey.Valkey, is_tag: bool
) -> None:
    index = "test:__tc:idx:tag:tag" if is_tag else INDEX
    key = await cache.tool.store("t", {}, "x", tags=["tag"])
    now = int(time.time() * 1000)
    plain.zadd(index, {key: now - 61_000, "test:tool:t:old": now - 61_000, "test:tool:t:young": now - 50_000})
    assert await (cache.invalidate_tag("tag") if is_tag else cache.tool.invalidate_by_tool("t")) == 1
    assert plain.zrange(index, 0, -1) == [b"test:tool:t:young"]


async def test_index_keeps_a_live_entry_of_any_age(plain: valkey.Valkey) -> None:
    plain.set("lives", "x")
    plain.zadd(INDEX, {"lives": 1, "gone": 1})
    plain.eval(members_script("forget"), 1, INDEX, "lives", "gone", "was no member")
    assert plain.zrange(INDEX, 0, -1) == [b"lives"]


async def test_index_is_trimmed_of_old_removed_entries(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = await cache.tool.store("t", {}, "x")
    await cache.tool.invalidate_by_tool("t")
    make_due(plain)
    await internals(cache).trim_indexes()
    assert plain.zrange(INDEX, 0, -1) == [key.encode()]
    plain.zadd(INDEX, {key: 1})
    make_due(plain)
    await internals(cache).trim_indexes()
    assert not plain.exists(INDEX, REGISTER)
