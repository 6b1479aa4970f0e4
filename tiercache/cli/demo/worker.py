"""One worker process: concurrent agents call one cache, check every answer, and count the answers by their source."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from ...agent_cache import AgentCache
from ...tiers.llm.result import LlmResult
from .answers import Answer, answer
from .client import EndpointClient
from .messages import Progress, WorkerSettings, decode, listen_to_parent, send
from .tally import Outcome, Tally
from .workload import PAUSE, AgentRequest, build_catalog, build_trace

CACHE_NAME = "tiercache_demo"
REPORT_EVERY = 0.1


def is_right(result: LlmResult, expected: Answer) -> bool:
    """Return whether ``result`` is the ``expected`` answer: text, tool call and tokens."""
    call = expected.tool_call
    blocks = [] if call is None else [{"type": "tool_call", "id": call.id, "name": call.name, "args": call.arguments}]
    tokens = {"input": expected.prompt_tokens, "output": expected.completion_tokens}
    return (
        (result.response or "") == (expected.text or "")
        and list(result.content_blocks or ()) == blocks
        and dict(result.tokens or {}) == tokens
    )


def outcome_of(result: LlmResult, took: float) -> Outcome:
    """Return the outcome of a call that took ``took`` seconds.

    ``"coalesced"`` if the caller joined a load of its process, ``"waited"`` if it waited for the load of another
    process, else the source of the answer.
    """
    if result.coalesced:
        return "coalesced"
    if result.source == "l2" and result.age is not None and result.age < took:
        # The answer was made during the call: at the beginning of the call Valkey did not have it.
        return "waited"
    match result.source:
        case "l1" | "l2" | "loader" as source:
            return source
        case source:
            raise ValueError(f"cannot count an answer from {source!r}: the demo expects l1, l2 or loader")


class Worker:
    """The agents of this process and their counts."""

    def __init__(self, settings: WorkerSettings, cache: AgentCache, client: EndpointClient) -> None:
        demo = settings.demo
        self.tally = Tally()
        self._cache = cache
        self._client = client
        self._agents = demo.agents
        self._scale = demo.scale
        catalog = build_catalog()
        trace = build_trace(len(catalog), demo.requests, demo.seed, burst=demo.workers * demo.agents)
        self._requests: Iterator[AgentRequest] = (catalog[index] for index in trace[settings.number :: demo.workers])

    async def run(self) -> None:
        """Run all agents until no request is left, and send progress to the parent.

        An error of one agent ends all agents.
        """
        started = time.perf_counter()
        reporter = asyncio.create_task(self._report())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._agents):
                    group.create_task(self._agent())
            self.tally.wall_seconds = time.perf_counter() - started
        finally:
            reporter.cancel()
            await asyncio.wait([reporter])

    async def _agent(self) -> None:
        for request in self._requests:  # all agents of the process share this iterator
            await self._ask(request.params())
            await asyncio.sleep(PAUSE)

    async def _ask(self, params: dict[str, Any]) -> None:
        started = time.perf_counter()
        result = await self._cache.llm.get_or_load(params, self._client.call_llm)
        took = time.perf_counter() - started
        self._count(result, answer(params), took)

    def _count(self, result: LlmResult, expected: Answer, took: float) -> None:
        bucket = self.tally.buckets[outcome_of(result, took)]
        bucket.latencies.append(took)
        bucket.model_time += expected.latency * self._scale
        bucket.input_tokens += expected.prompt_tokens
        bucket.output_tokens += expected.completion_tokens
        bucket.cost += result.cost or 0.0
        self.tally.checked += 1
        self.tally.wrong += not is_right(result, expected)
        self.tally.degraded += result.degraded
        self.tally.unpriced += result.cost is None

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            send(Progress(self.tally.done, self.tally.hits, self.tally.saved))


async def work(settings: WorkerSettings) -> None:
    """Open the cache, report to the parent, wait for ``GO``, run the agents, and send the tally."""
    go = listen_to_parent(lambda: os._exit(1))
    with closing(EndpointClient(settings.endpoint_port, settings.demo.agents)) as client:
        async with AgentCache.from_url(settings.url, name=CACHE_NAME, default_ttl=3600) as cache:
            worker = Worker(settings, cache, client)
            send(Progress())
            await asyncio.to_thread(go.wait)
            await worker.run()
    tally = worker.tally
    send(Progress(tally.done, tally.hits, tally.saved, tally))


def main() -> None:
    """Run one worker with the settings in the first argument."""
    asyncio.run(work(decode(sys.argv[1], WorkerSettings)))
