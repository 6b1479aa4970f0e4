"""One worker process: concurrent agents call one cache, check every answer, and count the answers by their source."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from ...agent_cache import AgentCache
from .answers import Answer, answer
from .client import EndpointClient
from .loading import Loading
from .messages import Progress, WorkerSettings, decode, listen_to_parent, send
from .replies import Asking, Reply, is_right
from .streaming import Streaming
from .tally import Tally
from .workload import PAUSE, AgentRequest, build_catalog, build_trace

CACHE_NAME = "tiercache_demo"
REPORT_EVERY = 0.1


class Worker:
    """The agents of this process and their counts."""

    def __init__(self, settings: WorkerSettings, asking: Asking) -> None:
        demo = settings.demo
        self.tally = Tally()
        self._asking = asking
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
        self._count(await self._asking.ask(params), answer(params))

    def _count(self, reply: Reply, expected: Answer) -> None:
        bucket = self.tally.buckets[reply.outcome]
        bucket.latencies.append(reply.took)
        if reply.first_part is not None:
            bucket.first_parts.append(reply.first_part)
        bucket.model_time += expected.latency * self._scale
        bucket.input_tokens += expected.prompt_tokens
        bucket.output_tokens += expected.completion_tokens
        bucket.cost += reply.cost or 0.0
        self.tally.checked += 1
        self.tally.wrong += not is_right(reply, expected)
        self.tally.degraded += reply.degraded
        self.tally.unpriced += reply.cost is None

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            send(Progress(self.tally.done, self.tally.hits, self.tally.saved))


def asking(settings: WorkerSettings, cache: AgentCache) -> Asking:
    """Return the way in which the agents ask."""
    if settings.demo.sdk is not None:
        return Streaming(cache, settings.endpoint_port)
    return Loading(cache, EndpointClient(settings.endpoint_port, settings.demo.agents))


async def work(settings: WorkerSettings) -> None:
    """Open the cache, report to the parent, wait for ``GO``, run the agents, and send the tally."""
    go = listen_to_parent(lambda: os._exit(1))
    async with AgentCache.from_url(settings.url, name=CACHE_NAME, default_ttl=3600) as cache:
        async with aclosing(asking(settings, cache)) as agents_ask:
            await agents_ask.open()
            worker = Worker(settings, agents_ask)
            send(Progress())
            await asyncio.to_thread(go.wait)
            await worker.run()
        if settings.demo.sdk is not None:
            # The answer of a wrapped client does not show that Valkey was unavailable.
            worker.tally.degraded = cache.local_stats().tiers["llm"].l2_errors
    tally = worker.tally
    send(Progress(tally.done, tally.hits, tally.saved, tally))


def main() -> None:
    """Run one worker with the settings in the first argument."""
    asyncio.run(work(decode(sys.argv[1], WorkerSettings)))
