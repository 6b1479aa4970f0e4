"""The saver while Valkey dies, stands still or holds damaged bytes, and several processes on one thread."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("langgraph", "langchain_core")

from langgraph.graph import END, START, StateGraph

from tests.adapters.langgraph.graphs import Driver, Steps, chat, config, human
from tests.support import MakeCache, until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, TierCacheError, UnreadableCheckpointError
from tiercache.adapters.langgraph import TierCacheSaver
from tiercache.embedded import EmbeddedValkey

ROOT = Path(__file__).parents[3]
QUICK = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)


class Chain:
    """A graph of three nodes, the second of which calls ``act`` in its first run.

    Attributes:
        calls: The nodes that have run.
    """

    def __init__(self, act: Any) -> None:
        self.calls: list[str] = []
        self._act = act

    def compile(self, cache: AgentCache) -> Any:
        builder = StateGraph(Steps)
        for name in ("first", "second", "third"):
            builder.add_node(name, self._node(name))
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", "third")
        builder.add_edge("third", END)
        return builder.compile(checkpointer=TierCacheSaver(cache))

    def _node(self, name: str) -> Any:
        def run(state: Steps) -> Any:
            self.calls.append(name)
            if name == "second" and self.calls.count(name) == 1:
                self._act()
            return {"path": [name]}

        return run


def pid_of(server: EmbeddedValkey) -> int:
    with valkey.Valkey.from_url(server.url) as client:
        pid: int = client.info("server")["process_id"]
    return pid


async def test_graph_raises_when_valkey_is_killed_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    pid = pid_of(server)
    chain = Chain(lambda: os.kill(pid, signal.SIGKILL))
    async with AgentCache.from_url(server.url, name="test", resilience=QUICK) as cache:
        with pytest.raises(L2UnavailableError):
            await chain.compile(cache).ainvoke({"path": ["in"]}, config(), durability="sync")
        with pytest.raises(L2UnavailableError):
            await TierCacheSaver(cache).aget_tuple(config())  # L1 has the state, and must not serve it.
    server.stop()
    assert chain.calls == ["first", "second"]
    again = EmbeddedValkey(tmp_path)
    again.start()
    try:
        async with AgentCache.from_url(again.url, name="test") as cache:
            graph = chain.compile(cache)
            state = await graph.aget_state(config())
            assert state.values == {"path": ["in", "first"]}  # Everything that was acknowledged.
            assert state.next == ("second",)
            assert await graph.ainvoke(None, config()) == {"path": ["in", "first", "second", "third"]}
        assert chain.calls == ["first", "second", "second", "third"]
    finally:
        again.stop()


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_graph_of_any_durability_raises_when_valkey_is_killed_and_ends_right_after_a_restart(
    durability: Any, is_async: bool, tmp_path: Path
) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    pid = pid_of(server)
    chain = Chain(lambda: os.kill(pid, signal.SIGKILL))
    cache = AgentCache.from_url(server.url, name="test", resilience=QUICK)
    run = Driver(chain.compile(cache), is_async=is_async)
    with pytest.raises(L2UnavailableError):
        await run.invoke({"path": ["in"]}, config(), durability=durability)
    await cache.aclose()
    server.stop()
    again = EmbeddedValkey(tmp_path)
    again.start()
    try:
        async with AgentCache.from_url(again.url, name="test") as cache:
            graph = chain.compile(cache)
            # Valkey may have acknowledged nothing of the run before it died.
            begun = await TierCacheSaver(cache).aget_tuple(config()) is not None
            done = await graph.ainvoke(None if begun else {"path": ["in"]}, config())
        assert done == {"path": ["in", "first", "second", "third"]}
    finally:
        again.stop()


async def test_graph_raises_while_valkey_stands_still_and_goes_on_with_the_same_cache(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    chain = Chain(lambda: os.kill(pid, signal.SIGSTOP))
    async with AgentCache.from_url(server.url, name="test", resilience=QUICK) as cache:
        graph = chain.compile(cache)
        with pytest.raises(L2UnavailableError):
            await graph.ainvoke({"path": ["in"]}, config(), durability="sync")
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not cache.local_stats().degraded, 20)
        done = await graph.ainvoke(None, config())
        assert done == {"path": ["in", "first", "second", "third"]}
        assert (await graph.aget_state(config())).values == done


# Every field of the content, and the index, damaged in several ways.


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGES = {
    "cut": cut,
    "flip": flip,
    "empty": lambda data: b"",
    "foreign": lambda data: b'{"a":1}',
    "binary": lambda data: bytes(range(256)),
    "lost": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_bytes_are_an_error_and_never_another_state(
    damage: str, make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    graph = chat(TierCacheSaver(make_cache(name="test")), answer_size=200)
    for n in range(3):
        await graph.ainvoke(human(f"turn {n}"), config())
    right = (await graph.aget_state(config())).values
    cache = make_cache(name="test")
    reader = chat(TierCacheSaver(cache))
    key = "test:__tc:cp:{thread}:d"
    refused = set()
    for field, data in plain.hgetall(key).items():
        damaged = DAMAGES[damage](data)
        if damaged is None:
            plain.hdel(key, field)
        else:
            plain.hset(key, field, damaged)
        cache.clear_l1()
        try:
            # The latest checkpoint does not need every field.
            assert (await reader.aget_state(config())).values == right
        except UnreadableCheckpointError:
            refused.add(field[:1])
        plain.hset(key, field, data)
    assert refused == {b"b", b"c"}
    assert (await reader.aget_state(config())).values == right


async def test_damaged_pending_write_and_foreign_keys_are_clear_errors(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    saver = TierCacheSaver(make_cache(name="test"))
    await chat(saver).ainvoke(human("x"), config())
    found = await saver.aget_tuple(config())
    assert found is not None
    await saver.aput_writes(found.config, [("c", 1)], "task")
    key = f"test:__tc:cp:{{thread}}:w:\0{found.checkpoint['id']}"
    plain.hset(key, "task\0" + "0", "foreign")
    with pytest.raises(UnreadableCheckpointError):
        await saver.aget_tuple(config())
    plain.set("test:__tc:cp:{other}", "a string")
    with pytest.raises(TierCacheError):
        await saver.aget_tuple(config("other"))
    plain.zadd("test:__tc:cp:{third}", {b"\xfe\0x": 0})
    with pytest.raises(UnreadableCheckpointError):
        assert [each async for each in saver.alist(config("third"))]


# Processes

TURNS = 10
WORKER = """
import asyncio, sys
from tests.adapters.langgraph.graphs import chat, config, human
from tiercache import AgentCache
from tiercache.adapters.langgraph import TierCacheSaver

url, number = sys.argv[1], int(sys.argv[2])

async def main():
    async with AgentCache.from_url(url, name="test") as cache:
        graph = chat(TierCacheSaver(cache), answer_size=100)
        for n in range(10):
            await graph.ainvoke(human(f"{number} {n}"), config(f"own {number}"))
            result = await graph.ainvoke(human(f"{number} {n}"), config("shared"))
            # The turn may continue a turn of the other run, which may have fewer messages. It stands at the end.
            asked, answer = result["messages"][-2:]
            assert (asked.content, answer.type) == (f"{number} {n}", "ai"), result

asyncio.run(main())
"""


async def test_two_processes_on_one_thread_leave_a_readable_state(url: str, make_cache: MakeCache) -> None:
    """As with every saver, the turns of two runs at once become two branches. Each branch is whole."""
    workers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, url, str(number), cwd=ROOT)
        for number in range(2)
    ]
    assert [await worker.wait() for worker in workers] == [0, 0]
    graph = chat(TierCacheSaver(make_cache(name="test")))
    for number in range(2):
        own = (await graph.aget_state(config(f"own {number}"))).values["messages"]
        assert [message.content for message in own[::2]] == [f"{number} {n}" for n in range(TURNS)]
    history = [each async for each in graph.aget_state_history(config("shared"))]
    assert len(history) == 2 * 3 * TURNS
    by_id = {each.config["configurable"]["checkpoint_id"]: each for each in history}
    for each in history:
        if each.parent_config is None or "messages" not in each.values:
            continue
        before = by_id[each.parent_config["configurable"]["checkpoint_id"]].values.get("messages", [])
        assert each.values["messages"][: len(before)] == before
