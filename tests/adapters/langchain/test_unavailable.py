"""The adapters of LangChain without Valkey: caches go on, nothing that was paid for is lost, and state is an error."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.installed import needs

needs("langchain", "langchain_classic", "langchain_openai")

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import Generation
from langchain_core.tools import tool

from tests.adapters.langchain.models import GivenModel
from tests.adapters.langchain.test_byte_store import backed
from tests.adapters.langchain.test_tool_cache import Runs, run
from tests.adapters.mortal_server import MortalServer
from tiercache import AgentCache, L2CommandError, L2UnavailableError, ResilienceOptions
from tiercache.adapters.langchain import (
    TierCacheByteStore,
    TierCacheChatMessageHistory,
    TierCacheLLMCache,
    TierCacheToolMiddleware,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# The drain at the end does not wait for a server that is gone.
SOON = ResilienceOptions(drain_timeout=0.5)


async def test_answer_reaches_the_caller_if_valkey_is_killed_during_the_model_call(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        model = GivenModel(answers=[AIMessage("Hello")], cache=TierCacheLLMCache(cache), before=mortal_server.kill)
        assert (await model.ainvoke("Hi")).content == "Hello"
        assert (await model.ainvoke("Ho")).content == "Hello"
        with pytest.raises(L2UnavailableError):
            await TierCacheLLMCache(cache).aclear()


def test_answer_reaches_plain_code_if_valkey_is_killed_during_the_model_call(mortal_server: MortalServer) -> None:
    cache = AgentCache.from_url(mortal_server.url, resilience=SOON)
    with cache.sync:
        model = GivenModel(answers=[AIMessage("Hello")], cache=TierCacheLLMCache(cache), before=mortal_server.kill)
        assert model.invoke("Hi").content == "Hello"
        assert model.invoke("Ho").content == "Hello"


async def test_tools_run_without_valkey(mortal_server: MortalServer) -> None:
    runs = Runs()
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        middleware = TierCacheToolMiddleware(cache, tools=["search"])
        await run(middleware, runs.tool(), {"query": "a"})
        mortal_server.kill()
        cache.clear_l1()
        (message,) = await run(middleware, runs.tool(), {"query": "a"})
        assert message.content == "result 2 for a"


async def test_result_reaches_the_agent_if_valkey_is_killed_during_the_run_of_a_tool(
    mortal_server: MortalServer,
) -> None:
    @tool
    def search(query: str) -> str:
        """Search for a text."""
        mortal_server.kill()
        return "found"

    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        (message,) = await run(TierCacheToolMiddleware(cache, tools=["search"]), search, {"query": "a"})
        assert (message.content, message.status) == ("found", "success")


async def test_embeddings_reach_the_caller_if_valkey_is_killed_while_they_are_made(
    mortal_server: MortalServer,
) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        model, embeddings = backed(TierCacheByteStore(cache))
        model.before = mortal_server.kill
        assert await embeddings.aembed_documents(["a"]) == [[1.0, 0.1]]


async def test_embeddings_reach_the_caller_without_valkey(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        store = TierCacheByteStore(cache)
        model, embeddings = backed(store)
        await embeddings.aembed_documents(["a"])
        mortal_server.kill()
        cache.clear_l1()
        assert await embeddings.aembed_documents(["a", "bb"]) == [[1.0, 0.1], [2.0, 0.1]]
        assert model.texts == ["a", "a", "bb"]
        with pytest.raises(L2UnavailableError):
            await store.amdelete(["a"])
        with pytest.raises(L2UnavailableError):
            _ = [key async for key in store.ayield_keys()]


def test_embeddings_reach_plain_code_without_valkey(mortal_server: MortalServer) -> None:
    cache = AgentCache.from_url(mortal_server.url, resilience=SOON)
    with cache.sync:
        _, embeddings = backed(TierCacheByteStore(cache))
        mortal_server.kill()
        assert embeddings.embed_documents(["a"]) == [[1.0, 0.1]]


async def test_history_is_an_error_without_valkey(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        history = TierCacheChatMessageHistory(cache, "thread-1")
        await history.aadd_messages([HumanMessage("Hi")])
        assert await history.aget_messages() == [HumanMessage("Hi")]
        mortal_server.kill()
        for call in (history.aget_messages, lambda: history.aadd_messages([AIMessage("a")]), history.aclear):
            with pytest.raises(L2UnavailableError):
                await call()


async def test_adapters_go_on_where_valkey_refuses_the_credentials(url: str) -> None:
    async def look(cache: AgentCache) -> Any:
        llm_cache, store = TierCacheLLMCache(cache), TierCacheByteStore(cache)
        await llm_cache.aupdate("p", "m", [Generation(text="a")])
        await store.amset([("a", b"1")])
        (message,) = await run(TierCacheToolMiddleware(cache, tools=["search"]), Runs().tool(), {"query": "a"})
        return await llm_cache.alookup("q", "m"), await store.amget(["b"]), message.content

    cache = AgentCache.from_url(url.replace("unix://", "unix://nobody:wrong@"), resilience=SOON)
    try:
        assert await look(cache) == (None, [None], "result 1 for a")
        with pytest.raises(L2CommandError):
            await TierCacheChatMessageHistory(cache, "thread-1").aget_messages()
    finally:
        await cache.aclose()


async def test_adapters_go_on_where_a_cache_that_requires_valkey_cannot_open(mortal_server: MortalServer) -> None:
    cache = AgentCache.from_url(mortal_server.url, require_l2=True, resilience=SOON)
    mortal_server.kill()
    try:
        llm_cache = TierCacheLLMCache(cache)
        assert await llm_cache.alookup("p", "m") is None
        await llm_cache.aupdate("p", "m", [Generation(text="a")])
        (message,) = await run(TierCacheToolMiddleware(cache, tools=["search"]), Runs().tool(), {"query": "a"})
        assert message.content == "result 1 for a"
    finally:
        await cache.aclose()
