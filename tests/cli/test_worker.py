"""The worker: its check of answers, and its count of their sources."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.support import until
from tiercache import AgentCache, LlmResponse, LlmResult
from tiercache.cli.demo.answers import Answer, ToolCall, answer
from tiercache.cli.demo.client import read_completion
from tiercache.cli.demo.endpoint import completion_object
from tiercache.cli.demo.worker import is_right, outcome_of
from tiercache.cli.demo.workload import build_catalog

PARAMS = [request.params() for request in build_catalog()]
WORDS = PARAMS[0]
TOOLS = next(params for params in PARAMS if answer(params).tool_call)


async def ask(params: dict[str, Any], reply: Answer) -> LlmResult:
    """Return the second result of a cache for ``params``, after a load that returned the answer ``reply``."""
    async with AgentCache.in_memory() as cache:

        def load() -> LlmResponse:
            return read_completion(completion_object(params, reply, created=0))

        await cache.llm.get_or_load(params, load)
        return await cache.llm.get_or_load(params, load)


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
            return outcome_of(result, time.perf_counter() - started)

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
        assert await outcome(second) == "l2"
