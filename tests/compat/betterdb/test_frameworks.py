"""betterdb's names of the adapters for LangChain and LangGraph, on a cache of either library."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import valkey.asyncio

from tests.adapters.installed import needs

needs("langchain_core", "langgraph")

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langgraph.graph import END, START, MessagesState, StateGraph

from tiercache import AgentCache
from tiercache.adapters.langchain import TierCacheLLMCache
from tiercache.compat import betterdb as compat
from tiercache.compat.betterdb.adapters.langchain import BetterDBLlmCache
from tiercache.compat.betterdb.adapters.langgraph import BetterDBSaver
from tiercache.embedded import EmbeddedValkey

MakeCompat = Callable[..., compat.AgentCache]

MODEL = '{"kwargs": {"model_name": "gpt-4o"}}---[]'
ANSWER = AIMessage("Hi", tool_calls=[{"name": "weather", "args": {"city": "Sofia"}, "id": "1"}])


@pytest.mark.parametrize("in_memory", [False, True])
async def test_compat_langchain_cache_returns_whole_messages(make_compat: MakeCompat, in_memory: bool) -> None:
    cache: Any = AgentCache.in_memory() if in_memory else make_compat()
    answers = BetterDBLlmCache(cache=cache)
    await answers.aupdate("Hello", MODEL, [ChatGeneration(message=ANSWER)])
    (found,) = await answers.alookup("Hello", MODEL) or ()
    assert found.message == ANSWER
    for other in (MODEL.replace("[]", "[('stop', ['x'])]"), MODEL.replace("[]", "[('tools', [])]")):
        assert await answers.alookup("Hello", other) is None
    await (cache.aclose() if in_memory else cache.shutdown())


async def test_compat_langchain_cache_works_in_plain_code_and_clears_its_own_answers(make_compat: MakeCompat) -> None:
    cache = make_compat()
    answers = BetterDBLlmCache(cache)
    answers.update("Hello", MODEL, [ChatGeneration(message=ANSWER)])
    assert TierCacheLLMCache(cache.tiercache).lookup("Hello", MODEL)
    await cache.llm.store({"model": "m", "messages": []}, "of another part of the program")
    await answers.aclear()
    assert answers.lookup("Hello", MODEL) is None
    assert (await cache.llm.check({"model": "m", "messages": []})).hit


def graph_on(saver: BetterDBSaver) -> Any:
    """Return a graph that answers each message."""
    builder = StateGraph(MessagesState).add_node("agent", lambda state: {"messages": [ANSWER.model_copy()]})
    return builder.add_edge(START, "agent").add_edge("agent", END).compile(checkpointer=saver)


async def test_compat_saver_keeps_the_messages_of_a_thread(make_compat: MakeCompat) -> None:
    cache = make_compat()
    graph = graph_on(BetterDBSaver(cache=cache))
    thread = {"configurable": {"thread_id": "t"}}
    for turn in range(3):
        await graph.ainvoke({"messages": [("user", f"turn {turn}")]}, thread)
    messages = (await graph.aget_state(thread)).values["messages"]
    assert [message.content for message in messages] == ["turn 0", "Hi", "turn 1", "Hi", "turn 2", "Hi"]
    assert messages[1].tool_calls[0]["args"] == {"city": "Sofia"}
    assert len(graph.get_state(thread).values["messages"]) == 6
    assert await cache.session.destroy_thread("t") > 0
    assert (await graph.aget_state(thread)).values == {}


async def test_compat_adapters_without_valkey_miss_answers_and_raise_for_state(
    make_compat: MakeCompat, own_server: tuple[EmbeddedValkey, int]
) -> None:
    server, pid = own_server
    cache = make_compat(client=valkey.asyncio.Valkey.from_url(server.url))
    await cache.ensure_discovery_ready()
    os.kill(pid, signal.SIGSTOP)
    answers = BetterDBLlmCache(cache)
    assert await answers.alookup("Hello", MODEL) is None
    await answers.aupdate("Hello", MODEL, [ChatGeneration(message=ANSWER)])
    with pytest.raises(compat.AgentCacheError):
        await graph_on(BetterDBSaver(cache)).ainvoke({"messages": []}, {"configurable": {"thread_id": "t"}})


@pytest.mark.parametrize("adapter", [BetterDBLlmCache, BetterDBSaver])
def test_compat_adapters_refuse_anything_but_a_cache(adapter: Any) -> None:
    with pytest.raises(compat.AgentCacheUsageError, match="cache must be an AgentCache, not str"):
        adapter(cache="valkey://localhost")
