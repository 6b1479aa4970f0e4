"""The key-value store: the results of py-key-value's own store, odd names, Valkey away, and FastMCP on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.installed import needs

needs("key_value")

from key_value.aio.protocols.key_value import AsyncDestroyStoreProtocol, AsyncKeyValue
from key_value.aio.stores.memory import MemoryStore

from tests.support import MakeCache, entry_keys
from tiercache import NO_EXPIRY, AgentCache, L2UnavailableError, ResilienceOptions, TierOptions, UsageError
from tiercache.adapters.keyvalue import TierCacheKeyValue
from tiercache.testing import ChaosProxy, FakeClock

QUICK = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)
# Pairs of collection and key that a plain join would confuse, and names that are long or odd.
NAMES = [
    (None, "k"),
    ("", "k"),
    ("default_collection", "k"),
    ("a", "b:c"),
    ("a:b", "c"),
    ("1:a", "b"),
    ("é\x00", "🌊"),
    ("a", ""),
    ("c" * 700, "k"),
    ("c" * 700, "k2"),
    ("a", "k" * 5000),
]


@pytest.fixture(params=["valkey", "memory"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[TierCacheKeyValue]:
    """Return a store on Valkey, and one in process memory alone."""
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield TierCacheKeyValue(cache)


class Cut:
    """A connection to Valkey that a test cuts and heals, and caches behind it."""

    def __init__(self, proxy: ChaosProxy) -> None:
        self._proxy = proxy
        self.caches: list[AgentCache] = []

    def cache(self) -> AgentCache:
        cache = AgentCache.from_url(self._proxy.url, name="test", resilience=QUICK)
        self.caches.append(cache)
        return cache

    def cut(self) -> None:
        self._proxy.refuse()
        self._proxy.kill()

    def heal(self) -> None:
        self._proxy.refuse(False)


@pytest.fixture
async def cut(proxy: ChaosProxy) -> AsyncIterator[Cut]:
    cut = Cut(proxy)
    yield cut
    for cache in cut.caches:
        await cache.aclose()


_NAME = st.sampled_from(NAMES)
_VALUE = st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers(-9, 9) | st.lists(st.text()))
_STEP = st.one_of(
    st.tuples(st.just("put"), _NAME, _VALUE),
    st.tuples(st.just("put_many"), st.lists(_NAME, max_size=3), _VALUE),
    st.tuples(st.just("get"), _NAME),
    st.tuples(st.just("get_many"), st.lists(_NAME, max_size=4)),
    st.tuples(st.just("delete"), _NAME),
    st.tuples(st.just("delete_many"), st.lists(_NAME, max_size=3, unique=True)),
    st.tuples(st.just("ttl"), _NAME),
    st.tuples(st.just("ttl_many"), st.lists(_NAME, max_size=3)),
)


async def carry_out(store: Any, step: tuple[Any, ...]) -> list[Any]:
    """Return the results of a step. A step of many keys is one call for each of their collections."""
    action, names, *values = step
    if not action.endswith("_many"):
        collection, key = names
        return [await getattr(store, action)(key, *values, collection=collection)]
    results = []
    for collection in dict.fromkeys(collection for collection, _ in names):
        keys = [key for each, key in names if each == collection]
        arguments = [[{**values[0], "place": place} for place in range(len(keys))]] if values else []
        results.append(await getattr(store, action)(keys, *arguments, collection=collection))
    return results


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEP, max_size=12))
async def test_store_gives_the_results_of_the_memory_store(store: TierCacheKeyValue, steps: list[Any]) -> None:
    await store.destroy()
    other = MemoryStore()
    for step in steps:
        assert await carry_out(store, step) == await carry_out(other, step), step


async def test_store_has_the_protocol(store: TierCacheKeyValue) -> None:
    assert isinstance(store, AsyncKeyValue)
    assert isinstance(store, AsyncDestroyStoreProtocol)


async def test_store_keeps_every_pair_of_collection_and_key_apart(store: TierCacheKeyValue) -> None:
    # The first three are one pair: the library calls its default collection so.
    for number, (collection, key) in enumerate(NAMES):
        await store.put(key, {"number": number}, collection=collection)
    found = [await store.get(key, collection=collection) for collection, key in NAMES]
    assert found == [{"number": max(2, number)} for number in range(len(NAMES))]


async def test_destroy_removes_all_collections_and_no_other_entry(store: TierCacheKeyValue, url: str) -> None:
    async with AgentCache.from_url(url, name="test") as cache:
        await cache.kv.set("mine", 1)
        await store.put("k", {"a": 1}, collection="one")
        await store.put("k", {"a": 1}, collection="two")
        assert await store.destroy()
        assert await store.get_many(["k"], collection="one") == [None]
        assert await store.get_many(["k"], collection="two") == [None]
        assert await cache.kv.get("mine") == 1


async def test_lifetime_of_a_value_ends_exactly_and_is_told() -> None:
    clock = FakeClock()
    async with AgentCache.in_memory(clock=clock.clock, default_ttl=60) as cache:
        store = TierCacheKeyValue(cache)
        await store.put("k", {"a": 1}, ttl=10)
        await store.put("default", {"a": 2})
        clock.advance(4)
        assert await store.ttl("k") == ({"a": 1}, 6.0)
        assert await store.ttl_many(["default", "k", "none"]) == [({"a": 2}, 56.0), ({"a": 1}, 6.0), (None, None)]
        clock.advance(6)
        assert await store.ttl("k") == (None, None)
        assert await store.get("default") == {"a": 2}


async def test_value_without_a_lifetime_has_none_in_valkey(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    store = TierCacheKeyValue(make_cache())
    await store.put("k", {"a": 1})
    await store.put("soon", {"a": 1}, ttl=100)
    assert await store.ttl("k") == ({"a": 1}, None)
    lives = sorted(plain.pttl(key) for key in entry_keys(plain))
    assert lives[0] == -1
    assert 90_000 < lives[1] <= 100_000


async def test_two_processes_share_values_and_see_changes(make_cache: MakeCache) -> None:
    one, two = TierCacheKeyValue(make_cache()), TierCacheKeyValue(make_cache())
    await one.put("k", {"a": 1})
    assert await two.get("k") == {"a": 1}
    assert await two.delete("k")
    assert await one.get("k") is None


async def test_value_belongs_to_its_caller(store: TierCacheKeyValue) -> None:
    given = {"list": [1]}
    await store.put("k", given)
    given["list"].append(2)
    first, second = await store.get_many(["k", "k"])
    assert first is not None
    first["list"].append(3)
    assert second == await store.get("k") == {"list": [1]}


async def test_value_that_other_code_has_stored_in_the_tier_is_a_miss(make_cache: MakeCache) -> None:
    cache = make_cache()
    store = TierCacheKeyValue(cache)
    await cache.tier("keyvalue").set("18:default_collection:k", "text")
    assert await store.get("k") is None
    assert await store.get_many(["k"]) == [None]
    assert await store.ttl("k") == (None, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("k", [1]), "value must be a mapping, not list"),
        (("k", {"a": object()}), "object"),
        (("k", {"a": b"x"}), "bytes"),
        ((1, {}), "key must be a str, not int"),
        (("\ud800", {}), "key has text that is not Unicode"),
    ],
)
async def test_wrong_argument_is_refused_and_stores_nothing(
    store: TierCacheKeyValue, arguments: tuple[Any, Any], text: str
) -> None:
    await store.put("k", {"before": 1})
    with pytest.raises(UsageError, match=text):
        await store.put(*arguments)
    assert await store.get("k") == {"before": 1}


@pytest.mark.parametrize("ttl", [0, -1, True, float("nan"), float("inf"), "soon", [1]])
async def test_wrong_lifetime_is_refused(store: TierCacheKeyValue, ttl: Any) -> None:
    with pytest.raises(UsageError, match="ttl"):
        await store.put("k", {}, ttl=ttl)
    assert await store.get("k") is None


async def test_wrong_sequences_are_refused(store: TierCacheKeyValue) -> None:
    with pytest.raises(UsageError, match="keys must be a sequence of keys, not str"):
        await store.get_many("abc")
    with pytest.raises(UsageError, match="the same length, not 2 and 1"):
        await store.put_many(["a", "b"], [{}])
    with pytest.raises(UsageError, match="collection must be a str, not int"):
        await store.get("k", collection=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cache must be an AgentCache, not str"):
        TierCacheKeyValue("cache")  # type: ignore[arg-type]


async def test_options_of_the_tier_count(make_cache: MakeCache) -> None:
    cache = make_cache(default_ttl=60)
    cache.tier("answers", TierOptions(ttl=NO_EXPIRY))
    store = TierCacheKeyValue(cache, "answers")
    await store.put("k", {})
    assert await store.ttl("k") == ({}, None)


# Valkey away


async def test_cache_of_responses_goes_on_without_valkey(cut: Cut, caplog: pytest.LogCaptureFixture) -> None:
    cache = cut.cache()
    store = TierCacheKeyValue(cache)
    cut.cut()
    for number in range(3):
        await store.put("k", {"number": number})
        await store.put_many(["a", "b"], [{}, {}])
    assert await store.get("k") is None
    assert await store.get_many(["a", "k"]) == [None, None]
    assert await store.ttl("a") == (None, None)
    with pytest.raises(L2UnavailableError):
        await store.delete("k")
    assert caplog.text.count("a value of a key-value store is not stored") == 1


async def test_state_raises_without_valkey(cut: Cut) -> None:
    store = TierCacheKeyValue(cut.cache(), require_l2=True)
    await store.put("k", {"a": 1})
    cut.cut()
    for call in (
        lambda: store.put("k", {}),
        lambda: store.put_many(["k"], [{}]),
        lambda: store.get("other"),
        lambda: store.get_many(["other"]),
        lambda: store.ttl("other"),
        lambda: store.ttl_many(["other"]),
        lambda: store.delete("k"),
        lambda: store.delete_many(["k"]),
        lambda: store.destroy(),
    ):
        with pytest.raises(L2UnavailableError):
            await call()


async def test_older_value_does_not_come_back_after_a_store_that_was_dropped(cut: Cut) -> None:
    store = TierCacheKeyValue(cut.cache())
    await store.put("k", {"number": 1})
    cut.cut()
    await store.put("k", {"number": 2})
    cut.heal()
    async with asyncio.timeout(20):
        # Once Valkey answers again, it has no value: a store and a lookup of another key prove that it does.
        while await store.get("other") is None:
            assert await store.get("k") != {"number": 1}
            await store.put("other", {})
    assert await store.get("k") is None


async def test_fastmcp_answers_from_the_store_and_without_valkey(cut: Cut) -> None:
    pytest.importorskip("fastmcp")
    from fastmcp import Client, FastMCP
    from fastmcp.server.middleware.caching import ResponseCachingMiddleware

    calls: list[int] = []

    async def call(number: int) -> Any:
        server = FastMCP("numbers")
        cache = cut.cache()
        server.add_middleware(ResponseCachingMiddleware(cache_storage=TierCacheKeyValue(cache)))

        @server.tool
        def double(number: int) -> int:
            calls.append(number)
            return 2 * number

        async with Client(server) as client:
            results = [await client.call_tool("double", {"number": number}) for _ in range(2)]
        assert [result.data for result in results] == [2 * number] * 2

    await call(1)
    await call(1)
    assert calls == [1]
    cut.cut()
    await call(2)
    assert set(calls) == {1, 2}
