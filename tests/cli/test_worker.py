"""The workers: the two ways to ask, the check of answers, and the count of their sources."""

import asyncio
import sys
import time
from dataclasses import replace
from typing import Any

import openai
import pytest

from tests.support import until
from tiercache import AgentCache, LlmResponse
from tiercache.cli.demo.answers import Answer, ToolCall, answer
from tiercache.cli.demo.client import read_completion
from tiercache.cli.demo.endpoint import Endpoint, completion_object
from tiercache.cli.demo.loading import reply_of
from tiercache.cli.demo.replies import Reply, is_right
from tiercache.cli.demo.streaming import Streaming, can_be_wrapped, sdk_version
from tiercache.cli.demo.workload import build_catalog

PARAMS = [request.params() for request in build_catalog()]
WORDS = PARAMS[0]
TOOLS = next(params for params in PARAMS if answer(params).tool_call)


async def ask(params: dict[str, Any], reply: Answer) -> Reply:
    """Return the second reply of a cache to ``params``, after a load that returned the answer ``reply``."""
    async with AgentCache.in_memory() as cache:

        def load() -> LlmResponse:
            return read_completion(completion_object(params, reply, created=0))

        await cache.llm.get_or_load(params, load)
        return reply_of(await cache.llm.get_or_load(params, load), took=1.0)


@pytest.mark.parametrize("params", [WORDS, TOOLS], ids=["words", "tools"])
async def test_worker_accepts_the_answer_to_the_request(params: dict[str, Any]) -> None:
    assert is_right(await ask(params, answer(params)), answer(params))


@pytest.mark.parametrize(
    ("params", "reply"),
    [
        (WORDS, answer(PARAMS[1])),
        (WORDS, replace(answer(WORDS), text=(answer(WORDS).text or "")[:-1])),
        (WORDS, replace(answer(WORDS), prompt_tokens=1)),
        (WORDS, replace(answer(WORDS), completion_tokens=1)),
        (WORDS, replace(answer(WORDS), tool_call=answer(TOOLS).tool_call)),
        (TOOLS, replace(answer(TOOLS), tool_call=None, text="")),
        (TOOLS, replace(answer(TOOLS), tool_call=ToolCall("call_0", "query_metrics", {}))),
    ],
)
async def test_worker_rejects_every_other_answer(params: dict[str, Any], reply: Answer) -> None:
    assert not is_right(await ask(params, reply), answer(params))


async def test_worker_distinguishes_the_outcomes(url: str) -> None:
    async with AgentCache.from_url(url, name="first") as first, AgentCache.from_url(url, name="first") as second:
        release = asyncio.Event()

        async def load() -> str:
            await release.wait()
            return "yes"

        async def outcome(cache: AgentCache) -> str:
            started = time.perf_counter()
            result = await cache.llm.get_or_load(WORDS, load)
            return reply_of(result, time.perf_counter() - started).outcome

        outcomes = [asyncio.create_task(outcome(first)) for _ in range(3)]
        await until(lambda: first.local_stats().tiers["llm"].loads == 1)
        waiting = asyncio.create_task(outcome(second))
        await until(lambda: second.local_stats().tiers["llm"].lease_waits == 1)
        await asyncio.sleep(0.01)  # entries hold whole milliseconds
        release.set()
        assert sorted(await asyncio.gather(*outcomes)) == ["coalesced", "coalesced", "loader"]
        assert await waiting == "waited"
        assert await outcome(first) == "l1"
        second.clear_l1()
        # The answer is older than the call, however long a busy machine takes for the call.
        assert reply_of(await second.llm.get_or_load(WORDS, load), took=0.0).outcome == "l2"


@pytest.mark.parametrize("params", [WORDS, TOOLS], ids=["words", "tools"])
async def test_worker_streams_through_a_wrapped_client(endpoint: Endpoint, params: dict[str, Any]) -> None:
    async with AgentCache.in_memory() as cache:
        streaming = Streaming(cache, endpoint.server_address[1])
        followed = await asyncio.gather(*(streaming.ask(params) for _ in range(3)))
        again = await streaming.ask(params)
        await streaming.aclose()
    assert endpoint.completions == 1
    # The SDK's first call prepares itself in a thread: any of the three may send its request first.
    assert sorted(reply.outcome for reply in followed) == ["coalesced", "coalesced", "loader"]
    assert again.outcome == "l1"
    for reply in (*followed, again):
        assert is_right(reply, answer(params))
        assert reply.first_part is not None
        assert 0 < reply.first_part <= reply.took
        assert reply.cost


async def test_worker_rejects_the_stream_of_another_request(endpoint: Endpoint) -> None:
    async with AgentCache.in_memory() as cache:
        streaming = Streaming(cache, endpoint.server_address[1])
        assert not is_right(await streaming.ask(WORDS), answer(PARAMS[1]))
        await streaming.aclose()


async def test_worker_tells_a_stream_of_another_process_from_its_own(endpoint: Endpoint, url: str) -> None:
    endpoint.scale = 0.3
    async with AgentCache.from_url(url, name="s") as first, AgentCache.from_url(url, name="s") as second:
        both = [Streaming(cache, endpoint.server_address[1]) for cache in (first, second)]
        replies = await asyncio.gather(*(streaming.ask(WORDS) for streaming in both))
        for streaming in both:
            await streaming.aclose()
    assert endpoint.completions == 1
    assert [reply.outcome for reply in replies].count("loader") == 1
    assert all(is_right(reply, answer(WORDS)) for reply in replies)


@pytest.mark.parametrize(("found", "expected"), [("2.0.1", True), ("3.57.0", True), ("1.99.9", False), ("x", False)])
def test_sdk_can_be_wrapped_from_its_second_major_version_on(found: str, expected: bool) -> None:
    assert can_be_wrapped(found) == expected


def test_sdk_version_is_the_installed_one() -> None:
    assert sdk_version() == openai.__version__


def test_sdk_version_is_none_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert sdk_version() is None
