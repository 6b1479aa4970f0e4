"""Tags: a name for entries of any tier, by which one call removes them from every process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import caught_up, in_l1
from tests.support import MakeCache, Pair
from tiercache import AgentCache, UsageError

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
