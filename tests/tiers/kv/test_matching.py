"""Values of a kv tier by a pattern of their keys: which are removed, and which loads lose the right to store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import pytest
import valkey

from tests.requests import Loader
from tests.seams import HeldReads, caught_up, deaf_to_announcements, in_l1, record_writes
from tests.support import UNTRACKED, MakeCache, Pair, entry_keys
from tiercache import AgentCache, KvTier, TierOptions, UsageError
from tiercache.engine.level2.writes import Delete

USERS = ["user:1", "user:1:name", "user:1:plan", "user:11", "user:11:name", "user:2:name", "USER:1:name", "other"]


async def kept(tier: KvTier, keys: Iterable[str] = USERS) -> list[str]:
    return [key for key, value in (await tier.get_many(keys)).items() if value is not None]


@pytest.mark.parametrize("level", ["memory", "cache"])
async def test_delete_pattern_removes_matching_values_alone(level: str, memory: AgentCache, cache: AgentCache) -> None:
    cache = {"memory": memory, "cache": cache}[level]
    await cache.kv.set_many(dict.fromkeys(USERS, 1))
    named = cache.tier("named")
    await named.set("user:1:name", 1)
    assert await cache.kv.delete_pattern("user:1:*", dry_run=True) == 2
    assert await kept(cache.kv) == USERS
    assert await cache.kv.delete_pattern("user:1:*") == 2
    assert await kept(cache.kv) == ["user:1", "user:11", "user:11:name", "user:2:name", "USER:1:name", "other"]
    assert await kept(named) == ["user:1:name"]
    cache.clear_l1()
    assert await cache.kv.delete_pattern("user:1:*") == 0


@pytest.mark.parametrize("name", ["a*", "a[b", "a?c", "tail\\"])
async def test_delete_pattern_takes_escaped_characters_as_they_are(cache: AgentCache, name: str) -> None:
    keys = [name, "ab", "abc", "tail", "axc"]
    await cache.kv.set_many(dict.fromkeys(keys, 1))
    escaped = "".join(f"\\{character}" for character in name)
    assert await cache.kv.delete_pattern(escaped) == 1
    cache.clear_l1()
    assert await kept(cache.kv, keys) == keys[1:]


async def test_delete_pattern_stays_in_the_scope_of_the_call(cache: AgentCache) -> None:
    for scope in ("a*", "abc"):
        with cache.calls(scope=scope):
            await cache.kv.set("user:1", 1)
    await cache.kv.set("user:1", 1)
    with cache.calls(scope="a*"):
        assert await cache.kv.delete_pattern("*", dry_run=True) == 1
        assert await cache.kv.delete_pattern("*") == 1
        assert await kept(cache.kv, ["user:1"]) == []
    assert await kept(cache.kv, ["user:1"]) == ["user:1"]
    with cache.calls(scope="abc"):
        assert await kept(cache.kv, ["user:1"]) == ["user:1"]


async def test_delete_pattern_of_cache_with_special_name_stays_under_its_prefix(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """Names of caches may have a dot or a dash, and no character that a pattern knows; names of tiers neither."""
    cache, other = make_cache(name="t.e-st"), make_cache(name="t.e-st2")
    await cache.kv.set("k", 1)
    await other.kv.set("k", 1)
    plain.set("t.e-st:llm:k", "foreign")
    assert await cache.kv.delete_pattern("*") == 1
    assert await kept(other.kv, ["k"]) == ["k"]
    assert plain.exists("t.e-st:llm:k")


async def test_delete_pattern_removes_many_values_in_bounded_batches(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set_many({f"many:{number}": 1 for number in range(5000)})
    batches = record_writes(monkeypatch)
    assert await cache.kv.delete_pattern("many:*", dry_run=True) == 5000
    assert await cache.kv.delete_pattern("many:*") == 5000
    sizes = [len(write.keys) for batch in batches for write in batch if isinstance(write, Delete)]
    assert sum(sizes) >= 5000
    assert max(sizes) < 2000
    assert entry_keys(plain) == []


async def test_delete_pattern_takes_right_to_store_of_a_load_in_another_process(
    replicas: tuple[AgentCache, AgentCache], plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of the removal may be lost. The placeholder counts as absent, and is removed."""
    a, b = replicas
    deaf_to_announcements(monkeypatch)
    loader = Loader("older", held=True)
    loading = asyncio.create_task(b.kv.get_or_load("user:1", loader))
    await loader.started.wait()
    assert await a.kv.delete_pattern("user:*", dry_run=True) == 0
    assert plain.exists("test:__tc:kv:kv:user:1")
    assert await a.kv.delete_pattern("user:*") == 0
    loader.release()
    assert (await loading).value == "older"
    await b.flush_writes()
    assert entry_keys(plain) == []
    assert not in_l1(b, "test:__tc:kv:kv:user:1")


@pytest.mark.parametrize("lease", [True, False])
async def test_delete_pattern_overtakes_load_in_flight_of_a_matching_key_alone(
    make_cache: MakeCache, plain: valkey.Valkey, lease: bool
) -> None:
    cache = make_cache(name="test", kv=TierOptions(lease=lease))
    loaders = {key: Loader("older", held=True) for key in ("user:1", "user:11")}
    loads = [asyncio.create_task(cache.kv.get_or_load(key, loader)) for key, loader in loaders.items()]
    for loader in loaders.values():
        await loader.started.wait()
    await cache.kv.delete_pattern("user:?")
    # A later caller does not join the overtaken load.
    assert (await cache.kv.get_or_load("user:1", Loader("newer"))).value == "newer"
    for loader in loaders.values():
        loader.release()
    assert [(await load).value for load in loads] == ["older", "older"]
    await cache.flush_writes()
    cache.clear_l1()
    assert await cache.kv.get_many(["user:1", "user:11"]) == {"user:1": "newer", "user:11": "older"}


async def test_delete_pattern_breaks_read_in_flight_of_replica(
    replicas: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = replicas
    await a.kv.set("user:1", "older")
    reads = HeldReads(monkeypatch)
    reading = asyncio.create_task(b.kv.get("user:1"))
    await reads.answered.wait()
    assert await a.kv.delete_pattern("user:*") == 1
    await caught_up(b, plain)
    reads.release.set()
    assert await reading == "older"
    assert not in_l1(b, "test:__tc:kv:kv:user:1")


async def test_delete_pattern_waits_for_queued_store(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", coherence=UNTRACKED)
    await asyncio.gather(cache.kv.get_or_load("user:1", Loader("x")))
    assert await cache.kv.delete_pattern("user:*") == 1
    await cache.flush_writes()
    assert entry_keys(plain) == []


async def test_delete_pattern_counts_values_of_a_sync_cache(cache: AgentCache) -> None:
    def work() -> tuple[int, int]:
        kv = cache.sync.kv
        kv.set_many({"user:1": 1, "user:2": 2})
        return kv.delete_pattern("user:*", dry_run=True), kv.delete_pattern("user:*")

    assert await asyncio.to_thread(work) == (2, 2)


async def test_delete_pattern_of_a_sync_cache_asks_the_scope_function_in_the_thread_of_its_caller(
    make_cache: MakeCache,
) -> None:
    threads: list[int] = []

    def scope() -> str:
        threads.append(threading.get_ident())
        return "tenant"

    cache = make_cache(name="test", kv=TierOptions(scope=scope))

    def work() -> tuple[int, set[int]]:
        cache.sync.kv.set("user:1", 1)
        count = cache.sync.kv.delete_pattern("user:*")
        return count, set(threads) - {threading.get_ident()}

    assert await asyncio.to_thread(work) == (1, set())


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "pattern must not be empty"),
        (b"*", "must be a str"),
        ("\ud800", "Unicode"),
        ("[a-é]", "beyond ASCII"),
        ("x" * 600, "at most 489 bytes of UTF-8, not 600"),
    ],
)
async def test_delete_pattern_refuses_pattern_that_is_none(memory: AgentCache, pattern: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        await memory.kv.delete_pattern(pattern)


async def test_delete_pattern_refuses_dry_run_that_is_no_bool(memory: AgentCache) -> None:
    with pytest.raises(UsageError, match="dry_run must be a bool"):
        await memory.kv.delete_pattern("*", dry_run="no")  # type: ignore[arg-type]


async def test_delete_pattern_counts_in_a_dry_run_values_of_other_processes_and_keys_of_other_types(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    await other.kv.set_many({"a1": 1, "a2": 2})
    await other.flush_writes()
    plain.rpush("test:__tc:kv:kv:a3", "x")
    assert await cache.kv.delete_pattern("a*", dry_run=True) == 3
