"""The saver: storage, reads from L1, lifetimes, classes, encryption, ids, and changes by other processes."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any, TypedDict

import pytest
import valkey

from tests.adapters.installed import needs

needs("langgraph", "langchain_core")

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph

from tests.adapters.langgraph.graphs import Driver, chat, config, human, random_text, stops_for_approval
from tests.support import MakeCache, Pair, until
from tiercache import AgentCache, SessionOptions, UnreadableCheckpointError, UsageError
from tiercache.adapters.langgraph import TierCacheSaver
from tiercache.testing import FakeClock

TURNS = 40


def keys_of(plain: valkey.Valkey) -> list[bytes]:
    """Return the keys of checkpoints, and of the lists of threads."""
    return sorted(plain.scan_iter("test:__tc:cp*", count=1000))


async def talk(graph: Any, turns: int, *, thread: str = "thread", size: int = 500) -> None:
    for n in range(turns):
        await graph.ainvoke({"messages": [HumanMessage(random_text(size, 1000 + n))]}, config(thread))


# Storage


async def test_saver_stores_a_chat_of_40_turns_in_little_more_than_five_times_its_payload(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    graph = chat(TierCacheSaver(cache), answer_size=500)
    await talk(graph, TURNS)
    messages = (await graph.aget_state(config())).values["messages"]
    assert len(messages) == 2 * TURNS
    payload = sum(len(message.content) for message in messages)
    assert payload == pytest.approx(TURNS * 1000, rel=0.01)
    keys = keys_of(plain)
    assert len(keys) <= 90
    assert sum(plain.memory_usage(key, samples=0) for key in keys) <= 5.25 * payload


async def test_saver_reads_a_state_from_l1_with_less_than_500_bytes_from_valkey(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    graph = chat(TierCacheSaver(cache), answer_size=500)
    await talk(graph, TURNS)
    await until(lambda: cache.local_stats().trusted)

    def sent_bytes() -> int:
        clients = [client for client in plain.client_list() if client["name"].startswith("tiercache")]
        return sum(int(client["tot-net-out"]) for client in clients)

    async def read() -> int:
        before = sent_bytes()
        assert len((await graph.aget_state(config())).values["messages"]) == 2 * TURNS
        return sent_bytes() - before

    assert await read() < 500
    cache.clear_l1()
    assert await read() > 5000  # The same count notices a read of the content.
    assert await read() < 500


async def test_saver_keeps_one_copy_of_a_growing_channel_in_l1(cache: AgentCache) -> None:
    await talk(chat(TierCacheSaver(cache), answer_size=500), TURNS)
    payload = TURNS * 1000
    assert cache.local_stats().l1_bytes < 10 * payload


async def test_saver_restores_a_long_chain_of_deltas_in_another_process(make_cache: MakeCache) -> None:
    writer, reader = make_cache(name="test"), make_cache(name="test")
    await talk(chat(TierCacheSaver(writer)), 90, size=200)
    expected = await chat(TierCacheSaver(writer)).aget_state(config())
    found = await chat(TierCacheSaver(reader)).aget_state(config())
    assert found.values == expected.values
    assert len(found.values["messages"]) == 180


# Lifetimes and removal


async def test_saver_lets_a_thread_live_for_the_ttl_of_sessions_after_its_last_write(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    graph = stops_for_approval(TierCacheSaver(make_cache(name="test", session=SessionOptions(ttl=500))))
    run = {**config(), "metadata": {"run_id": "run"}}
    await graph.ainvoke({"path": [], "total": 1}, run)
    keys = keys_of(plain)
    assert {key.partition(b"cp")[2][:3] for key in keys} == {b":{t", b"s", b"r:r"}
    assert all(400_000 < plain.pttl(key) <= 625_000 for key in keys)
    for key in keys:
        plain.pexpire(key, 100_000)
    plain.hset("test:__tc:cp:{thread}:d", "t", 0)  # As after a quarter of the TTL.
    await graph.aupdate_state(run, {"total": 2})
    assert keys_of(plain)[:-1] == [key for key in keys_of(plain) if plain.pttl(key) > 400_000][:-1]
    assert all(plain.pttl(key) > 400_000 for key in keys_of(plain))


async def test_saver_without_ttl_gives_no_key_an_end(cache: AgentCache, plain: valkey.Valkey) -> None:
    await talk(chat(TierCacheSaver(cache)), 2)
    assert {plain.pttl(key) for key in keys_of(plain)} == {-1}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_destroy_thread_of_sessions_removes_checkpoints(
    store: str, is_async: bool, make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = AgentCache.in_memory() if store == "memory" else make_cache(name="test")
    try:
        run = Driver(stops_for_approval(TierCacheSaver(cache)), is_async=is_async)
        for thread in ("thread", "other"):
            await run.invoke({"path": [], "total": 1}, {**config(thread), "metadata": {"run_id": f"run {thread}"}})
        if is_async:
            await cache.session.set("thread", "field", "x")
            count = await cache.session.destroy_thread("thread")
        else:
            cache.sync.session.set("thread", "field", "x")
            count = cache.sync.session.destroy_thread("thread")
        assert count == 1 + len(await run.history(config("other")))
        assert await run.history(config()) == []
        assert (await run.state(config()))[0] == {}
        assert len(await run.history(config("other"))) > 0
        assert not any(b"{thread}" in key for key in keys_of(plain))
        listed = await cache.checkpoints.threads() if is_async else cache.sync.checkpoints.threads()
        assert listed == ["other"]
    finally:
        await cache.aclose()


async def test_clear_of_sessions_leaves_no_key_of_checkpoints(cache: AgentCache, plain: valkey.Valkey) -> None:
    graph = stops_for_approval(TierCacheSaver(cache))
    for n in range(3):
        await graph.ainvoke({"path": [], "total": 1}, {**config(f"t{n}"), "metadata": {"run_id": f"run {n}"}})
    assert await cache.session.clear() == 9
    assert keys_of(plain) == []


async def test_deleted_thread_is_served_by_no_other_process(make_cache: MakeCache) -> None:
    a, b = make_cache(name="test"), make_cache(name="test")
    saver_a, saver_b = TierCacheSaver(a), TierCacheSaver(b)
    await talk(chat(saver_a), 2)
    assert await saver_b.aget_tuple(config()) is not None
    assert await saver_b.aget_tuple(config()) is not None
    await saver_a.adelete_thread("thread")
    assert await saver_b.aget_tuple(config()) is None
    await until(lambda: b.local_stats().l1_entry_count == 0)


async def test_delete_for_runs_removes_the_checkpoints_of_these_runs_alone(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    saver = TierCacheSaver(cache)
    graph = chat(saver)
    for run in ("a", "b"):
        for thread in ("one", "two"):
            await graph.ainvoke(human(f"{run} {thread}"), {**config(thread), "metadata": {"run_id": run}})
    await saver.adelete_for_runs(["a"])
    for thread in ("one", "two"):
        left = [each async for each in saver.alist(config(thread))]
        assert {each.metadata["run_id"] for each in left} == {"b"}
        assert len(left[0].checkpoint["channel_values"]["messages"]) == 4
    assert plain.exists("test:__tc:cpr:a") == 0
    await saver.adelete_for_runs(["b"])
    assert keys_of(plain) == []


async def test_prune_keeps_the_latest_state_and_frees_the_rest(cache: AgentCache, plain: valkey.Valkey) -> None:
    saver = TierCacheSaver(cache)
    graph = chat(saver, answer_size=500)
    await talk(graph, 20)
    before = await graph.aget_state(config())
    size = plain.memory_usage("test:__tc:cp:{thread}:d", samples=0)
    await saver.aprune(["thread"])
    assert len([each async for each in saver.alist(config())]) == 1
    cache.clear_l1()
    assert (await graph.aget_state(config())).values == before.values
    assert plain.memory_usage("test:__tc:cp:{thread}:d", samples=0) < size
    assert (await graph.ainvoke(human("more"), config()))["messages"][:40] == before.values["messages"]
    await saver.aprune(["thread"], strategy="delete")
    assert keys_of(plain) == []
    with pytest.raises(UsageError, match="strategy"):
        await saver.aprune(["thread"], strategy="oldest")


async def test_graph_goes_on_with_its_whole_state_after_its_thread_was_removed_in_the_middle(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """The blobs on which the next checkpoint depends are gone: it is put with all its values."""
    cache, other = make_cache(name="test"), make_cache(name="test")

    class State(TypedDict):
        kept: str
        grows: str

    def write(state: State) -> Any:
        return {"grows": state["grows"] + random_text(300)}

    async def remove(state: State) -> Any:
        plain.flushall()  # Without an announcement: L1 of this process still has every blob.
        return {"grows": state["grows"] + random_text(300)}

    builder = StateGraph(State)
    builder.add_node("write", write)
    builder.add_node("remove", remove)
    builder.add_edge(START, "write")
    builder.add_edge("write", "remove")
    builder.add_edge("remove", END)
    graph = builder.compile(checkpointer=TierCacheSaver(cache))
    done = await graph.ainvoke({"kept": "x" * 400, "grows": random_text(300)}, config())
    for reader in (cache, other):
        found = await builder.compile(checkpointer=TierCacheSaver(reader)).aget_state(config())
        assert found.values == done


# Classes and encryption


@dataclasses.dataclass
class Note:
    text: str


class Notes(TypedDict):
    notes: list[Note]


def notes(saver: Any) -> Any:
    builder = StateGraph(Notes)
    builder.add_node("write", lambda state: {"notes": [Note("x")]})
    builder.add_edge(START, "write")
    builder.add_edge("write", END)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_class_that_is_not_allowed_is_an_error_that_names_it(cache: AgentCache, is_async: bool) -> None:
    run = Driver(notes(TierCacheSaver(cache)), is_async=is_async)
    await run.invoke({"notes": []}, config())
    with pytest.raises(UnreadableCheckpointError, match=r"test_saver\.Note.*allow="):
        await run.snapshot(config())
    for allowed in (Note, (Note.__module__, "Note")):
        found = await Driver(notes(TierCacheSaver(cache, allow=[allowed])), is_async=is_async).snapshot(config())
        assert found.values == {"notes": [Note("x")]}


async def test_saver_takes_the_classes_that_a_graph_allows(cache: AgentCache) -> None:
    await Driver(notes(TierCacheSaver(cache)), is_async=True).invoke({"notes": []}, config())
    saver = TierCacheSaver(cache).with_allowlist({(Note.__module__, "Note")})
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.checkpoint["channel_values"]["notes"] == [Note("x")]


async def test_saver_restores_nothing_by_pickle(cache: AgentCache) -> None:
    saver = TierCacheSaver(cache)
    saver.serde = JsonPlusSerializer(pickle_fallback=True)
    await saver.aput(config("t", checkpoint_ns=""), checkpoint_of({"c": {1, 2}.__iter__}), {}, {"c": 1})
    with pytest.raises(NotImplementedError):
        await TierCacheSaver(cache).aget_tuple(config("t"))


def checkpoint_of(values: dict[str, Any], name: str = "1") -> dict[str, Any]:
    versions = dict.fromkeys(values, 1)
    return {
        "v": 4,
        "id": name,
        "ts": "now",
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": {},
    }


class Complement:
    """A cipher for tests: each byte is replaced by its complement."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "complement", bytes(255 - byte for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "complement"
        return bytes(255 - byte for byte in ciphertext)


async def test_saver_with_an_encrypted_serializer_stores_no_plain_text(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    serde = EncryptedSerializer(Complement(), JsonPlusSerializer(allowed_msgpack_modules=None))
    graph = chat(TierCacheSaver(make_cache(name="test"), serde=serde))
    for n in range(3):
        await graph.ainvoke(human(f"secret {n}"), config())
    other = chat(TierCacheSaver(make_cache(name="test"), serde=serde))
    assert len((await other.aget_state(config())).values["messages"]) == 6
    for key in keys_of(plain):
        if plain.type(key) == b"hash":
            assert not any(b"secret" in value for value in plain.hvals(key))


def test_saver_refuses_a_serializer_together_with_classes() -> None:
    cache = AgentCache.in_memory()
    with pytest.raises(UsageError, match="allow"):
        TierCacheSaver(cache, serde=JsonPlusSerializer(), allow=[Note])
    with pytest.raises(UsageError, match="AgentCache"):
        TierCacheSaver("cache")  # type: ignore[arg-type]


def test_saver_refuses_a_serializer_that_would_restore_pickles() -> None:
    pickling = JsonPlusSerializer(pickle_fallback=True)
    for serde in (pickling, EncryptedSerializer(Complement(), pickling)):
        with pytest.raises(UsageError, match="pickle_fallback"):
            TierCacheSaver(AgentCache.in_memory(), serde=serde)


# Ids and names

ODD = ["a{b}c", "%7B", "a:b", "a\0b", "*?[x]", "日本", " ", "a%00b", "x" * 500]


@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_saver_keeps_threads_channels_and_namespaces_of_any_text_apart(
    store: str, make_cache: MakeCache, memory: AgentCache
) -> None:
    cache = memory if store == "memory" else make_cache(name="test")
    saver, expected = TierCacheSaver(cache), InMemorySaver()
    for each in (saver, expected):
        for thread in ODD:
            for ns in ("", *ODD):
                values = {name: f"{thread} {ns} {name}" for name in ODD}
                at = {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}
                stored = await each.aput(at, checkpoint_of(values), {"step": 1}, dict.fromkeys(values, 1))
                await each.aput_writes(stored, [(thread, ns)], task_id=ns or "task", task_path=thread)
    for thread in ODD:
        for ns in ("", *ODD):
            at = {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}
            assert await saver.aget_tuple(at) == await expected.aget_tuple(at)
    assert sorted(await cache.checkpoints.threads()) == sorted(ODD)


async def test_saver_takes_a_thread_id_that_is_no_text_and_refuses_an_empty_one(cache: AgentCache) -> None:
    saver = TierCacheSaver(cache)
    await chat(saver).ainvoke(human("x"), config(7))  # type: ignore[arg-type]
    assert await saver.aget_tuple(config("7")) is not None
    for wrong in ({"configurable": {}}, {}, None, config("")):
        with pytest.raises(UsageError, match="thread_id"):
            await saver.aget_tuple(wrong)


def test_version_rises_and_differs_between_forks() -> None:
    saver = TierCacheSaver(AgentCache.in_memory())
    first = saver.get_next_version(None)
    left, right = saver.get_next_version(first), saver.get_next_version(first)
    assert first < left
    assert first < right
    assert left != right
    for foreign in (3, 3.5, 2**39):
        assert saver.get_next_version(foreign) > foreign
    with pytest.raises(UsageError, match="version"):
        saver.get_next_version("00001.5")


# Pending writes, delta channels


@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_writes_are_kept_once_except_special_ones(store: str, cache: AgentCache, memory: AgentCache) -> None:
    saver = TierCacheSaver(memory if store == "memory" else cache)
    at = await saver.aput(config(checkpoint_ns=""), checkpoint_of({}), {}, {})
    for n in range(2):
        await saver.aput_writes(at, [("a", n), ("__error__", f"error {n}"), ("b", n)], "task", "path b")
    await saver.aput_writes(at, [("c", 1)], "last", "path a")
    found = await saver.aget_tuple(at)
    assert found is not None
    assert found.pending_writes == [
        ("last", "c", 1),
        ("task", "__error__", "error 1"),
        ("task", "a", 0),
        ("task", "b", 0),
    ]


async def test_writes_before_their_checkpoint_are_found_and_removed_with_the_thread(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    saver = TierCacheSaver(cache)
    at = config(checkpoint_ns="", checkpoint_id="1")
    await saver.aput_writes(at, [("a", 1)], "task")
    assert await saver.aget_tuple(config()) is None
    assert [each async for each in saver.alist(config())] == []
    await saver.aput(config(checkpoint_ns=""), checkpoint_of({}), {}, {})
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.pending_writes == [("task", "a", 1)]
    await saver.aput_writes(config(checkpoint_ns="", checkpoint_id="2"), [("a", 1)], "task")
    await saver.adelete_thread("thread")
    assert keys_of(plain) == []


def concatenated(before: list[str], writes: list[list[str]]) -> list[str]:
    return before + [each for write in writes for each in write]


class Log(TypedDict):
    lines: Annotated[list[str], DeltaChannel(concatenated, snapshot_frequency=5)]


def logging_graph(saver: Any, *, parallel: bool = False) -> Any:
    """Return a graph of two nodes, ``a`` and ``b``, that append to a delta channel."""
    builder = StateGraph(Log)
    builder.add_node("a", lambda state: {"lines": [f"a{len(state['lines'])}"]})
    builder.add_node("b", lambda state: {"lines": [f"b{len(state['lines'])}"]})
    builder.add_edge(START, "a")
    builder.add_edge(START if parallel else "a", "b")
    builder.add_edge("b", END)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_delta_channels_have_the_history_of_the_saver_in_memory(
    store: str, is_async: bool, make_cache: MakeCache
) -> None:
    cache = AgentCache.in_memory() if store == "memory" else make_cache(name="test")
    histories = []
    try:
        for saver in (InMemorySaver(), TierCacheSaver(cache)):
            run = Driver(logging_graph(saver), is_async=is_async)
            seen: list[Any] = [await run.invoke({"lines": [f"in {n}"]}, config()) for n in range(8)]
            latest = (await run.snapshot(config())).config
            options: dict[str, Any] = {"config": latest, "channels": ["lines", "absent"]}
            found = (
                await saver.aget_delta_channel_history(**options)
                if is_async
                else saver.get_delta_channel_history(**options)
            )
            seen += [[write[1:] for write in each["writes"]] for each in found.values()]
            seen.append([each.get("seed") for each in found.values()])
            middle = (await run.snapshots(config()))[7].config
            seen += [await run.invoke(None, middle), await run.history(config())]
            histories.append(seen)
        assert histories[1] == histories[0]
        assert histories[0][-3][0] is not None  # A snapshot was taken.
    finally:
        await cache.aclose()


@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_delta_channel_is_made_of_the_writes_of_parallel_tasks_in_the_order_of_their_step(
    store: str, cache: AgentCache, memory: AgentCache
) -> None:
    graph = logging_graph(TierCacheSaver(memory if store == "memory" else cache), parallel=True)
    expected: list[str] = []
    for n in range(12):
        count = len(expected) + 1
        expected += [f"in {n}", f"a{count}", f"b{count}"]
        assert (await graph.ainvoke({"lines": [f"in {n}"]}, config()))["lines"] == expected
        assert (await graph.aget_state(config())).values["lines"] == expected


async def test_prune_keeps_the_checkpoints_from_which_a_delta_channel_is_made(cache: AgentCache) -> None:
    saver = TierCacheSaver(cache)
    graph = logging_graph(saver)
    for n in range(7):
        await graph.ainvoke({"lines": [f"in {n}"]}, config())
    before = (await graph.aget_state(config())).values
    count = len([each async for each in saver.alist(config())])
    await saver.aprune(["thread"])
    assert 1 < len([each async for each in saver.alist(config())]) < count
    cache.clear_l1()
    assert (await graph.aget_state(config())).values == before


# Lists


@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_list_of_all_threads_filters_and_limits(store: str, cache: AgentCache, memory: AgentCache) -> None:
    saver = TierCacheSaver(memory if store == "memory" else cache)
    for thread in ("a", "b"):
        for step in range(3):
            at = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            await saver.aput(at, checkpoint_of({}, str(step)), {"step": step}, {})
    assert len([each async for each in saver.alist(None)]) == 6
    found = [each async for each in saver.alist(None, filter={"step": 1})]
    assert [each.checkpoint["id"] for each in found] == ["1", "1"]
    found = [each async for each in saver.alist(config("a"), before=config("a", checkpoint_id="2"), limit=1)]
    assert [each.checkpoint["id"] for each in found] == ["1"]


# Two faces, two processes


async def test_saver_sees_in_each_face_the_writes_of_the_other(cache: AgentCache) -> None:
    saver = TierCacheSaver(cache)
    graph = chat(saver)
    for n in range(3):
        await graph.ainvoke(human(f"async {n}"), config())
        result = graph.invoke(human(f"plain {n}"), config())
        assert len(result["messages"]) == 4 * (n + 1)
    cache.sync.session.destroy_thread("thread")
    assert await saver.aget_tuple(config()) is None


async def test_two_replicas_that_take_turns_see_every_message(replicas: Pair) -> None:
    graphs = [chat(TierCacheSaver(each)) for each in replicas]
    for n in range(10):
        result = await graphs[n % 2].ainvoke(human(f"turn {n}"), config())
        assert len(result["messages"]) == 2 * (n + 1)


async def test_value_put_again_under_its_version_reaches_other_processes(replicas: Pair) -> None:
    """No graph does so: its versions are random. The suite of LangGraph does."""
    a, b = (TierCacheSaver(each) for each in replicas)
    await a.aput(config(checkpoint_ns=""), checkpoint_of({"c": "first"}), {}, {"c": 1})
    assert (await b.aget_tuple(config())).checkpoint["channel_values"] == {"c": "first"}  # type: ignore[union-attr]
    await a.aput(config(checkpoint_ns=""), checkpoint_of({"c": "second"}, "2"), {}, {"c": 1})

    async def has_second() -> bool:
        found = await b.aget_tuple(config(checkpoint_id="1"))
        assert found is not None
        return bool(found.checkpoint["channel_values"] == {"c": "second"})

    await until(has_second)
    assert (await a.aget_tuple(config(checkpoint_id="1"))).checkpoint["channel_values"] == {"c": "second"}  # type: ignore[union-attr]


async def test_saver_in_memory_forgets_a_thread_after_the_ttl() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, session=SessionOptions(ttl=60)) as cache:
        saver = TierCacheSaver(cache)
        await chat(saver).ainvoke(human("x"), config())
        time.advance(50)
        await chat(saver).ainvoke(human("y"), config())
        time.advance(50)
        assert await saver.aget_tuple(config()) is not None
        time.advance(20)
        assert await saver.aget_tuple(config()) is None
        assert await cache.checkpoints.threads() == []


async def test_saver_of_many_tasks_at_once_loses_no_write(cache: AgentCache) -> None:
    saver = TierCacheSaver(cache)
    at = await saver.aput(config(checkpoint_ns=""), checkpoint_of({}), {}, {})
    await asyncio.gather(*[saver.aput_writes(at, [("c", AIMessage(str(n)))], f"task {n}") for n in range(200)])
    found = await saver.aget_tuple(at)
    assert found is not None
    assert len(found.pending_writes or ()) == 200
