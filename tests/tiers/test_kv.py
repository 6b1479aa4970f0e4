"""The kv tiers: any value under any key, in tiers that cannot meet."""

from __future__ import annotations

import asyncio
import copy
import enum
import json
import os
import pickle
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.support import entry_keys
from tiercache import (
    MISS,
    NO_EXPIRY,
    AgentCache,
    CoherenceOptions,
    KvTier,
    L2UnavailableError,
    ResilienceOptions,
    TierOptions,
    UsageError,
    WrongLoopError,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import FakeClock

MakeCache = Callable[..., AgentCache]
NESTED = {"b": [1, {"c": None}], "a": "é"}


class Word(str):
    """A caller's own kind of text, which lies about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def __format__(self, spec: str) -> str:
        return "lie"

    def __len__(self) -> int:
        return 0

    __hash__ = None  # type: ignore[assignment]


class Blob(bytes):
    def __bytes__(self) -> bytes:
        return b"lie"


class Number(enum.IntEnum):
    ONE = 1


# What goes in, what lies in Valkey, what comes out.
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
async def test_every_value_comes_back_from_both_levels_and_from_the_loader(
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


async def test_none_is_a_value_and_miss_is_the_absence_of_one(make_cache: MakeCache) -> None:
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


def test_miss_is_one_object_false_and_equal_to_nothing_else() -> None:
    for same in (copy.copy(MISS), copy.deepcopy(MISS), pickle.loads(pickle.dumps(MISS))):
        assert same is MISS
    assert repr(MISS) == "MISS"
    assert not MISS
    assert MISS not in (None, False, 0, "", "MISS", [])


async def test_miss_cannot_be_stored(cache: AgentCache, plain: valkey.Valkey) -> None:
    with pytest.raises(UsageError, match="value is not JSON"):
        await cache.kv.set("k", MISS)
    with pytest.raises(UsageError, match="the loader's value is not JSON"):
        await cache.kv.get_or_load("k", lambda: MISS)
    assert entry_keys(plain) == []


async def test_what_comes_out_is_the_callers_own(cache: AgentCache) -> None:
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


async def test_those_who_share_a_load_get_a_value_each(cache: AgentCache) -> None:
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


async def test_a_result_says_where_the_value_came_from(make_cache: MakeCache) -> None:
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
async def test_the_modes_are_the_engines(cache: AgentCache, mode: Any) -> None:
    await cache.kv.set("k", "old")
    result = await cache.kv.get_or_load("k", lambda: "new", mode=mode)
    assert result.value == ("old" if mode in ("use", "only_cached") else "new")
    await cache.flush_writes()
    kept = "new" if mode in ("refresh", "store_only") else "old"
    assert await cache.kv.get("k") == kept
    cache.clear_l1()
    assert await cache.kv.get("k") == kept


async def test_lifetimes_go_from_call_to_tier_to_cache(make_cache: MakeCache, plain: valkey.Valkey) -> None:
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


async def test_deleting_says_what_was_there(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set_many({"a": 1, "b": None, "c": 3, "d": 4})
    assert await cache.kv.delete("a")
    assert not await cache.kv.delete("a")
    assert await cache.kv.delete_many(["a", "b", "b", "c"]) == 2
    assert await cache.kv.delete_many([]) == 0
    assert await cache.kv.get_many(["a", "b", "c", "d"], MISS) == {"a": MISS, "b": MISS, "c": MISS, "d": 4}
    plain.delete("test:__tc:kv:kv:d")
    assert await cache.kv.delete_many(["d"]) == 1  # It was in L1.
    assert entry_keys(plain) == []


async def test_nothing_asked_is_nothing_done(cache: AgentCache, plain: valkey.Valkey) -> None:
    assert await cache.kv.get_many([]) == {}
    assert await cache.kv.get_or_load_many([], lambda keys: 1 / 0) == {}  # type: ignore[arg-type, return-value]
    await cache.kv.set_many({})
    assert entry_keys(plain) == []


async def test_clearing_a_tier_leaves_everything_else(make_cache: MakeCache, plain: valkey.Valkey) -> None:
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


async def test_a_named_tier_has_keys_options_and_counters_of_its_own(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
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


def test_one_name_is_one_tier() -> None:
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
def test_a_bad_tier_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="name must be"):
        AgentCache.in_memory().tier(name)


@pytest.mark.parametrize("options", [TierOptions(ignore=("a",)), TierOptions(key=lambda params: params)])
def test_options_of_the_llm_tier_alone_are_refused(options: TierOptions) -> None:
    with pytest.raises(UsageError, match="kv must be TierOptions without"):
        AgentCache.in_memory(kv=options)
    with pytest.raises(UsageError, match="e must be TierOptions without"):
        AgentCache.in_memory().tier("e", options)
    with pytest.raises(UsageError, match="e must be a TierOptions, not int"):
        AgentCache.in_memory().tier("e", 5)  # type: ignore[arg-type]


# Arguments

CALLS: dict[str, Callable[[KvTier, Any], Awaitable[Any]]] = {
    "get": lambda kv, key: kv.get(key),
    "set": lambda kv, key: kv.set(key, "x"),
    "exists": lambda kv, key: kv.exists(key),
    "delete": lambda kv, key: kv.delete(key),
    "get_or_load": lambda kv, key: kv.get_or_load(key, lambda: "x"),
    "get_many": lambda kv, key: kv.get_many(["fine", key]),
    "set_many": lambda kv, key: kv.set_many({"fine": "x", key: "x"}),
    "delete_many": lambda kv, key: kv.delete_many(["fine", key]),
    "get_or_load_many": lambda kv, key: kv.get_or_load_many(["fine", key], lambda keys: keys),
}
calls = pytest.mark.parametrize("method", CALLS)
MOST = 512 - len("test:__tc:kv:kv:")


@calls
@pytest.mark.parametrize("key", ["", None, 5, b"k", "\ud800", "x" * (MOST + 1), "é" * (MOST // 2 + 1)], ids=ascii)
async def test_a_bad_key_is_refused_everywhere(cache: AgentCache, plain: valkey.Valkey, method: str, key: Any) -> None:
    await cache.kv.set("fine", "stays")
    with pytest.raises(UsageError, match=r"^key "):
        await CALLS[method](cache.kv, key)
    cache.clear_l1()
    assert await cache.kv.get("fine") == "stays"
    assert entry_keys(plain) == ["test:__tc:kv:kv:fine"]


@calls
@pytest.mark.parametrize("key", ["a:b", ":", "*[x]?\\", " ", "\x00\n", "é" * (MOST // 2), "x" * MOST], ids=ascii)
async def test_any_other_text_is_a_key(cache: AgentCache, plain: valkey.Valkey, method: str, key: str) -> None:
    await CALLS[method](cache.kv, key)
    await cache.kv.set(key, "value")
    assert plain.get(f"test:__tc:kv:kv:{key}") == b"svalue"
    assert await cache.kv.get_many([key]) == {key: "value"}
    assert await cache.kv.delete(key)


async def test_of_a_str_subclass_nothing_but_its_text_is_kept(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = Word("word")
    await cache.kv.set(key, "x")
    assert entry_keys(plain) == ["test:__tc:kv:kv:word"]
    assert await cache.kv.get(key) == await cache.kv.get("word") == "x"
    asked: list[Any] = []
    values = await cache.kv.get_or_load_many([key, Word("other")], lambda keys: asked.extend(keys) or keys)
    assert values == {"word": "x", "other": "other"}
    await cache.kv.get_or_load(Word("third"), lambda key: asked.append(key))
    assert asked == ["other", "third"]
    assert {type(text) for text in [*values, *asked]} == {str}
    assert await cache.kv.delete_many([key, Word("other")]) == 2


@pytest.mark.parametrize("keys", ["keys", None, 5])
async def test_keys_that_are_no_iterable_of_keys_are_refused(cache: AgentCache, keys: Any) -> None:
    for call in (
        lambda: cache.kv.get_many(keys),
        lambda: cache.kv.delete_many(keys),
        lambda: cache.kv.get_or_load_many(keys, lambda wanted: wanted),
    ):
        with pytest.raises(UsageError, match="keys must be an iterable of keys"):
            await call()
    with pytest.raises(UsageError, match="mapping must be a mapping"):
        await cache.kv.set_many(keys)


async def test_keys_may_come_from_a_generator(cache: AgentCache) -> None:
    assert await cache.kv.get_or_load_many((key for key in "ab"), lambda keys: keys) == {"a": "a", "b": "b"}
    assert await cache.kv.get_many(key for key in "ab") == {"a": "a", "b": "b"}
    assert await cache.kv.delete_many(key for key in "ab") == 2


@pytest.mark.parametrize("value", [{1}, object(), "\ud800", {"a": "\udc00"}, [object()], bytearray(b"x"), {1: {2}}])
async def test_a_value_that_is_not_json_text_or_bytes_is_refused(
    cache: AgentCache, plain: valkey.Valkey, value: Any
) -> None:
    with pytest.raises(UsageError, match=r"^value "):
        await cache.kv.set("k", value)
    with pytest.raises(UsageError, match=r"^the value of 'k' "):
        await cache.kv.set_many({"fine": 1, "k": value})
    with pytest.raises(UsageError, match=r"^the loader's value "):
        await cache.kv.get_or_load("k", lambda: value)
    with pytest.raises(UsageError, match=r"^the loader's value of 'k' "):
        await cache.kv.get_or_load_many(["fine", "k"], lambda keys: [1, value])
    assert entry_keys(plain) == []


@pytest.mark.parametrize("ttl", [0, -1, True, "soon", float("nan")])
async def test_a_bad_ttl_is_refused(cache: AgentCache, plain: valkey.Valkey, ttl: Any) -> None:
    for call in (
        lambda: cache.kv.set("k", "x", ttl=ttl),
        lambda: cache.kv.set_many({"k": "x"}, ttl=ttl),
        lambda: cache.kv.get_or_load("k", lambda: "x", ttl=ttl),
        lambda: cache.kv.get_or_load_many(["k"], lambda keys: keys, ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            await call()
    assert entry_keys(plain) == []


async def test_a_bad_loader_or_mode_is_refused(cache: AgentCache) -> None:
    with pytest.raises(UsageError, match="loader must be a function"):
        await cache.kv.get_or_load("k", "x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="loader must be a function"):
        await cache.kv.get_or_load_many(["k"], {"k": 1})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="mode must be"):
        await cache.kv.get_or_load("k", lambda: "x", mode="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loaded", "complaint"),
    [
        ([1], "returned 1 values for the 2 keys 'a', 'b'"),
        ([1, 2, 3], "returned 3 values for the 2 keys"),
        ({"a": 1}, "returned a mapping without the key 'b'"),
        ({}, "returned a mapping without the key 'a'"),
        (None, "must return a mapping or a list, not NoneType"),
        ("ab", "must return a mapping or a list, not str"),
        ({"a", "b"}, "must return a mapping or a list, not set"),
    ],
)
async def test_a_batch_loader_that_does_not_answer_for_every_key_is_refused(
    cache: AgentCache, plain: valkey.Valkey, loaded: Any, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        await cache.kv.get_or_load_many(["a", "b"], lambda keys: loaded)
    await cache.flush_writes()
    assert entry_keys(plain) == []


@pytest.mark.parametrize(
    "loader",
    [
        lambda keys: {"c": 3, "b": 2, "a": 1},
        lambda keys: (1, 2),
        lambda keys: asyncio.sleep(0, [1, 2]),
        lambda keys: asyncio.sleep(0, {"b": 2, "a": 1}),
    ],
)
async def test_a_batch_loader_may_be_async_or_plain_and_return_a_mapping_or_values(
    cache: AgentCache, loader: Any
) -> None:
    assert list((await cache.kv.get_or_load_many(["a", "b"], loader)).items()) == [("a", 1), ("b", 2)]
    assert await cache.kv.get("c", MISS) is MISS  # What nobody asked for is not kept.


# What else lies in Valkey, and what else goes wrong


@pytest.mark.parametrize(
    "junk", [b"", b"x", b"{}", b"jnot json", b"s\xff", b"j\xff", b"j", b"\x00", "a hash"], ids=repr
)
async def test_a_corrupt_or_foreign_entry_is_a_counted_miss_and_is_repaired(
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


async def test_a_value_written_by_hand_is_read(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.set("test:__tc:kv:kv:k", b'j "text" ')
    plain.set("test:__tc:kv:kv:l", b"j[1e400, NaN]")
    assert await cache.kv.get("k") == "text"
    assert json.dumps(await cache.kv.get("l")) == "[Infinity, NaN]"


async def test_without_valkey_lookups_miss_loads_load_and_writes_say_so(own_server: tuple[EmbeddedValkey, int]) -> None:
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
        # What may not have been deleted is not asked for.
        assert await kv.get_many(list("cd")) == dict.fromkeys("cd")
        assert counters.l2_errors == 8
        os.kill(pid, signal.SIGCONT)


async def test_it_works_in_process_memory_alone() -> None:
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


@calls
async def test_a_closed_cache_says_so(make_cache: MakeCache, method: str) -> None:
    cache = make_cache(name="test")
    await cache.kv.set_many({"fine": "x", "k": "x"})
    await cache.aclose()
    with pytest.raises(UsageError, match="the cache is closed"):
        await CALLS[method](cache.kv, "k")


def test_another_running_loop_is_refused(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    first = asyncio.new_event_loop()
    refused = 0

    def from_another_loop() -> None:
        nonlocal refused
        for call in CALLS.values():

            async def run(call: Callable[[KvTier, Any], Awaitable[Any]] = call) -> None:
                await call(cache.kv, "k")

            with pytest.raises(WrongLoopError):
                asyncio.run(run())
            refused += 1

    try:
        first.run_until_complete(cache.kv.set_many({"fine": "x", "k": "x"}))
        thread = threading.Thread(target=from_another_loop)
        thread.start()
        thread.join(30)
        assert refused == len(CALLS)
        first.run_until_complete(cache.aclose())
    finally:
        first.close()


async def test_operations_are_named_after_the_methods(cache: AgentCache) -> None:
    for call in CALLS.values():
        cache.clear_l1()
        await call(cache.tier("named"), "k")
    await cache.tier("named").clear()
    done = {name for name, counters in cache.local_stats().operations.items() if counters.calls}
    assert done == {f"kv.{method}" for method in [*CALLS, "clear"]}
