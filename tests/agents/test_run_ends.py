"""Runs of agents at their edges: tasks that outlive a run, refused awaitables, copies of results and of errors."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from typing import Any

import pytest

from tiercache import AgentCache, AgentLoopError


async def call_often(cache: AgentCache, count: int) -> None:
    for _ in range(count):
        await cache.tool.get_or_load("search", {"q": "A"}, lambda: "found")


async def test_ended_run_counts_no_call_of_a_task_that_it_left(memory: AgentCache) -> None:
    released = asyncio.Event()

    async def later() -> None:
        await released.wait()
        await call_often(memory, 9)

    async with memory.agent() as agent:
        await call_often(memory, 1)
        left = asyncio.create_task(later())
        await asyncio.sleep(0)
    released.set()
    await left
    assert (agent.metrics().calls, agent.metrics().loops) == (1, 0)


async def test_run_repeats_a_result_as_a_copy_of_its_own(memory: AgentCache) -> None:
    async with memory.agent(on_loop="short_circuit", max_repeats=2):
        first = await memory.tool.get_or_load("rows", None, lambda: [1, 2])
        first.value.append(3)
        second = await memory.tool.get_or_load("rows", None, lambda: [1, 2])
    assert second.value == [1, 2]
    assert (second.key, second.source) == (first.key, first.source)


@pytest.mark.filterwarnings("error")
async def test_run_closes_the_awaitable_of_a_refused_call(memory: AgentCache) -> None:
    async def search() -> str:
        return "found"

    refused = search()
    async with memory.agent(max_repeats=2):
        await memory.tool.get_or_load("search", None, search())
        with pytest.raises(AgentLoopError):
            await memory.tool.get_or_load("search", None, refused)
    gc.collect()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await refused


async def test_agent_loop_error_survives_copy_and_pickle(memory: AgentCache) -> None:
    async with memory.agent(max_repeats=2):
        await call_often(memory, 1)
        with pytest.raises(AgentLoopError) as caught:
            await call_often(memory, 1)
    error = caught.value
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(again), again.kind, again.history) == (str(error), error.kind, error.history)


async def test_run_that_warns_finds_depth_once(memory: AgentCache) -> None:
    async def descend(level: int) -> Any:
        if level == 9:
            return level
        return (await memory.tool.get_or_load("descend", {"level": level + 1}, descend)).value

    async with memory.agent(max_depth=3, on_loop="warn") as agent:
        await memory.tool.get_or_load("descend", {"level": 1}, descend)
    assert (agent.metrics().loops, agent.metrics().calls) == (1, 9)
