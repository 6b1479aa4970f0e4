"""Tags of ``get_or_load`` hold for the entry that it returns, also if the entry was cached without them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader
from tests.seams import act_after_reads, caught_up
from tests.support import MakeCache, Pair
from tiercache import AgentCache, TierOptions, WriteOptions
from tiercache.tiers.values.tags import split_tags

KEYS = {"kv": "test:__tc:kv:kv:k", "llm": "test:llm:*", "tool": "test:tool:t:*"}
INDEX = "test:__tc:idx:tag:doc"

Get = Callable[..., Awaitable[Any]]


def getter(cache: AgentCache, tier: str) -> Get:
    """Return the ``get_or_load`` of one entry of ``tier``: called with a loader and options."""
    calls: dict[str, Get] = {
        "kv": lambda loader, **options: cache.kv.get_or_load("k", loader, **options),
        "many": lambda loader, **options: cache.kv.get_or_load_many(["k"], lambda keys: [loader()], **options),
        "llm": lambda loader, **options: cache.llm.get_or_load(HELLO, loader, **options),
        "tool": lambda loader, **options: cache.tool.get_or_load("t", {}, loader, **options),
    }
    return calls[tier]


def older() -> str:
    return "older"


def newer() -> str:
    return "newer"


def value_of(result: Any) -> Any:
    """Return the value in a result of any tier."""
    if isinstance(result, dict):
        return result["k"]
    return result.value if hasattr(result, "value") else result.response


TIERS = ["kv", "many", "llm", "tool"]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("level", ["l1", "l2"])
@pytest.mark.parametrize("tags_of_the_load", [(), ("other",)])
async def test_tag_of_a_hit_removes_the_entry_everywhere(
    replicas: Pair, plain: valkey.Valkey, tier: str, level: str, tags_of_the_load: tuple[str, ...]
) -> None:
    """The entry was loaded without the tag; a later call hits it with the tag."""
    a, b = replicas
    await getter(a, tier)(older, tags=tags_of_the_load)
    await a.flush_writes()
    reader = a if level == "l1" else b
    assert value_of(await getter(reader, tier)(newer, tags=["doc"])) == "older"
    assert await (b if level == "l1" else a).invalidate_tag("doc") == 1
    for cache in replicas:
        await caught_up(cache, plain)
        assert value_of(await getter(cache, tier)(newer, tags=["doc"])) == "newer"


@pytest.mark.parametrize("tier", TIERS)
async def test_hit_whose_tags_are_registered_writes_nothing_and_reads_once(
    replicas: Pair, plain: valkey.Valkey, tier: str
) -> None:
    a, b = replicas
    await getter(a, tier)(older, tags=["doc", "other"])
    await a.flush_writes()
    await b.open()
    plain.config_resetstat()
    for cache in (a, b, b):
        assert value_of(await getter(cache, tier)(newer, tags=["other", "doc"])) == "older"
    stats = plain.info("commandstats")
    assert stats.keys().isdisjoint({"cmdstat_set", "cmdstat_zadd"})
    # One read, by the process that had not read the entry before.
    reads = stats.get("cmdstat_get", {"calls": 0})["calls"] + stats.get("cmdstat_mget", {"calls": 0})["calls"]
    assert reads <= 1


@pytest.mark.parametrize("tier", TIERS)
async def test_tag_of_a_hit_changes_neither_value_nor_lifetime(replicas: Pair, plain: valkey.Valkey, tier: str) -> None:
    a, b = replicas
    await getter(a, tier)(older, ttl=100)
    await a.flush_writes()
    (key,) = plain.keys(KEYS["kv" if tier == "many" else tier])
    plain.pexpire(key, 50_000)
    before = plain.get(key)
    await getter(b, tier)(newer, tags=["doc", 'd]o"c\n'])
    after = plain.get(key)
    assert split_tags(after) == (before, ("doc", 'd]o"c\n'))
    assert 40_000 < plain.pttl(key) <= 50_000
    assert 90_000 < plain.pttl(INDEX) <= 110_000
    assert await a.invalidate_tag('d]o"c\n') == 1


async def test_tags_of_many_callers_of_one_entry_all_hold(replicas: Pair) -> None:
    a, b = replicas
    loader = Loader("newer")
    callers = {f"{n}{name}": cache for n in range(40) for name, cache in (("a", a), ("b", b))}
    for tag in ("0a", "20b", "39b"):
        await a.kv.set("k", "older")
        await asyncio.gather(*(cache.kv.get_or_load("k", loader, tags=[each]) for each, cache in callers.items()))
        assert await b.invalidate_tag(tag) == 1
    assert loader.calls == 0


async def test_tag_of_a_hit_keeps_a_lifetime_that_has_just_been_changed(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("k", "older", ttl=500)
    cache.clear_l1()
    lives = iter((300, 20))
    act_after_reads(monkeypatch, lambda: plain.expire(KEYS["kv"], next(lives)))
    assert (await cache.kv.get_or_load("k", newer, tags=["doc"])).source == "l2"
    assert plain.ttl(KEYS["kv"]) <= 20


@pytest.mark.parametrize("is_remote", [False, True])
async def test_tag_of_a_caller_that_waits_for_a_load_holds(
    replicas: Pair, plain: valkey.Valkey, is_remote: bool
) -> None:
    a, b = replicas
    loader = Loader("older", held=True)
    first = asyncio.create_task(a.kv.get_or_load("k", loader))
    await loader.started.wait()
    second = asyncio.create_task(a.kv.get_or_load("k", loader, tags=["doc"]))
    await asyncio.sleep(0)
    loader.release()
    await asyncio.gather(first, second)
    await a.flush_writes()
    assert await (b if is_remote else a).invalidate_tag("doc") == 1


async def test_invalidation_breaks_a_load_that_a_caller_with_the_tag_waits_for(replicas: Pair) -> None:
    a, _ = replicas
    loader = Loader("older", held=True)
    first = asyncio.create_task(a.kv.get_or_load("k", loader))
    await loader.started.wait()
    second = asyncio.create_task(a.kv.get_or_load("k", loader, tags=["doc"]))
    await asyncio.sleep(0)
    await a.invalidate_tag("doc")
    loader.release()
    await asyncio.gather(first, second)
    await a.flush_writes()
    assert await a.kv.get("k") is None


async def test_tag_of_a_hit_in_a_queue_of_writes_behind_holds(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", writes=WriteOptions(mode="behind", max_delay=5), tool=TierOptions(l1=False))
    await cache.tool.store("t", {}, "older")
    assert (await cache.tool.get_or_load("t", {}, newer, tags=["doc"])).response == "older"
    assert await cache.invalidate_tag("doc") == 1


@pytest.mark.parametrize("mode", ["use", "only_cached"])
async def test_hit_that_cannot_get_its_tag_is_a_miss(
    make_cache: MakeCache, plain: valkey.Valkey, url: str, mode: Any
) -> None:
    """The user may read entries, but not write indexes."""
    await make_cache(name="test").kv.set("k", "older")
    plain.acl_setuser(
        "own",
        enabled=True,
        passwords=["+pw"],
        categories=["+@all"],
        channels=["*"],
        keys=["test:__tc:kv:*", "test:__tc:s*", "test:__stats", "__betterdb:*"],
    )
    try:
        async with AgentCache.from_url(f"{url}?username=own&password=pw", name="test") as cache:
            assert await cache.kv.get("k") == "older"
            result = await cache.kv.get_or_load("k", newer, tags=["doc"], mode=mode)
            assert result.source == ("loader" if mode == "use" else None)
            assert await cache.kv.get("k") == ("newer" if mode == "use" else "older")
    finally:
        plain.acl_deluser("own")


async def test_hit_of_an_entry_that_is_removed_before_it_gets_the_tag_is_loaded(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("k", "older")
    cache.clear_l1()
    reads = act_after_reads(monkeypatch, lambda: plain.delete(KEYS["kv"]))
    assert (await cache.kv.get_or_load("k", newer, tags=["doc"])).source == "loader"
    assert len(reads) >= 2


async def test_tag_of_a_hit_holds_in_process_memory_alone() -> None:
    async with AgentCache.in_memory() as cache:
        for tier in TIERS:
            await getter(cache, tier)(older)
            assert value_of(await getter(cache, tier)(newer, tags=["doc"])) == "older"
        assert await cache.invalidate_tag("doc") == 3
