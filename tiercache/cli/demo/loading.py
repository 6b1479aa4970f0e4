"""Agents without an SDK: whole answers, through ``cache.llm.get_or_load``."""

import time
from typing import Any

from ...agent_cache import AgentCache
from ...tiers.llm.result import LlmResult
from .client import EndpointClient
from .replies import Reply, outcome_of, tool_call


class Loading:
    """Asks for whole answers, with the endpoint's client as the loader."""

    def __init__(self, cache: AgentCache, client: EndpointClient) -> None:
        self._cache = cache
        self._client = client

    async def open(self) -> None:
        """Do nothing: the client connects by itself."""

    async def ask(self, params: dict[str, Any]) -> Reply:
        """Return the reply to ``params``."""
        started = time.perf_counter()
        result = await self._cache.llm.get_or_load(params, self._client.call_llm)
        return reply_of(result, time.perf_counter() - started)

    async def aclose(self) -> None:
        """Close all connections."""
        self._client.close()


def reply_of(result: LlmResult, took: float) -> Reply:
    """Return the reply in the result of a call that took ``took`` seconds."""
    return Reply(
        outcome="coalesced" if result.coalesced else outcome_of(result.source, result.age, took),
        text=result.response or "",
        tool_calls=[tool_call(block["id"], block["name"], block["args"]) for block in result.content_blocks or ()],
        tokens=result.tokens or {},
        first_part=None,
        took=took,
        cost=result.cost,
        degraded=result.degraded,
    )
