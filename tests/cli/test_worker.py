"""What a worker takes for the right answer, and how it counts where an answer came from."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tiercache import AgentCache, LlmResponse, LlmResult
from tiercache.cli.demo.answers import Answer, ToolCall, answer
from tiercache.cli.demo.client import read_completion
from tiercache.cli.demo.endpoint import completion_object
from tiercache.cli.demo.worker import is_right, outcome_of
from tiercache.cli.demo.workload import build_catalog

PARAMS = [request.params() for request in build_catalog()]
WORDS = PARAMS[0]
TOOLS = next(params for params in PARAMS if answer(params).tool_call)


async def ask(params: dict[str, Any], said: Answer) -> LlmResult:
    """Return what a cache gives when the model says ``said``, loaded once and read once."""
    async with AgentCache.in_memory() as cache:

        def load() -> LlmResponse:
            return read_completion(completion_object(params, said, created=0))

        await cache.llm.get_or_load(params, load)
        return await cache.llm.get_or_load(params, load)


@pytest.mark.parametrize("params", [WORDS, TOOLS], ids=["words", "tools"])
async def test_the_answer_to_the_request_is_right(params: dict[str, Any]) -> None:
    assert is_right(await ask(params, answer(params)), answer(params))


@pytest.mark.parametrize(
    ("params", "said"),
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
async def test_any_other_answer_is_wrong(params: dict[str, Any], said: Answer) -> None:
    assert not is_right(await ask(params, said), answer(params))


async def test_outcomes_are_told_apart(url: str) -> None:
    async with AgentCache.from_url(url, name="first") as first, AgentCache.from_url(url, name="first") as second:
        release = asyncio.Event()

        async def load() -> str:
            await release.wait()
            return "yes"

        loads = [asyncio.create_task(first.llm.get_or_load(WORDS, load)) for _ in range(3)]
        await asyncio.sleep(0)
        release.set()
        assert sorted(map(outcome_of, await asyncio.gather(*loads))) == ["coalesced", "coalesced", "loader"]
        assert outcome_of(await first.llm.get_or_load(WORDS, load)) == "l1"
        await first.aclose()  # what is on its way to Valkey arrives
        assert outcome_of(await second.llm.get_or_load(WORDS, load)) == "l2"
