"""Tags: a name for entries of any tier, by which one call removes them from every process."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import caught_up, in_l1, internals
from tests.support import MakeCache, Pair
from tiercache import AgentCache, DiscoveryOptions, L1Options, L2CommandError, UsageError

INDEX = "test:__tc:idx:tag:tag"


async def found(cache: AgentCache) -> set[str]:
    """Return the names of the entries that a read finds."""
    reads = {
        "kv": cache.kv.get("k"),
        "named": cache.tier("named").get("k"),
        "tool": _response(cache.tool.check("t", {})),
        "llm": _response(cache.llm.check(HELLO)),
        "other": cache.kv.get("other"),
    }
    return {name for name, read in reads.items() if await read is not None}


async def _response(result: Any) -> Any:
    return (await result).response


EVERYTHING = {"kv", "named", "tool", "llm", "other"}


async def store(cache: AgentCache) -> None:
    """Store an entry with the tag in each tier, and one entry with other tags."""
    await cache.kv.set("k", "v", tags=["tag"])
    await cache.tier("named").set_many({"k": "v"}, tags=["tag", "second"])
    await cache.tool.store("t", {}, "v", tags=("tag",))
    await cache.llm.store(HELLO, "v", tags=["tag"])
    await cache.kv.set("other", "v", tags=["tagged", "ta"])


async def load(cache: AgentCache) -> None:
    """Load an entry with the tag in each tier, and one entry with other tags."""
    await cache.kv.get_or_load("k", Loader(), tags=["tag"])
    await cache.tier("named").get_or_load_many(["k"], lambda keys: ["v"], tags=["tag", "second"])
    await cache.tool.get_or_load("t", {}, lambda: "v", tags=["tag"])
    await cache.llm.get_or_load(HELLO, Loader(), tags=["tag"])
    await cache.kv.get_or_load("other", Loader(), tags=["tagged", "ta"])
    await cache.flush_writes()


@pytest.mark.parametrize("fill", [store, load])
async def test_tag_removes_entries_from_every_tier_and_process(
    replicas: Pair, plain: valkey.Valkey, fill: Callable[[AgentCache], Any]
) -> None:
    a, b = replicas
    await fill(a)
    assert await found(a) == await found(b) == EVERYTHING
    assert await a.invalidate_tag("tag") == 4
    await caught_up(b, plain)
    assert await found(a) == await found(b) == {"other"}
    for cache in replicas:
        cache.clear_l1()
        assert await found(cache) == {"other"}


async def test_tag_drops_entry_from_l1_of_replica_that_never_used_tag(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    await store(a)
    assert await found(b) == EVERYTHING
    await a.invalidate_tag("tag")
    await caught_up(b, plain)
    assert not in_l1(b, "test:__tc:kv:kv:k")
    assert in_l1(b, "test:__tc:kv:kv:other")
    assert await found(b) == {"other"}


async def test_tag_is_invalidated_by_replica_that_never_used_tag(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    await store(a)
    assert await b.invalidate_tag("tag") == 4
    await caught_up(a, plain)
    assert await found(a) == {"other"}


async def test_tag_drops_entry_read_from_valkey_from_own_l1(replicas: Pair) -> None:
    a, b = replicas
    await store(a)
    assert await found(b) == EVERYTHING
    assert await b.invalidate_tag("tag") == 4
    assert await found(b) == {"other"}


@pytest.mark.parametrize("tier", ["kv", "kv many", "tool", "llm"])
@pytest.mark.parametrize("is_remote", [False, True])
async def test_tag_breaks_load_in_flight_with_tag(
    replicas: Pair, plain: valkey.Valkey, tier: str, is_remote: bool
) -> None:
    a, b = replicas
    loader = Loader("older", held=True)

    async def load_many(keys: list[str]) -> list[Any]:
        return [await loader() for _ in keys]

    calls: dict[str, Any] = {
        "kv": lambda: b.kv.get_or_load("k", loader, tags=["tag"]),
        "kv many": lambda: b.kv.get_or_load_many(["k"], load_many, tags=["tag"]),
        "tool": lambda: b.tool.get_or_load("t", {}, loader, tags=["tag"]),
        "llm": lambda: b.llm.get_or_load(HELLO, loader, tags=["tag"]),
    }
    loading = asyncio.ensure_future(calls[tier]())
    await loader.started.wait()
    assert await (a if is_remote else b).invalidate_tag("tag") == 0
    await caught_up(b, plain)
    loader.release()
    await loading
    await b.flush_writes()
    assert b.local_stats().l1_entry_count == 0
    assert await found(b) == await found(a) == set()


async def test_tag_leaves_load_in_flight_without_tag(replicas: Pair) -> None:
    a, b = replicas
    loader = Loader(held=True)
    loading = asyncio.create_task(b.kv.get_or_load("k", loader, tags=["another"]))
    await loader.started.wait()
    await a.invalidate_tag("tag")
    loader.release()
    await loading
    await b.flush_writes()
    assert await a.kv.get("k") == "answer"


async def test_tag_leaves_entry_stored_after_invalidation(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    await store(a)
    await a.invalidate_tag("tag")
    await a.kv.set("k", "newer", tags=["tag"])
    await caught_up(b, plain)
    assert await b.kv.get("k") == "newer"
    assert await b.invalidate_tag("tag") == 1


async def test_tag_counts_entries_that_existed(replicas: Pair, plain: valkey.Valkey) -> None:
    a, _ = replicas
    await a.kv.set_many({str(number): number for number in range(1200)}, tags=["tag"])
    await a.kv.delete_many(["0", "1"])
    plain.delete("test:__tc:kv:kv:2")
    assert await a.invalidate_tag("tag") == 1197
    assert await a.invalidate_tag("tag") == 0


async def test_tag_counts_entry_once_for_several_tags(replicas: Pair) -> None:
    a, _ = replicas
    await store(a)
    assert await a.invalidate_tag("second", "tag", "tagged", "tag") == 5
    assert await found(a) == set()


async def test_tag_that_is_unknown_removes_nothing(replicas: Pair) -> None:
    a, _ = replicas
    await store(a)
    assert await a.invalidate_tag("unknown") == 0
    assert await a.invalidate_tag() == 0
    assert await found(a) == EVERYTHING


@pytest.mark.parametrize("tag", [" ", "a:b", "a%3Ab", "%", "*", "tag*", "[ag]", "é👍🏽", "a b", "x" * 200])
async def test_tag_matches_as_text_and_not_as_pattern(replicas: Pair, tag: str) -> None:
    a, b = replicas
    await store(a)
    await a.llm.store(asking("x"), "v", tags=[tag])
    await b.kv.set("l", "v", tags=[tag])
    assert await a.invalidate_tag(tag) == 2
    assert await found(a) == EVERYTHING


async def test_tag_leaves_cache_of_other_name(make_cache: MakeCache) -> None:
    a, b = make_cache(name="test"), make_cache(name="test.eu")
    for cache in (a, b):
        await store(cache)
    assert await a.invalidate_tag("tag") == 4
    assert await found(b) == EVERYTHING


async def test_tag_index_ignores_foreign_members(replicas: Pair, plain: valkey.Valkey) -> None:
    a, _ = replicas
    await store(a)
    plain.zadd(INDEX, {b"\xff\xfe": 1, "nowhere": 2})
    assert await a.invalidate_tag("tag") == 4
    assert await found(a) == {"other"}


async def test_tag_works_in_process_memory_alone() -> None:
    async with AgentCache.in_memory() as cache:
        await store(cache)
        assert await cache.invalidate_tag("tag") == 4
        assert await found(cache) == {"other"}


WRONG: list[Any] = ["tag", b"tag", [""], [1], ["a", None], [b"tag"], {"a": "b"}, 5, iter(["a"]), ["\ud800"]]


@pytest.mark.parametrize("tags", WRONG, ids=[type(tags).__name__ + str(number) for number, tags in enumerate(WRONG)])
async def test_tag_list_of_wrong_type_is_refused(cache: AgentCache, plain: valkey.Valkey, tags: Any) -> None:
    loader = Loader()
    calls: list[Callable[[], Any]] = [
        lambda: cache.kv.set("k", "v", tags=tags),
        lambda: cache.kv.set_many({"k": "v"}, tags=tags),
        lambda: cache.kv.get_or_load("k", loader, tags=tags),
        lambda: cache.kv.get_or_load_many(["k"], lambda keys: ["v"], tags=tags),
        lambda: cache.tool.store("t", {}, "v", tags=tags),
        lambda: cache.tool.get_or_load("t", {}, loader, tags=tags),
        lambda: cache.llm.store(HELLO, "v", tags=tags),
        lambda: cache.llm.store_multipart(HELLO, [], tags=tags),
        lambda: cache.llm.get_or_load(HELLO, loader, tags=tags),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="tag"):
            await call()
    assert loader.calls == 0
    assert await found(cache) == set()


@pytest.mark.parametrize("tag", ["", 1, None, b"tag", ["tag"], "\ud800"], ids=repr)
async def test_tag_of_wrong_type_cannot_be_invalidated(cache: AgentCache, tag: Any) -> None:
    await store(cache)
    with pytest.raises(UsageError, match="tag"):
        await cache.invalidate_tag("tag", tag)
    assert await found(cache) == EVERYTHING


async def test_store_with_a_wrong_tag_is_no_operation(cache: AgentCache) -> None:
    stores = {
        "kv.set": cache.kv.set("k", "v", tags=[""]),
        "tool.store": cache.tool.store("t", {}, "v", tags=[""]),
        "llm.store": cache.llm.store(HELLO, "v", tags=[""]),
    }
    for store in stores.values():
        with pytest.raises(UsageError, match="a tag must not be empty"):
            await store
    assert stores.keys().isdisjoint(cache.local_stats().operations)


# Servers that evict


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@pytest.mark.parametrize("fill", [store, load])
async def test_tag_removes_entries_whose_index_was_evicted(
    replicas: Pair, plain: valkey.Valkey, fill: Callable[[AgentCache], Any], policy: str
) -> None:
    a, b = replicas
    plain.config_set("maxmemory-policy", policy)
    try:
        await fill(a)
        plain.delete(INDEX, "test:__tc:idx:tag:ta")
        assert await found(b) == EVERYTHING
        assert await b.invalidate_tag("tag") == 4
        assert await found(b) == {"other"}
        assert await a.invalidate_tag("ta") == 1
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


async def test_tag_removes_entries_whose_index_was_evicted_before_the_policy_changed(
    replicas: Pair, plain: valkey.Valkey
) -> None:
    """A reindexing under a policy without eviction makes the indexes complete again."""
    a, _ = replicas
    await store(a)
    plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        await internals(a).beat()
    finally:
        plain.config_set("maxmemory-policy", "noeviction")
    plain.delete(INDEX)
    assert await a.invalidate_tag("tag") == 4
    await store(a)
    plain.delete(INDEX)
    await a.reindex()
    assert not plain.exists("test:__tc:evicted")
    plain.config_resetstat()
    assert await a.invalidate_tag("tag") == 4
    assert "cmdstat_scan" not in plain.info("commandstats")


async def test_tag_breaks_load_of_another_process_whose_index_was_evicted(replicas: Pair, plain: valkey.Valkey) -> None:
    """A message may be lost too: the placeholder goes, so that the load cannot be stored in Valkey."""
    a, b = replicas
    loader = Loader("older", held=True)
    loading = asyncio.ensure_future(b.kv.get_or_load("k", loader, tags=["tag"]))
    await loader.started.wait()
    plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        plain.delete(INDEX)
        await a.invalidate_tag("tag")
        assert not plain.exists("test:__tc:kv:kv:k")
    finally:
        plain.config_set("maxmemory-policy", "noeviction")
    loader.release()
    await loading


async def test_tag_without_eviction_needs_no_scan(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """Not even where other software uses the name, or the cache is not registered: only we write tags."""
    for options in ({}, {"discovery": DiscoveryOptions(enabled=False)}):
        cache = make_cache(name="test", **options)
        await store(cache)
        plain.hset("__betterdb:caches", "test", '{"type":"agent_cache","version":"0.12.0"}')
        plain.delete("test:__tc:indexed")
        plain.config_resetstat()
        assert await cache.invalidate_tag("tag") == 4
        assert "cmdstat_scan" not in plain.info("commandstats")


async def test_entry_with_very_many_tags_belongs_to_every_tag_of_a_sweep(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    """Its bytes list no tags any more, so that they do not grow without bound."""
    tags = [f"{n:0100}" for n in range(200)]
    for tier_store in (
        cache.kv.set("k", "v", tags=tags),
        cache.llm.store(HELLO, "v", tags=tags),
        cache.tool.store("t", {}, "v", tags=tags),
    ):
        await tier_store
    assert plain.strlen("test:__tc:kv:kv:k") < 20
    cache.clear_l1()
    assert await found(cache) == {"kv", "llm", "tool"}
    plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        plain.delete(*plain.keys("test:__tc:idx:tag:*"))
        assert await cache.invalidate_tag(tags[150]) == 3
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


# Strange members of an index


@pytest.mark.parametrize("member", ["other:__tc:kv:kv:k", "test:__tc:sequence", "test:session:t:f", "test:__stats"])
@pytest.mark.parametrize("kind", ["tag", "tool", "model"])
async def test_group_operation_removes_only_entries_of_its_own(
    cache: AgentCache, plain: valkey.Valkey, kind: str, member: str
) -> None:
    await store(cache)
    await cache.session.set("t", "f", "v")
    plain.set("other:__tc:kv:kv:k", "jx")
    plain.hset("test:__stats", "llm:hits", 1)
    index = {"tag": INDEX, "tool": "test:__tc:idx:tool:t", "model": "test:__tc:idx:model:gpt-4o"}[kind]
    plain.zadd(index, {member: 1})
    before = plain.dump(member)
    operations: dict[str, Callable[[], Any]] = {
        "tag": lambda: cache.invalidate_tag("tag"),
        "tool": lambda: cache.tool.invalidate_by_tool("t"),
        "model": lambda: cache.llm.invalidate_by_model("gpt-4o"),
    }
    assert await operations[kind]() == (4 if kind == "tag" else 1)
    assert plain.exists(member)
    if "sequence" not in member:
        assert plain.dump(member) == before
    assert plain.zscore(index, member) is None


# A refused index


@pytest.mark.parametrize("tier", ["kv", "load"])
async def test_value_that_its_index_refuses_is_not_kept(cache: AgentCache, plain: valkey.Valkey, tier: str) -> None:
    """No invalidation of the tag would find the value."""
    plain.set(INDEX, "no sorted set")
    if tier == "kv":
        with pytest.raises(L2CommandError):
            await cache.kv.set("k", "v", tags=["tag"])
    else:
        assert (await cache.kv.get_or_load("k", Loader(), tags=["tag"])).value == "answer"
    await cache.flush_writes()
    assert not plain.exists("test:__tc:kv:kv:k")
    assert not await cache.kv.exists("k") or tier == "load"


async def test_loaded_value_that_the_index_of_a_waiter_refuses_is_not_kept(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    """The tag of the waiter joins the load after the load has taken its lease."""
    plain.set(INDEX, "no sorted set")
    loader = Loader(held=True)
    first = asyncio.create_task(cache.kv.get_or_load("k", loader))
    await loader.started.wait()
    second = asyncio.create_task(cache.kv.get_or_load("k", loader, tags=["tag"]))
    await asyncio.sleep(0)
    loader.release()
    await asyncio.gather(first, second)
    await cache.flush_writes()
    assert not plain.exists("test:__tc:kv:kv:k")


# Memory


@pytest.mark.parametrize("are_shared", [False, True])
async def test_tags_count_towards_the_bound_of_l1(are_shared: bool) -> None:
    bound = 1024 * 1024
    async with AgentCache.in_memory(l1=L1Options(max_entries=1_000_000, max_bytes=bound)) as cache:
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(700):
                await cache.kv.set(f"{n}", n, tags=[f"tag {'' if are_shared else n} {tag}" for tag in range(50)])
            gc.collect()
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        stats = cache.local_stats()
        assert stats.l1_bytes <= bound
        assert growth <= 1.5 * bound
        # Shared tags take memory once: L1 keeps many more such entries.
        assert (stats.l1_entry_count > 600) == are_shared


async def test_tags_leave_memory_with_their_entries() -> None:
    cache = AgentCache.in_memory()
    async with cache:
        await cache.kv.set_many({f"{n}": n for n in range(100)}, tags=["a", "b"])
        before = cache.local_stats().l1_bytes
        for n in range(100):
            await cache.kv.set(f"{n}", n, tags=[f"new {n}"])
        assert cache.local_stats().l1_bytes > before
        await cache.kv.delete_many([f"{n}" for n in range(100)])
        assert cache.local_stats().l1_bytes == 0
