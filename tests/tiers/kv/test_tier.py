"""The kv tiers: any value under any key, in tiers that are kept apart."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import signal
from typing import Any

import pytest
import valkey

from tests.support import MakeCache, entry_keys
from tests.tiers.kv.subclasses import Blob, Number, Word
from tiercache import (
    MISS,
    NO_EXPIRY,
    AgentCache,
    CoherenceOptions,
    KvTier,
    L2UnavailableError,
    LlmOptions,
    ResilienceOptions,
    TierOptions,
    UsageError,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import FakeClock

NESTED = {"b": [1, {"c": None}], "a": "é"}


# The value that is set, its bytes in Valkey, and the value that is returned.
VALUES: list[tuple[Any, bytes, Any]] = [
    (None, b"jnull", None),
    (False, b"jfalse", False),
    (0, b"j0", 0),
    (0.0, b"j0.0", 0.0),
    ("", b"s", ""),
    (b"", b"b", b""),
    ([], b"j[]", []),
    ({}, b"j{}", {}),
    ("text", b"stext", "text"),
    ("jnull", b"sjnull", "jnull"),
    ("é\x00\n", "sé\x00\n".encode(), "é\x00\n"),
    (b"\xff\x00", b"b\xff\x00", b"\xff\x00"),
    (NESTED, '{"b":[1,{"c":null}],"a":"é"}'.encode(), NESTED),
    ((1, (2,)), b"j[1,[2]]", [1, [2]]),
    ({1: 2}, b'j{"1":2}', {"1": 2}),
    (1e-07, b"j1e-07", 1e-07),
    (10**30, b"j" + b"1" + b"0" * 30, 10**30),
    (float("inf"), b"jInfinity", float("inf")),
    ([float("-inf"), 1.5], b"j[-Infinity,1.5]", [float("-inf"), 1.5]),
    (Word("word"), b"sword", "word"),
    (Blob(b"blob"), b"bblob", b"blob"),
    (Number.ONE, b"j1", 1),
]


@pytest.mark.parametrize(("value", "stored", "comes_back"), VALUES, ids=repr)
async def test_kv_returns_every_value_from_both_levels_and_from_loader(
    cache: AgentCache, plain: valkey.Valkey, value: Any, stored: bytes, comes_back: Any
) -> None:
    stored = b"j" + stored if stored[:1] == b"{" else stored
    await cache.kv.set("set", value)
    loaded = await cache.kv.get_or_load("loaded", lambda: value)
    await cache.flush_writes()
    assert plain.get("test:__tc:kv:kv:set") == plain.get(loaded.key) == stored
    outs = [loaded.value, await cache.kv.get("set", MISS), await cache.kv.get("loaded", MISS)]
    cache.clear_l1()
    outs += [await cache.kv.get("set", MISS), (await cache.kv.get_or_load("loaded", lambda: "never")).value]
    outs += [*(await cache.kv.get_many(["set", "loaded"], MISS)).values()]
    for out in outs:
        assert out == comes_back
        assert type(out) is type(comes_back)
    assert await cache.kv.exists("set")


async def test_kv_tells_none_from_miss(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    assert await cache.kv.get("k") is None
    assert await cache.kv.get("k", MISS) is MISS
    assert not await cache.kv.exists("k")
    await cache.kv.set("k", None)
    assert await cache.kv.get("k", MISS) is None
    assert await cache.kv.exists("k")
    await cache.aclose()
    restarted = make_cache(name="test")
    assert await restarted.kv.get("k", default=MISS) is None
    assert await restarted.kv.get_many(["k", "other"], default=MISS) == {"k": None, "other": MISS}
    assert (await restarted.kv.get_or_load("k", lambda: "never")).hit
    assert (await restarted.kv.get_or_load("other", lambda: "never", mode="only_cached")).value is MISS


def test_miss_is_a_false_singleton() -> None:
    for same in (copy.copy(MISS), copy.deepcopy(MISS), pickle.loads(pickle.dumps(MISS))):
        assert same is MISS
    assert repr(MISS) == "MISS"
    assert not MISS
    assert MISS not in (None, False, 0, "", "MISS", [])


async def test_kv_refuses_to_store_miss(cache: AgentCache, plain: valkey.Valkey) -> None:
    with pytest.raises(UsageError, match="value is not JSON"):
        await cache.kv.set("k", MISS)
    assert (await cache.kv.get_or_load("k", lambda: MISS)).value is MISS
    await cache.flush_writes()
    assert entry_keys(plain) == []


async def test_kv_returns_value_of_its_own_to_each_caller(cache: AgentCache) -> None:
    given = {"rows": [1]}

    async def spoiled() -> None:
        given["rows"].append("given")
        (await cache.kv.get("k"))["rows"].append("get")
        (await cache.kv.get_many(["k"]))["k"]["rows"].append("get_many")
        (await cache.kv.get_or_load("k", lambda: "never")).value["rows"].append("get_or_load")
        (await cache.kv.get_or_load_many(["k"], lambda keys: []))["k"]["rows"].append("get_or_load_many")

    await cache.kv.set("k", given)
    await spoiled()
    assert await cache.kv.get("k") == {"rows": [1]}
    cache.clear_l1()
    await spoiled()
    assert await cache.kv.get("k") == {"rows": [1]}


async def test_kv_returns_value_of_its_own_to_each_waiter_of_a_flight(cache: AgentCache) -> None:
    made = [1]

    async def load(keys: list[str]) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        keys_then = list(keys)
        keys.clear()
        return dict.fromkeys(keys_then, made)

    first, second, third = await asyncio.gather(
        cache.kv.get_or_load_many(["a", "b"], load),
        cache.kv.get_or_load_many(["a", "b"], load),
        cache.kv.get_or_load("a", lambda: "never"),
    )
    values = [*first.values(), *second.values(), third.value]
    made.append(2)
    values[0].append(3)
    assert values[1:] == [[1]] * 4
    assert len({id(value) for value in values}) == 5


async def test_kv_result_reports_source_age_and_ttl(make_cache: MakeCache) -> None:
    time = FakeClock()
    cache = make_cache(name="test", clock=time.clock, coherence=CoherenceOptions(max_staleness=60))
    first = await cache.kv.get_or_load("a:b", lambda key: asyncio.sleep(0, {"key": key}), ttl=60)
    assert (first.hit, first.value, first.key) == (False, {"key": "a:b"}, "test:__tc:kv:kv:a:b")
    assert (first.source, first.age, first.ttl) == ("loader", 0, 60)
    assert (first.coalesced, first.degraded, first.stale) == (False, False, False)
    await cache.flush_writes()
    time.advance(5)
    again = await cache.kv.get_or_load("a:b", lambda: "never")
    assert (again.hit, again.source, again.age, again.ttl) == (True, "l1", 5, 55)
    cache.clear_l1()
    again = await cache.kv.get_or_load("a:b", lambda: "never")
    assert (again.hit, again.source, again.age) == (True, "l2", None)
    assert again.ttl is not None
    assert 50 < again.ttl <= 60
    again = await cache.kv.get_or_load("a:b", lambda: "never")
    assert (again.hit, again.source, again.age) == (True, "l1", None)


@pytest.mark.parametrize("mode", ["use", "refresh", "bypass", "only_cached", "store_only"])
async def test_kv_modes_load_and_store_as_named(cache: AgentCache, mode: Any) -> None:
    await cache.kv.set("k", "old")
    result = await cache.kv.get_or_load("k", lambda: "new", mode=mode)
    assert result.value == ("old" if mode in ("use", "only_cached") else "new")
    await cache.flush_writes()
    kept = "new" if mode in ("refresh", "store_only") else "old"
    assert await cache.kv.get("k") == kept
    cache.clear_l1()
    assert await cache.kv.get("k") == kept


async def test_kv_ttl_comes_from_call_then_tier_then_cache(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", default_ttl=1000, kv=TierOptions(ttl="5m"))
    plainer = cache.tier("plain")
    await cache.kv.set("tier", 1)
    await cache.kv.set("call", 1, ttl=7)
    await cache.kv.set_many({"many": 1}, ttl=NO_EXPIRY)
    await cache.kv.get_or_load("loaded", lambda: 1, ttl=8)
    await cache.kv.get_or_load_many(["loaded many"], lambda keys: [1], ttl=9)
    await plainer.set("default", 1)
    await cache.flush_writes()
    ttls = {key.rpartition(":")[2]: plain.ttl(key) for key in entry_keys(plain)}
    assert ttls == {"tier": 300, "call": 7, "many": -1, "loaded": 8, "loaded many": 9, "default": 1000}


async def test_kv_delete_counts_keys_that_existed(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set_many({"a": 1, "b": None, "c": 3, "d": 4})
    assert await cache.kv.delete("a")
    assert not await cache.kv.delete("a")
    assert await cache.kv.delete_many(["a", "b", "b", "c"]) == 2
    assert await cache.kv.delete_many([]) == 0
    assert await cache.kv.get_many(["a", "b", "c", "d"], MISS) == {"a": MISS, "b": MISS, "c": MISS, "d": 4}
    plain.delete("test:__tc:kv:kv:d")
    assert await cache.kv.delete_many(["d"]) == 1  # The key was in L1.
    assert entry_keys(plain) == []


async def test_kv_accepts_empty_batches(cache: AgentCache, plain: valkey.Valkey) -> None:
    assert await cache.kv.get_many([]) == {}
    assert await cache.kv.get_or_load_many([], lambda keys: 1 / 0) == {}  # type: ignore[arg-type, return-value]
    await cache.kv.set_many({})
    assert entry_keys(plain) == []


async def test_kv_clear_leaves_other_tiers_and_caches(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache, sibling = make_cache(name="x"), make_cache(name="x-eu")
    more, e, embeddings = cache.tier("more"), cache.tier("e"), cache.tier("embeddings")
    tiers = [cache.kv, more, e, embeddings, sibling.kv, sibling.tier("embeddings")]
    for tier in tiers:
        await tier.set_many({"a": 1, "kv:a": 2, "*": 3})
    await cache.tool.store("t", {}, "x")
    plain.set("x:__tc:kv:kvv:a", "foreign")
    plain.set("embeddings", "foreign")
    assert await cache.kv.clear() == 3
    assert await e.clear() == 3
    assert await cache.kv.get("a") is await e.get("a") is None
    for tier in (more, embeddings, *tiers[4:]):
        assert (await tier.get_or_load("*", lambda: "never")).source == "l1"
    cache.clear_l1()
    assert await embeddings.get_many(["a", "kv:a", "*"]) == {"a": 1, "kv:a": 2, "*": 3}
    assert (await cache.tool.check("t", {})).hit
    assert plain.exists("x:__tc:kv:kvv:a", "embeddings") == 2


# Named tiers


async def test_kv_named_tier_has_its_own_keys_options_and_counters(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    embeddings = cache.tier("embeddings", TierOptions(ttl=60, l1=False))
    assert isinstance(embeddings, KvTier)
    await embeddings.set("k", [0.5])
    await cache.kv.set("k", "other")
    assert await embeddings.get("k") == [0.5]
    assert await embeddings.get("k") == [0.5]
    assert await cache.kv.get("k") == "other"
    assert plain.ttl("test:__tc:kv:embeddings:k") == 60
    tiers = cache.local_stats().tiers
    assert (tiers["embeddings"].l1_hits, tiers["embeddings"].l2_hits) == (0, 2)
    assert (tiers["kv"].l1_hits, tiers["kv"].l2_hits) == (1, 0)


def test_kv_named_tier_is_made_once_for_a_name() -> None:
    cache = AgentCache.in_memory(kv=TierOptions(ttl=5))
    assert cache.tier("kv") is cache.kv
    assert cache.tier("kv", TierOptions(ttl=5)) is cache.kv
    tier = cache.tier("e", TierOptions(ttl=7))
    assert cache.tier("e") is tier
    assert cache.tier("e", TierOptions(ttl=7)) is tier
    assert cache.tier("other") is not tier
    assert cache.tier("other", TierOptions()) is cache.tier("other")
    for name, options in (("e", TierOptions()), ("kv", TierOptions()), ("other", TierOptions(l1=False))):
        with pytest.raises(UsageError, match=f"tier '{name}' has been made with other options"):
            cache.tier(name, options)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "é", "a\n", "llm", "tool", "session", "x" * 129, None, 5, b"e"])
def test_kv_refuses_bad_tier_name(name: Any) -> None:
    with pytest.raises(UsageError, match="name must be"):
        AgentCache.in_memory().tier(name)


@pytest.mark.parametrize("options", [LlmOptions(ignore=("a",)), LlmOptions(key=lambda params: params)])
def test_kv_refuses_options_of_llm_tier(options: TierOptions) -> None:
    with pytest.raises(UsageError, match="kv must be a TierOptions, not a LlmOptions: ignore and key"):
        AgentCache.in_memory(kv=options)
    with pytest.raises(UsageError, match="e must be a TierOptions, not a LlmOptions: ignore and key"):
        AgentCache.in_memory().tier("e", options)
    with pytest.raises(UsageError, match="e must be a TierOptions, not int"):
        AgentCache.in_memory().tier("e", 5)  # type: ignore[arg-type]


# Foreign entries, and no Valkey


@pytest.mark.parametrize(
    "junk", [b"", b"x", b"{}", b"jnot json", b"s\xff", b"j\xff", b"j", b"\x00", "a hash"], ids=repr
)
async def test_kv_counts_undecodable_entry_as_miss_and_replaces_it(
    cache: AgentCache, plain: valkey.Valkey, junk: Any
) -> None:
    key = "test:__tc:kv:kv:k"

    def spoil() -> None:
        plain.delete(key)
        if junk == "a hash":
            plain.hset(key, "a", "b")
        else:
            plain.set(key, junk)

    spoil()
    assert await cache.kv.get("k", MISS) is MISS
    assert not await cache.kv.exists("k")
    assert await cache.kv.get_many(["k", "other"], MISS) == {"k": MISS, "other": MISS}
    assert cache.local_stats().tiers["kv"].undecodable == 3
    assert (await cache.kv.get_or_load("k", lambda: "repaired")).source == "loader"
    await cache.flush_writes()
    assert plain.get(key) == b"srepaired"
    spoil()
    cache.clear_l1()
    assert await cache.kv.get_or_load_many(["k", "other"], lambda keys: keys) == {"k": "k", "other": "other"}
    await cache.flush_writes()
    assert plain.get(key) == b"sk"


async def test_kv_reads_value_written_by_hand(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.set("test:__tc:kv:kv:k", b'j "text" ')
    plain.set("test:__tc:kv:kv:l", b"j[1e400, NaN]")
    assert await cache.kv.get("k") == "text"
    assert json.dumps(await cache.kv.get("l")) == "[Infinity, NaN]"


async def test_kv_is_degraded_while_valkey_is_unavailable(own_server: tuple[EmbeddedValkey, int]) -> None:
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_failures=1000, drain_timeout=0.1)
    async with AgentCache.from_url(server.url, resilience=resilience) as cache:
        kv = cache.kv
        await kv.set_many(dict.fromkeys("abcdef", "before"))
        cache.clear_l1()
        await kv.get_many(list("abcde"))
        os.kill(pid, signal.SIGSTOP)
        assert await kv.get_many(["e", "f", "g"], MISS) == {"e": "before", "f": MISS, "g": MISS}
        assert await kv.get("f", MISS) is MISS
        assert not await kv.exists("f")
        result = await kv.get_or_load("f", lambda: "loaded")
        assert (result.value, result.source, result.degraded) == ("loaded", "loader", True)
        batch = asyncio.create_task(kv.get_or_load_many(["e", "f", "h"], lambda keys: keys))
        joined = await asyncio.create_task(kv.get_or_load("h", lambda: "never"))
        assert (joined.value, joined.coalesced, joined.degraded) == ("h", True, True)
        assert await batch == {"e": "before", "f": "loaded", "h": "h"}
        for write in (
            lambda: kv.set("a", "after"),
            lambda: kv.set_many({"b": "after"}),
            lambda: kv.delete("c"),
            lambda: kv.delete_many(["d"]),
        ):
            with pytest.raises(L2UnavailableError):
                await write()
        assert await kv.get_many(list("ab")) == dict.fromkeys("ab")
        counters = cache.local_stats().tiers["kv"]
        assert counters.l2_errors == 2 + 2 + 1 + 1 + 2
        # A key whose delete is pending is not read.
        assert await kv.get_many(list("cd")) == dict.fromkeys("cd")
        assert counters.l2_errors == 8
        os.kill(pid, signal.SIGCONT)


async def test_kv_works_in_process_memory_alone() -> None:
    async with AgentCache.in_memory() as cache:
        kv = cache.tier("memory")
        await kv.set("a", None)
        await kv.set_many({"b": [1], "c": b"x"})
        assert await kv.get_many(["a", "b", "c", "d"], MISS) == {"a": None, "b": [1], "c": b"x", "d": MISS}
        assert await kv.get_or_load_many(["d", "a"], lambda keys: keys) == {"d": "d", "a": None}
        assert (await kv.get_or_load("d", lambda: "never")).source == "l1"
        assert await kv.exists("d")
        assert not await kv.exists("e")
        assert await kv.delete("d")
        assert not await kv.delete("d")
        assert await kv.delete_many(["a", "b", "e"]) == 2
        assert await kv.clear() == 1
