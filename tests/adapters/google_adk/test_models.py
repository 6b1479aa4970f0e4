"""Gemini of ADK on a wrapped HTTP client: which requests share an answer, whole and streamed, Valkey away."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.adapters.installed import needs

needs("google.adk", tox_env="frameworks-adk")

from google import genai
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models import Gemini
from google.genai import types
from pydantic import BaseModel

from tests.adapters.google_adk.models import LlmAgent, ask
from tests.adapters.mortal_server import MortalServer
from tests.providers import ProviderServer, Script, Served, ToolCall
from tests.support import until
from tiercache import AgentCache, ResilienceOptions
from tiercache.adapters.google_adk import TierCachePlugin

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
QUICK = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)
SSE = RunConfig(streaming_mode=StreamingMode.SSE)


@pytest.fixture(autouse=True)
async def _gemini(provider: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Let the SDK reach the local server, and wait until its dropped clients are closed."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", provider.url)
    monkeypatch.setenv("GEMINI_API_KEY", "none")
    yield
    gc.collect()  # A dropped client starts a task that closes it.
    await until(lambda: not any("aclose" in repr(task) for task in asyncio.all_tasks()))


def agent(cache: AgentCache, **options: Any) -> LlmAgent:
    http_client = cache.wrap(httpx.AsyncClient(timeout=60, trust_env=False))
    client = genai.Client(http_options=types.HttpOptions(httpx_async_client=http_client))
    model = Gemini(model=options.pop("model", "gemini-3.8-flash"), client=client)
    return LlmAgent(name=options.pop("name", "agent"), model=model, **options)


async def test_equal_runs_send_one_request_whole_and_streamed(cache: AgentCache, provider: ProviderServer) -> None:
    for config in (None, SSE):
        first, second = [await ask(agent(cache), config=config) for _ in range(2)]
        assert [(each.partial, each.content, each.usage_metadata) for each in first] == [
            (each.partial, each.content, each.usage_metadata) for each in second
        ]
    assert [call.is_stream for call in provider.calls] == [False, True]


async def test_equal_runs_at_the_same_time_send_one_request(cache: AgentCache, provider: ProviderServer) -> None:
    await asyncio.gather(*[ask(agent(cache)) for _ in range(5)])
    assert provider.call_count == 1


class City(BaseModel):
    name: str


class Town(BaseModel):
    name: str
    size: int


def search(query: str) -> str:
    """Search."""
    return query


def find(query: str) -> str:
    """Search."""
    return query


def configured(**options: Any) -> dict[str, Any]:
    return {"generate_content_config": types.GenerateContentConfig(**options)}


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "another model": {"model": "gemini-3.8-pro"},
    "temperature 0": configured(temperature=0),
    "temperature 1": configured(temperature=1),
    "most tokens": configured(max_output_tokens=50),
    "seed": configured(seed=1),
    "thinking": configured(thinking_config=types.ThinkingConfig(thinking_budget=100)),
    "system prompt": {"instruction": "Be brief."},
    "another system prompt": {"instruction": "Be polite."},
    "tool": {"tools": [search]},
    "another tool": {"tools": [find]},
    "two tools": {"tools": [search, find]},
    "output schema": {"output_schema": City},
    "another output schema": {"output_schema": Town},
}


async def test_runs_that_differ_share_no_answer(cache: AgentCache, provider: ProviderServer) -> None:
    for _ in range(2):
        for options in REQUESTS.values():
            await ask(agent(cache, **options))
        await ask(agent(cache), "Which lake?")
        await ask(agent(cache), "Which river?", "And which lake?")
    assert provider.call_count == len(REQUESTS) + 2


def script_of(request: Served) -> Script | None:
    """Return the script of a model that calls a tool, and answers when it has the result."""
    parts = request.params["contents"][-1]["parts"]
    if "functionResponse" in parts[0]:
        return None
    return Script(tool_calls=(ToolCall(name="search", arguments={"query": "a"}),))


async def test_runs_with_tools_ask_the_model_and_the_tool_once(cache: AgentCache, provider: ProviderServer) -> None:
    runs: list[str] = []

    def search(query: str) -> str:
        """Search."""
        runs.append(query)
        return "found"

    provider.choose = script_of
    plugins = [TierCachePlugin(cache, tools=["search"])]
    answers = [(await ask(agent(cache, tools=[search]), plugins=plugins))[-1].content for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert (provider.call_count, runs) == (2, ["a"])


async def test_runs_go_on_once_valkey_is_killed(mortal_server: MortalServer, provider: ProviderServer) -> None:
    async with AgentCache.from_url(mortal_server.url, name="test", resilience=QUICK) as cache:
        await ask(agent(cache))
        mortal_server.kill()
        assert (await ask(agent(cache, instruction="Be brief.")))[-1].content
        assert provider.call_count == 2
