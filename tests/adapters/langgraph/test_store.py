"""The store of LangGraph: the results of LangGraph's own store, lifetimes, several processes, and Valkey away."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.installed import needs

needs("langgraph", "langchain_core")

from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from tests.support import MakeCache, entry_keys, until
from tiercache import AgentCache, L2UnavailableError, UsageError
from tiercache.adapters.langgraph import TierCacheStore
from tiercache.testing import ChaosProxy, FakeClock

A, B, BELOW_A = ("a",), ("b",), ("a", "b")
# Namespaces whose texts are prefixes of each other, or sort in another order than their tuples.
NAMESPACES = [
    A,
    B,
    BELOW_A,
    ("a", "b", "c"),
    ("ab",),
    ("a", "c"),
    ("a\x00b",),
    ("a\x01",),
    ("\x01\x02", "x"),
    ("é", "b"),
]
KEYS = ["", "k", "0", "é\x00", "x" * 100]


@pytest.fixture(params=["valkey", "memory"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[TierCacheStore]:
    """Return a store on Valkey, and one in process memory alone."""
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield TierCacheStore(cache)


@pytest.fixture(params=["valkey", "memory"])
def plain_store(request: pytest.FixtureRequest, url: str) -> Iterator[TierCacheStore]:
    """Return a store for plain code."""
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    with cache.sync:
        yield TierCacheStore(cache)


def shown(result: Any) -> Any:
    """Return a result without its times, for a comparison of two stores."""
    if isinstance(result, list):
        return [shown(part) for part in result]
    if hasattr(result, "namespace"):
        return (type(result).__name__, result.namespace, result.key, result.value, getattr(result, "score", None))
    return result


# The same results as LangGraph's store in memory

values = st.dictionaries(
    st.sampled_from(["n", "t", "d", "l"]),
    st.one_of(
        st.integers(-3, 3),
        st.floats(-3, 3),
        st.sampled_from(["", "x", "é\x00"]),
        st.none(),
        st.booleans(),
        st.dictionaries(st.sampled_from(["n", "t"]), st.integers(-1, 1), max_size=2),
        st.lists(st.integers(-1, 1), max_size=2),
    ),
    max_size=3,
)
namespaces = st.sampled_from(NAMESPACES)
prefixes = st.sampled_from([(), *NAMESPACES, ("absent",)])
conditions = st.one_of(
    st.integers(-2, 2),
    st.sampled_from(["x", None, True, {"n": 1}, [0, 1], [0], []]),
    st.fixed_dictionaries({"$eq": st.integers(-1, 1)}),
    st.fixed_dictionaries({"$ne": st.sampled_from([0, "x", None])}),
    st.fixed_dictionaries({"n": st.fixed_dictionaries({"$ne": st.integers(-1, 1)})}),
)
numbers = st.integers(-3, 6)
paths = st.lists(st.sampled_from(["a", "b", "c", "*", "é"]), max_size=3).map(tuple)
match_conditions = st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths), max_size=2)
operations = st.one_of(
    st.builds(PutOp, namespaces, st.sampled_from(KEYS), st.one_of(values, st.none()), st.none(), st.none()),
    st.builds(GetOp, namespaces, st.sampled_from(KEYS)),
    st.builds(
        SearchOp,
        prefixes,
        st.one_of(
            st.none(), st.just({}), st.dictionaries(st.sampled_from(["n", "t", "d", "l"]), conditions, max_size=2)
        ),
        st.one_of(st.just(100), numbers),
        numbers,
        st.sampled_from([None, "a question"]),
    ),
    st.builds(
        ListNamespacesOp,
        st.one_of(st.none(), match_conditions.map(tuple)),
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.just(100), numbers),
        numbers,
    ),
)
batches = st.lists(st.lists(operations, max_size=5), max_size=8)
# An item in each namespace, in an order that is not the sorted one. LangGraph's store also lists namespaces without
# items, such as those that it was asked for.
KEPT = [PutOp(namespace, "kept", {"n": 0}) for namespace in reversed(NAMESPACES)]


@given(batches)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_store_gives_the_results_of_the_memory_store_of_langgraph(url: str, batches: list[list[Any]]) -> None:
    async def run() -> None:
        with valkey.Valkey.from_url(url) as client:
            client.flushall()
        async with AgentCache.from_url(url, name="test") as cache, AgentCache.in_memory() as memory:
            theirs = InMemoryStore()
            for batch in [KEPT, *batches]:
                expected = shown(theirs.batch(batch))
                assert shown(await TierCacheStore(cache).abatch(batch)) == expected
                assert shown(await TierCacheStore(memory).abatch(batch)) == expected

    asyncio.run(run())


@given(batches)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_store_in_valkey_gives_the_results_of_the_store_in_memory_where_namespaces_become_empty(
    url: str, batches: list[list[Any]]
) -> None:
    async def run() -> None:
        with valkey.Valkey.from_url(url) as client:
            client.flushall()
            async with AgentCache.from_url(url, name="test") as cache, AgentCache.in_memory() as memory:
                stores = [TierCacheStore(cache), TierCacheStore(memory)]
                for batch in batches:
                    one, other = [shown(await store.abatch(batch)) for store in stores]
                    assert one == other
                items = await stores[0].asearch((), limit=1000)
                await stores[0].abatch([PutOp(item.namespace, item.key, None) for item in items])
                assert list(client.keys("*:items:*")) == []

    asyncio.run(run())


async def test_store_compares_numbers_as_the_memory_store_of_langgraph_does(store: TierCacheStore) -> None:
    theirs = InMemoryStore()
    for i, value in enumerate([1, 2.5, -1, "2", True, 10**30]):
        for each in (store, theirs):
            await each.aput(A, str(i), {"n": value, "nested": {"n": value}})
    for name in ("$gt", "$gte", "$lt", "$lte", "$eq", "$ne"):
        for bound in (0, 1, 2, "2", 2.5, 10**30):
            for condition in ({"n": {name: bound}}, {"nested": {"n": {name: bound}}}, {"n": {name: bound, "$ne": 1}}):
                expected = shown(await theirs.asearch(A, filter=condition))
                assert shown(await store.asearch(A, filter=condition)) == expected


async def test_store_leaves_out_items_that_a_comparison_finds_no_number_in(store: TierCacheStore) -> None:
    for i, value in enumerate([1, None, "text", [1], {}]):
        await store.aput(A, str(i), {"n": value})
    await store.aput(A, "without", {})
    assert [item.key for item in await store.asearch(A, filter={"n": {"$gt": 0}})] == ["0"]


def test_store_for_plain_code_gives_the_results_of_the_memory_store_of_langgraph(plain_store: TierCacheStore) -> None:
    theirs = InMemoryStore()
    for each in (plain_store, theirs):
        each.put(A, "k", {"n": 1})
        each.put(BELOW_A, "k", {"n": 2})
        each.put(BELOW_A, "gone", {"n": 3})
        each.delete(BELOW_A, "gone")
    for call in (
        lambda each: each.get(A, "k"),
        lambda each: each.get(BELOW_A, "gone"),
        lambda each: each.search(A, filter={"n": {"$gte": 1}}, query="x"),
        lambda each: each.list_namespaces(prefix=("a",), suffix=("*",), max_depth=1),
        lambda each: each.batch([]),
    ):
        assert shown(call(plain_store)) == shown(call(theirs))


async def test_store_for_plain_code_works_inside_a_running_loop(make_cache: MakeCache) -> None:
    store = TierCacheStore(make_cache(name="test"))
    store.put(A, "k", {"n": 1})
    assert (await store.aget(A, "k")).value == {"n": 1}
    assert [item.key for item in store.search(A)] == ["k"]


async def test_store_has_the_times_of_the_last_put(store: TierCacheStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    await store.aput(A, "k", {"n": 1})
    first = await store.aget(A, "k")
    assert before < first.created_at == first.updated_at < datetime.now(UTC) + timedelta(seconds=1)
    await asyncio.sleep(0.002)
    await store.aput(A, "k", {"n": 2})
    (second,) = await store.asearch(A)
    assert second.created_at == second.updated_at > first.updated_at


async def test_copy_of_a_store_has_the_items_of_the_store(store: TierCacheStore) -> None:
    await copy.deepcopy(store).aput(A, "k", {"n": 1})
    assert (await copy.copy(store).aget(A, "k")).value == {"n": 1}
    assert (await store.aget(A, "k")).value == {"n": 1}


async def test_store_gives_each_caller_an_object_of_its_own(store: TierCacheStore) -> None:
    value: dict[str, Any] = {"list": [1]}
    await store.aput(A, "k", value)
    value["list"].append(2)
    (await store.aget(A, "k")).value["list"].append(3)
    assert (await store.aget(A, "k")).value == {"list": [1]}


async def test_store_keeps_a_value_exactly(store: TierCacheStore) -> None:
    value = {"big": 2**70, "float": 1e-320, "text": "\u2028 é", "deep": [[{"a": [None, True]}]], "": {}}
    await store.aput(A, "k", value)
    assert (await store.aget(A, "k")).value == value


async def test_graph_remembers_across_threads(store: TierCacheStore) -> None:
    class State(TypedDict):
        text: str

    async def remember(state: State) -> State:
        store = get_store()
        known = [item.value["text"] for item in await store.asearch(("memories", "u1"))]
        await store.aput(("memories", "u1"), state["text"], {"text": state["text"]})
        return {"text": ",".join(known)}

    builder = StateGraph(State)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", END)
    graph = builder.compile(store=store)
    assert [(await graph.ainvoke({"text": text}))["text"] for text in ("one", "two", "three")] == ["", "one", "one,two"]


# Lifetimes


async def test_store_in_memory_ends_items_after_their_window_and_renews_it_at_reads() -> None:
    clock = FakeClock()
    async with AgentCache.in_memory(clock=clock.clock) as cache:
        store = TierCacheStore(cache, ttl={"default_ttl": 10, "refresh_on_read": True})
        for key in ("read", "searched", "left", "unrenewed", "unsearched"):
            await store.aput((key,), key, {})
        await store.aput(A, "endless", {}, ttl=None)
        clock.advance(9 * 60)
        await store.aget(("read",), "read")
        await store.asearch(("searched",))
        await store.aget(("unrenewed",), "unrenewed", refresh_ttl=False)
        await store.asearch(("unsearched",), refresh_ttl=False)
        clock.advance(2 * 60)
        assert [item.key for item in await store.asearch((), refresh_ttl=False)] == ["read", "searched", "endless"]
        assert await store.alist_namespaces() == [A, ("read",), ("searched",)]
        clock.advance(100 * 60)
        assert [item.key for item in await store.asearch(())] == ["endless"]
        await store.aput(("read",), "read", {"n": 2})
        assert [item.key for item in await store.asearch(())] == ["endless", "read"]


MS = 1 / 60_000  # A millisecond in minutes.


async def test_store_in_valkey_ends_items_after_their_window(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    store = TierCacheStore(make_cache(name="test"))
    await store.aput(A, "short", {}, ttl=100 * MS)
    await store.aput(A, "long", {}, ttl=60)
    await store.aput(B, "short", {}, ttl=100 * MS)
    await until(lambda: _is_gone(store, A, "short"))
    await until(lambda: _is_gone(store, B, "short"))
    assert [item.key for item in await store.asearch(())] == ["long"]
    assert await store.alist_namespaces() == [A]
    await store.aput(BELOW_A, "other", {}, ttl=60)
    # The namespace that has ended is in no index after the next write.
    assert plain.zrange("test:__tc:items:{langgraph}", 0, -1) == [b"a\0", b"a\0b\0"]


async def _is_gone(store: TierCacheStore, namespace: tuple[str, ...], key: str) -> bool:
    return await store.aget(namespace, key, refresh_ttl=False) is None


def _lifetimes(plain: valkey.Valkey) -> dict[str, int]:
    return {key.decode(): plain.pttl(key) for key in plain.keys("*:items:*")}


async def test_store_in_valkey_restarts_a_window_at_reads(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    store = TierCacheStore(cache, ttl={"default_ttl": 60})
    await store.aput(A, "got", {})
    for read in (
        lambda: store.aget(A, "got"),
        lambda: store.asearch(A),
        lambda: store.asearch(A, filter={"n": {"$ne": 1}}),
    ):
        first = _last(plain, "got")
        await asyncio.sleep(0.01)
        await store.aget(A, "got", refresh_ttl=False)
        await store.asearch(A, refresh_ttl=False)
        await cache.flush_writes()
        assert _last(plain, "got") == first
        await read()
        await cache.flush_writes()
        assert _last(plain, "got") > first


def _last(plain: valkey.Valkey, key: str) -> int:
    return int(plain.hget("test:__tc:items:{langgraph}:n:a\0", f"k{key}").split()[1])


async def test_store_in_valkey_ends_its_keys_with_the_last_item(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    store = TierCacheStore(make_cache(name="test"))
    await store.aput(A, "hour", {}, ttl=60)
    await store.aput(B, "minutes", {}, ttl=10)
    lifetimes = _lifetimes(plain)
    assert len(lifetimes) == 4
    assert 0 < lifetimes.pop("test:__tc:items:{langgraph}:n:b\0") <= 600_000
    assert all(3_000_000 < each <= 3_600_000 for each in lifetimes.values())
    # An item without an end keeps its namespace and the indexes.
    await store.aput(B, "endless", {})
    assert [key for key, each in _lifetimes(plain).items() if each == -1] != []
    assert _lifetimes(plain)["test:__tc:items:{langgraph}:n:b\0"] == -1
    assert _lifetimes(plain)["test:__tc:items:{langgraph}"] == -1
    await store.adelete(B, "endless")
    assert 0 < _lifetimes(plain)["test:__tc:items:{langgraph}:n:b\0"] <= 600_000
    assert 0 < _lifetimes(plain)["test:__tc:items:{langgraph}"] <= 3_600_000
    await store.adelete(A, "hour")
    assert all(0 < each <= 600_000 for each in _lifetimes(plain).values())
    await store.adelete(B, "minutes")
    assert _lifetimes(plain) == {}


async def test_store_in_valkey_replaces_an_endless_item_by_one_that_ends(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    store = TierCacheStore(make_cache(name="test"))
    await store.aput(A, "k", {})
    await store.aput(A, "k", {}, ttl=60)
    assert all(each > 0 for each in _lifetimes(plain).values())
    await store.aput(A, "k", {})
    assert _lifetimes(plain)["test:__tc:items:{langgraph}:n:a\0"] == -1


async def test_store_in_valkey_removes_ended_items_of_a_namespace_that_is_written(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    store = TierCacheStore(make_cache(name="test"))
    await store.aput(A, "long", {}, ttl=60)
    for i in range(20):
        await store.aput(A, f"short {i}", {}, ttl=MS)
    for i in range(200):
        await store.aput(A, f"long {i % 3}", {}, ttl=60)
    assert plain.hlen("test:__tc:items:{langgraph}:n:a\0") < 10


# Several processes, and several stores


async def test_store_shares_items_with_other_processes(make_cache: MakeCache) -> None:
    one, two = (TierCacheStore(make_cache(name="test")) for _ in range(2))
    await one.aput(A, "k", {"n": 1})
    assert (await two.aget(A, "k")).value == {"n": 1}
    await two.aput(A, "k", {"n": 2})
    assert (await one.aget(A, "k")).value == {"n": 2}
    await asyncio.gather(*(store.aput(A, f"{i}", {"n": i}) for store in (one, two) for i in range(50)))
    assert len(await one.asearch(A, limit=1000)) == 51
    await one.adelete(A, "k")
    assert await two.aget(A, "k") is None


async def test_store_is_apart_from_stores_and_caches_of_other_names(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    stores = [TierCacheStore(cache), TierCacheStore(cache, store="other"), TierCacheStore(make_cache(name="test2"))]
    for i, store in enumerate(stores):
        await store.aput(A, "k", {"n": i})
    assert [(await store.aget(A, "k")).value["n"] for store in stores] == [0, 1, 2]
    assert [(await TierCacheStore(cache).aget(A, "k")).value["n"]] == [0]
    assert [len(await store.asearch(())) for store in stores] == [1, 1, 1]


async def test_store_keeps_its_items_when_the_cache_is_flushed(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    store = TierCacheStore(cache)
    await store.aput(A, "k", {"n": 1})
    await cache.flush(include_session=True)
    await cache.kv.clear()
    assert await store.aget(A, "k") is not None


async def test_store_runs_a_script_for_each_search_and_write_and_never_scans(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test")
    store = TierCacheStore(cache)
    await store.aput(A, "k", {"n": 1})
    before = plain.info("commandstats")
    await store.abatch(
        [GetOp(A, "k"), GetOp(B, "k"), SearchOp(()), ListNamespacesOp(), PutOp(B, "k", {}), PutOp(B, "k", {"n": 2})]
    )
    after = plain.info("commandstats")
    assert after["cmdstat_eval"]["calls"] - before["cmdstat_eval"]["calls"] == 3
    for scan in ("cmdstat_scan", "cmdstat_keys", "cmdstat_hscan"):
        assert after.get(scan) == before.get(scan)


async def test_store_raises_while_valkey_is_away_and_goes_on_afterwards(proxy: ChaosProxy) -> None:
    async with AgentCache.from_url(proxy.url, name="test") as cache:
        store = TierCacheStore(cache)
        await store.aput(A, "k", {"n": 1})
        proxy.refuse()
        proxy.kill()
        calls: list[Callable[[], Any]] = [
            lambda: store.aget(A, "k"),
            lambda: store.asearch(A),
            lambda: store.alist_namespaces(),
            lambda: store.aput(A, "k", {"n": 2}),
            lambda: store.adelete(A, "k"),
        ]
        for call in calls:
            with pytest.raises(L2UnavailableError):
                await call()
        proxy.refuse(False)
        proxy.heal()

        async def is_back() -> bool:
            try:
                return await store.aget(A, "k") is not None
            except L2UnavailableError:
                return False

        await until(is_back, 10)


# Bytes of other software


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"1 2 3",
        b"1 0 0 1 no json",
        b"1 0 0 1 [1]",
        b"1 0 0 " + b"9" * 40 + b" {}",
        b"1 0 x 1 {}",
        b"1 0 0 1 \xff",
    ],
)
async def test_store_takes_bytes_that_are_no_item_for_an_absent_item(
    make_cache: MakeCache, plain: valkey.Valkey, value: bytes
) -> None:
    store = TierCacheStore(make_cache(name="test"))
    await store.aput(A, "kept", {"n": 1})
    plain.hset("test:__tc:items:{langgraph}:n:a\0", "kbad", value)
    plain.hset("test:__tc:items:{langgraph}:n:a\0", b"k\xff", b"1 0 0 1 {}")
    plain.hset("test:__tc:items:{langgraph}:n:a\0", b"other", b"1 0 0 1 {}")
    plain.zadd("test:__tc:items:{langgraph}", {b"\xff": 0, b"no end": 0, b"nothing\0": 0})
    assert await store.aget(A, "bad") is None
    assert [item.key for item in await store.asearch(())] == ["kept"]
    await store.aput(A, "bad", {"n": 2}, ttl=60)
    assert (await store.aget(A, "bad")).value == {"n": 2}
    await store.adelete(A, "bad")
    assert await store.aget(A, "bad") is None


# Wrong arguments


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (PutOp(A, "k", {"x": object()}), "value"),
        (PutOp(A, "k", {1: "a", "1": "b"}), "value has the keys"),  # type: ignore[dict-item]
        (PutOp(A, "k", [1]), "value must be a mapping, not list"),  # type: ignore[arg-type]
        (PutOp(A, "k", {"x": "\ud800"}), "lone surrogate"),
        (PutOp(A, "k" * 513, {}), "the key of an item must be at most 512 bytes"),
        (PutOp(A, "\ud800", {}), "lone surrogate"),
        (PutOp(A, 1, {}), "the key of an item must be a str, not int"),  # type: ignore[arg-type]
        (PutOp(("x" * 600,), "k", {}), "the namespace must be at most 512 bytes"),
        (PutOp((1,), "k", {}), "a label of the namespace must be a str, not int"),  # type: ignore[arg-type]
        (PutOp(A, "k", {}, ttl=0), "ttl must be minutes above 0"),
        (PutOp(A, "k", {}, ttl="1"), "ttl must be minutes above 0"),  # type: ignore[arg-type]
        (PutOp(A, "k", {}, ttl=float("nan")), "ttl must be minutes above 0"),
        (SearchOp(A, {"n": {"$like": 1}}), r"unknown operator '\$like'"),
        (SearchOp(A, {"n": [{"$gt": "text"}]}), r"compares by \$gt with a str"),
        (ListNamespacesOp((MatchCondition("infix", A),)), "match_type must be 'prefix' or 'suffix'"),  # type: ignore[arg-type]
        ("op", "not str"),
    ],
)
async def test_store_refuses_a_wrong_operation_and_stores_nothing(store: TierCacheStore, op: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        await store.abatch([PutOp(A, "first", {}), op])
    assert await store.asearch(()) == []


async def test_store_refuses_a_value_that_is_too_large(store: TierCacheStore) -> None:
    with pytest.raises(UsageError, match="at most 33554432 can be stored"):
        await store.aput(A, "k", {"x": "x" * 33_554_432})


async def test_store_refuses_namespaces_as_langgraph_does(store: TierCacheStore) -> None:
    for namespace in ((), ("a.b",), ("",), ("langgraph",)):
        with pytest.raises(InvalidNamespaceError):
            await store.aput(namespace, "k", {})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda cache: TierCacheStore(None), "cache must be an AgentCache, not NoneType"),  # type: ignore[arg-type]
        (lambda cache: TierCacheStore(cache, store="a:b"), "the name of a store must be 1 to 128 of"),
        (lambda cache: TierCacheStore(cache, ttl=60), "ttl must be a TTLConfig"),  # type: ignore[arg-type]
        (lambda cache: TierCacheStore(cache, ttl={"default": 1}), "unknown options"),  # type: ignore[typeddict-unknown-key]
        (lambda cache: TierCacheStore(cache, ttl={"default_ttl": -1}), "default_ttl must be minutes above 0"),
    ],
)
def test_store_refuses_wrong_arguments(make: Callable[[AgentCache], object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make(AgentCache.in_memory())


async def test_store_in_memory_has_one_face(memory: AgentCache) -> None:
    store = TierCacheStore(memory)
    await store.aput(A, "k", {})
    with pytest.raises(UsageError, match="memory"):
        store.get(A, "k")


async def test_store_leaves_no_entry_beside_its_own_keys(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    store = TierCacheStore(make_cache(name="test"))
    await store.aput(A, "k", {"n": 1})
    assert entry_keys(plain) == ["test:__tc:items:{langgraph}", "test:__tc:items:{langgraph}:n:a\0"]
