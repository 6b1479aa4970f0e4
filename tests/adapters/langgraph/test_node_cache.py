"""The cache of node results: LangGraph's contract, real graphs, namespaces, classes, and Valkey away."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypedDict

import pytest
import valkey

from tests.adapters.installed import needs

needs("langgraph", "langchain_core")

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy

from tests.support import MakeCache
from tiercache import AgentCache, TierOptions, UsageError
from tiercache.adapters.langgraph import TierCacheNodeCache, node_key
from tiercache.testing import ChaosProxy, FakeClock

A, B, BELOW_A = ("a",), ("b",), ("a", "b")


class State(TypedDict):
    question: str
    answer: str


@dataclasses.dataclass
class Own:
    """A class of a caller."""

    text: str


class Cipher:
    """A toy cipher whose text differs each time, as a real one's does."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(1)
        return "toy", nonce + bytes(byte ^ nonce[0] ^ 0x55 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "toy"
        return bytes(byte ^ ciphertext[0] ^ 0x55 for byte in ciphertext[1:])


@pytest.fixture(params=["valkey", "memory"])
async def nodes(request: pytest.FixtureRequest, url: str) -> AsyncIterator[TierCacheNodeCache]:
    """Return a node cache on Valkey, and one on process memory alone."""
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield TierCacheNodeCache(cache)


@pytest.fixture
def plain_nodes(url: str) -> Iterator[TierCacheNodeCache]:
    """Return a node cache for plain code."""
    cache = AgentCache.from_url(url, name="test")
    with cache.sync:
        yield TierCacheNodeCache(cache)


def counting_graph(nodes: Any, policy: CachePolicy, **state_of_answer: Any) -> tuple[Any, list[Any]]:
    """Return a graph of one cached node, and the list of the states for which the node ran."""
    runs: list[Any] = []

    def answer(state: State) -> dict[str, Any]:
        runs.append(dict(state))
        return {"answer": f"answer to {state['question']}"} | state_of_answer

    builder = StateGraph(State)
    builder.add_node("answer", answer, cache_policy=policy)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(cache=nodes), runs


# LangGraph's contract


async def test_node_cache_returns_results_with_their_keys_and_leaves_absent_keys_out(nodes: TierCacheNodeCache) -> None:
    value = [("answer", HumanMessage("x")), ("none", None), ("number", 1.5)]
    await nodes.aset({(A, "k"): (value, None), (A, "none"): (None, 60), (B, ""): ([], None)})
    found = await nodes.aget([(A, "k"), (A, "none"), (B, ""), (B, "k"), (A, "")])
    assert found == {(A, "k"): [list(pair) for pair in value], (A, "none"): None, (B, ""): []}
    assert await nodes.aget([]) == {}


async def test_node_cache_finds_what_the_memory_cache_of_langgraph_finds(nodes: TierCacheNodeCache) -> None:
    theirs: InMemoryCache[Any] = InMemoryCache()
    pairs = {((), "x"): (1, None), (A, "x"): ({"m": AIMessage("x", tool_calls=[])}, 60), (BELOW_A, "x"): ("3", 60)}
    keys = [*pairs, (B, "x"), (A, "y")]
    for own in (nodes, theirs):
        await own.aset(pairs)
    assert await nodes.aget(keys) == await theirs.aget(keys)
    for own in (nodes, theirs):
        await own.aclear([A, B])
    assert await nodes.aget(keys) == await theirs.aget(keys) == {((), "x"): 1, (BELOW_A, "x"): "3"}
    for own in (nodes, theirs):
        await own.aclear()
    assert await nodes.aget(keys) == await theirs.aget(keys) == {}


async def test_node_cache_keeps_keys_apart_that_are_equal_when_joined(nodes: TierCacheNodeCache) -> None:
    keys = [
        (("a", "b"), "c"),
        (("a",), "bc"),
        (("ab",), "c"),
        (("a",), "b:c"),
        (("a:b",), "c"),
        ((), "a:b:c"),
        ((), ""),
    ]
    keys += [(("x" * 600, "y"), "k"), (("x" * 600,), "yk"), (("ä\x00\n",), "k"), (("\ud800",), "k")]
    await nodes.aset({key: (i, None) for i, key in enumerate(keys)})
    assert await nodes.aget(keys) == {key: i for i, key in enumerate(keys)}
    for key in keys:
        await nodes.aclear([key[0]])
    assert await nodes.aget(keys) == {}


async def test_copy_of_a_node_cache_has_the_results_of_the_node_cache(nodes: TierCacheNodeCache) -> None:
    await copy.deepcopy(nodes).aset({(A, "k"): (1, None)})
    assert await copy.copy(nodes).aget([(A, "k")]) == await nodes.aget([(A, "k")]) == {(A, "k"): 1}


async def test_node_cache_gives_each_caller_an_object_of_its_own(nodes: TierCacheNodeCache) -> None:
    value = {"list": [1]}
    await nodes.aset({(A, "k"): (value, None)})
    value["list"].append(2)
    (first,) = (await nodes.aget([(A, "k")])).values()
    first["list"].append(3)
    assert await nodes.aget([(A, "k")]) == {(A, "k"): {"list": [1]}}


async def test_node_cache_serializes_results_before_the_graph_goes_on(nodes: TierCacheNodeCache) -> None:
    values = [{"list": [1]}, {"list": [2]}]
    storing = asyncio.create_task(nodes.aset({(A, str(i)): (value, None) for i, value in enumerate(values)}))
    await asyncio.sleep(0)
    for value in values:
        value["list"].append(9)
    await storing
    assert await nodes.aget([(A, "0"), (A, "1")]) == {(A, "0"): {"list": [1]}, (A, "1"): {"list": [2]}}


async def test_node_cache_clears_its_own_results_alone(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    nodes, others = TierCacheNodeCache(cache), TierCacheNodeCache(cache, tier="other")
    shared = TierCacheNodeCache(cache, tier="kv")
    await cache.kv.set("mine", 1)
    for each in (nodes, others, shared):
        await each.aset({(A, "k"): (1, None)})
    await nodes.aclear()
    await shared.aclear()
    assert (await nodes.aget([(A, "k")]), await shared.aget([(A, "k")])) == ({}, {})
    assert await others.aget([(A, "k")]) == {(A, "k"): 1}
    assert await cache.kv.get("mine") == 1
    await others.aclear([])
    assert await others.aget([(A, "k")]) == {(A, "k"): 1}


async def test_node_cache_clears_results_of_another_process_without_a_scan(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    one, two = (TierCacheNodeCache(make_cache(name="test")) for _ in range(2))
    await one.aset({(A, "k"): (1, None), (BELOW_A, "k"): (2, None)})
    assert await two.aget([(A, "k")]) == {(A, "k"): 1}
    before = plain.info("commandstats").get("cmdstat_scan", {}).get("calls", 0)
    await two.aclear([A])
    assert plain.info("commandstats").get("cmdstat_scan", {}).get("calls", 0) == before
    assert await two.aget([(A, "k"), (BELOW_A, "k")]) == {(BELOW_A, "k"): 2}


async def test_node_cache_ends_results_after_their_lifetime() -> None:
    clock = FakeClock()
    async with AgentCache.in_memory(clock=clock.clock, default_ttl=1000) as cache:
        cache.tier("langgraph-nodes", TierOptions(ttl=100))
        nodes = TierCacheNodeCache(cache)
        await nodes.aset({(A, "own"): (1, 10), (A, "tier"): (2, None)})
        clock.advance(11)
        assert await nodes.aget([(A, "own"), (A, "tier")]) == {(A, "tier"): 2}
        clock.advance(100)
        assert await nodes.aget([(A, "tier")]) == {}


@pytest.mark.parametrize("ttl", [0, -1])
async def test_node_cache_removes_a_result_that_is_stored_without_a_lifetime(
    nodes: TierCacheNodeCache, ttl: int
) -> None:
    await nodes.aset({(A, "k"): (1, None)})
    await nodes.aset({(A, "k"): (2, ttl)})
    assert await nodes.aget([(A, "k")]) == {}


def test_node_cache_for_plain_code_gets_sets_and_clears(plain_nodes: TierCacheNodeCache) -> None:
    plain_nodes.set({(A, "k"): ([1], None), (B, "k"): ([2], 60), (B, "gone"): (3, 0)})
    assert plain_nodes.get([(A, "k"), (B, "k"), (B, "gone")]) == {(A, "k"): [1], (B, "k"): [2]}
    assert plain_nodes.get([]) == {}
    plain_nodes.clear([B])
    assert plain_nodes.get([(A, "k"), (B, "k")]) == {(A, "k"): [1]}
    plain_nodes.clear()
    assert plain_nodes.get([(A, "k")]) == {}


def test_node_cache_for_plain_code_works_in_memory_alone() -> None:
    cache = AgentCache.in_memory()
    with cache.sync:
        nodes = TierCacheNodeCache(cache)
        nodes.set({(A, "k"): ([1], None)})
        assert nodes.get([(A, "k")]) == {(A, "k"): [1]}


async def test_node_cache_for_plain_code_works_inside_a_running_loop(make_cache: MakeCache) -> None:
    nodes = TierCacheNodeCache(make_cache(name="test"))
    nodes.set({(A, "k"): ([1], None)})
    assert await nodes.aget([(A, "k")]) == {(A, "k"): [1]}


# Graphs


async def test_graph_runs_a_cached_node_once_in_two_processes(make_cache: MakeCache) -> None:
    policy = CachePolicy(key_func=node_key)
    for expected in (1, 0):
        graph, runs = counting_graph(TierCacheNodeCache(make_cache(name="test")), policy)
        for _ in range(2):
            assert (await graph.ainvoke({"question": "q"}))["answer"] == "answer to q"
        assert len(runs) == expected
        await graph.ainvoke({"question": "other"})
        assert len(runs) == 2 * expected


def test_plain_graph_runs_a_cached_node_once_until_its_cache_is_cleared(plain_nodes: TierCacheNodeCache) -> None:
    graph, runs = counting_graph(plain_nodes, CachePolicy(key_func=node_key))
    assert graph.invoke({"question": "q"}) == graph.invoke({"question": "q"})
    assert len(runs) == 1
    graph.clear_cache()
    graph.invoke({"question": "q"})
    assert len(runs) == 2


async def test_task_of_an_entrypoint_runs_once(make_cache: MakeCache) -> None:
    runs: list[int] = []

    @task(cache_policy=CachePolicy(key_func=node_key))
    async def double(number: int, *, options: dict[str, int]) -> int:
        runs.append(number)
        return 2 * number

    @entrypoint(cache=TierCacheNodeCache(make_cache(name="test")))
    async def work(number: int) -> int:
        options = {"a": 1, "b": 2} if number < 10 else {"b": 2, "a": 1}
        return await double(number % 10, options=options)

    assert [await work.ainvoke(number) for number in (1, 1, 11, 2)] == [2, 2, 2, 4]
    assert runs == [1, 2]


async def test_graph_runs_on_while_valkey_is_away(proxy: ChaosProxy, caplog: pytest.LogCaptureFixture) -> None:
    async with AgentCache.from_url(proxy.url, name="test") as cache:
        graph, runs = counting_graph(TierCacheNodeCache(cache), CachePolicy(key_func=node_key))
        await graph.ainvoke({"question": "q"})
        proxy.refuse()
        proxy.kill()
        for _ in range(2):
            assert (await graph.ainvoke({"question": "while away"}))["answer"] == "answer to while away"
        assert len(runs) == 3
        proxy.heal()
    assert "a result of a node is not stored (L2UnavailableError)" in caplog.text


# Classes


@pytest.mark.parametrize("allowed", [[Own], [(Own.__module__, "Own")]])
async def test_node_cache_restores_a_class_that_is_allowed(make_cache: MakeCache, allowed: Any) -> None:
    nodes = TierCacheNodeCache(make_cache(name="test"), allow=allowed)
    await nodes.aset({(A, "k"): ([("own", Own("x"))], None)})
    assert await nodes.aget([(A, "k")]) == {(A, "k"): [["own", Own("x")]]}


async def test_node_cache_does_not_store_a_class_that_is_not_allowed(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = TierCacheNodeCache(make_cache(name="test"))
    await nodes.aset({(A, "k"): ([("own", Own("x"))], None)})
    assert await nodes.aget([(A, "k")]) == {}
    assert "TierCacheNodeCache(allow=...)" in caplog.text


async def test_node_cache_misses_where_another_process_has_stored_a_class_that_is_not_allowed(
    make_cache: MakeCache,
) -> None:
    writer, reader = TierCacheNodeCache(make_cache(name="test"), allow=[Own]), None
    await writer.aset({(A, "k"): ([("own", Own("x"))], None)})
    reader = TierCacheNodeCache(make_cache(name="test"))
    assert await reader.aget([(A, "k")]) == {}
    assert await writer.aget([(A, "k")]) == {(A, "k"): [["own", Own("x")]]}


async def test_node_cache_does_not_store_a_value_that_cannot_be_serialized(
    nodes: TierCacheNodeCache, caplog: pytest.LogCaptureFixture
) -> None:
    await nodes.aset({(A, "k"): (lambda: None, None), (A, "fine"): (1, None)})
    assert await nodes.aget([(A, "k"), (A, "fine")]) == {(A, "fine"): 1}
    assert "cannot be serialized" in caplog.text


async def test_node_cache_does_not_store_a_value_that_is_too_large(caplog: pytest.LogCaptureFixture) -> None:
    async with AgentCache.in_memory() as cache:
        cache.tier("langgraph-nodes", TierOptions(max_value_bytes=100))
        nodes = TierCacheNodeCache(cache)
        await nodes.aset({(A, "k"): ("x" * 1000, None)})
        assert await nodes.aget([(A, "k")]) == {}
    assert "max_value_bytes" in caplog.text


@pytest.mark.parametrize("data", [b"", b"pickle:x", b"msgpack:\xc1", b"json:{", b"msgpack", "text", [1], b"\xff:x"])
async def test_node_cache_misses_where_other_software_has_written(
    make_cache: MakeCache, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_cache(name="test")
    nodes = TierCacheNodeCache(cache)
    await cache.tier("langgraph-nodes").set("1:a1:k", data)
    assert await nodes.aget([(A, "k")]) == {}
    await nodes.aset({(A, "k"): (1, None)})
    assert await nodes.aget([(A, "k")]) == {(A, "k"): 1}


async def test_node_cache_with_an_encrypting_serializer_stores_no_plain_text(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    nodes = TierCacheNodeCache(make_cache(name="test"), serde=EncryptedSerializer(Cipher()))
    await nodes.aset({(A, "k"): ("secret text", None)})
    assert await nodes.aget([(A, "k")]) == {(A, "k"): "secret text"}
    assert b"secret" not in plain.get("test:__tc:kv:langgraph-nodes:1:a1:k")


def _plain_serde(**options: Any) -> JsonPlusSerializer:
    return JsonPlusSerializer(**options)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda cache: TierCacheNodeCache(None), "cache must be an AgentCache, not NoneType"),  # type: ignore[arg-type]
        (lambda cache: TierCacheNodeCache(cache, tier="llm"), "not llm, tool or session"),
        (lambda cache: TierCacheNodeCache(cache, allow=["Own"]), "allow must have classes, or pairs"),
        (lambda cache: TierCacheNodeCache(cache, allow=[Own], serde=_plain_serde()), "allow must be empty"),
        (lambda cache: TierCacheNodeCache(cache, serde=_plain_serde(pickle_fallback=True)), "pickle_fallback"),
        (
            lambda cache: TierCacheNodeCache(
                cache,
                serde=EncryptedSerializer(None, _plain_serde(pickle_fallback=True)),  # type: ignore[arg-type]
            ),
            "pickle_fallback",
        ),
    ],
)
def test_node_cache_refuses_wrong_arguments(make: Callable[[AgentCache], object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make(AgentCache.in_memory())
