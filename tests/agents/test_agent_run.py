"""Runs of agents: the tool calls within ``cache.agent`` are counted, and each loop is found once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from tiercache import AgentCache, AgentLoopError, UsageError


async def call(cache: AgentCache, name: str, calls: list[str] | None = None) -> Any:
    """Make a call of the tool ``search`` with ``name`` as its argument."""

    def search(name: str) -> str:
        if calls is not None:
            calls.append(name)
        return name.lower()

    return await cache.tool.get_or_load(
        "search", {"name": name}, search, mode="refresh" if calls is not None else "use"
    )


async def call_all(cache: AgentCache, names: Iterable[str], calls: list[str] | None = None) -> None:
    for name in names:
        await call(cache, name, calls)


@pytest.mark.parametrize(
    ("names", "kind"), [("AAAAA", "repeat"), ("ABAB", "oscillation"), ("ABCABC", "oscillation"), ("AAAA", None)]
)
async def test_run_finds_each_loop_once_before_the_call_runs(memory: AgentCache, names: str, kind: str | None) -> None:
    calls: list[str] = []
    async with memory.agent() as agent:
        await call_all(memory, names[:-1], calls)
        assert agent.metrics().loops == 0
        if kind is None:
            await call(memory, names[-1], calls)
        else:
            with pytest.raises(AgentLoopError, match=kind) as caught:
                await call(memory, names[-1], calls)
            assert caught.value.kind == kind
            key = {name: memory.tool.key("search", {"name": name}).key for name in names}
            assert [(each.tool, each.key) for each in caught.value.history] == [("search", key[name]) for name in names]
            assert [each.source for each in caught.value.history] == ["loader"] * (len(names) - 1) + [None]
    assert "".join(calls) == (names if kind is None else names[:-1])
    assert agent.metrics().loops == (kind is not None)
    assert len(agent.history) == len(calls)


async def test_run_refuses_a_loop_again_and_lets_other_calls_run(memory: AgentCache) -> None:
    async with memory.agent(max_repeats=3):
        await call_all(memory, "AA")
        for _ in range(2):
            with pytest.raises(AgentLoopError):
                await call(memory, "A")
        await call_all(memory, "BAA")


async def test_run_finds_depth_once_with_its_history(memory: AgentCache) -> None:
    deepest = 0

    async def descend(level: int) -> int:
        nonlocal deepest
        deepest = max(deepest, level)
        result = await memory.tool.get_or_load("descend", {"level": level + 1}, descend)
        return int(result.value)

    async with memory.agent() as agent:
        with pytest.raises(AgentLoopError) as caught:
            await memory.tool.get_or_load("descend", {"level": 1}, descend)
    assert (caught.value.kind, len(caught.value.history), deepest) == ("depth", 50, 49)
    metrics = agent.metrics()
    assert (metrics.loops, metrics.calls, metrics.errors) == (1, 49, 49)


async def test_run_takes_parallel_branches_for_no_loop(memory: AgentCache) -> None:
    async with memory.agent() as agent:
        await call_all(memory, "AAA")
        await asyncio.gather(*(call(memory, "A") for _ in range(6)))
        await call(memory, "A")
        assert (agent.metrics().loops, agent.metrics().calls) == (0, 10)
        with pytest.raises(AgentLoopError):
            await asyncio.gather(call(memory, "A"))


async def test_run_that_warns_logs_each_loop_once(memory: AgentCache, caplog: pytest.LogCaptureFixture) -> None:
    async with memory.agent(on_loop="warn") as agent:
        await call_all(memory, "AAAAAAAAA")
        assert agent.metrics().loops == 1
        assert [agent.session_id in record.getMessage() for record in caplog.records] == [True]
        await call(memory, "A")
    assert (agent.metrics().loops, len(caplog.records), agent.metrics().calls) == (2, 2, 10)


async def test_run_that_short_circuits_returns_the_last_result(memory: AgentCache) -> None:
    calls: list[str] = []
    async with memory.agent(on_loop="short_circuit", max_repeats=2) as agent:
        first = await call(memory, "A", calls)
        assert await call(memory, "A", calls) == first
        assert (await call(memory, "B", calls)).value == "b"
    assert (calls, agent.metrics().loops, agent.metrics().calls) == (["A", "B"], 1, 2)


async def test_run_that_short_circuits_calls_without_a_result(memory: AgentCache) -> None:
    async def broken() -> str:
        raise ZeroDivisionError

    async with memory.agent(on_loop="short_circuit", max_repeats=2) as agent:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await memory.tool.get_or_load("broken", None, broken)
    assert (agent.metrics().errors, agent.metrics().loops) == (2, 1)


async def test_run_lets_a_function_decide(memory: AgentCache) -> None:
    errors: list[AgentLoopError] = []

    def decide(error: AgentLoopError) -> None:
        errors.append(error)
        if len(errors) == 2:
            raise RuntimeError("enough")

    async with memory.agent(on_loop=decide, max_repeats=2):
        await call_all(memory, "AAA")
        with pytest.raises(RuntimeError, match="enough"):
            await call(memory, "A")
    assert [error.kind for error in errors] == ["repeat", "repeat"]


async def test_run_counts_the_calls_of_decorated_tools(cache: AgentCache) -> None:
    @cache.tool.cached("weather", cost=0.5)
    async def get_weather(city: str) -> str:
        return "sunny"

    await get_weather("Sofia")
    async with cache.agent("run-1") as agent:
        for _ in range(4):
            assert await get_weather("Sofia") == "sunny"
        with pytest.raises(AgentLoopError):
            await get_weather("Sofia")
        assert await get_weather("Varna") == "sunny"
    await get_weather("Sofia")
    metrics = agent.metrics()
    assert (agent.session_id, metrics.calls, metrics.hits, metrics.misses) == ("run-1", 5, {"l1": 4}, 1)
    assert metrics.cost_saved == 2.0
    assert agent.history[-1].key == get_weather.key("Varna")
    assert get_weather.metrics().l1_hits == 5


async def test_run_counts_nothing_of_other_tiers(memory: AgentCache) -> None:
    async with memory.agent(max_repeats=2) as agent:
        for _ in range(3):
            await memory.kv.get_or_load("k", lambda: 1)
    assert agent.metrics().calls == 0


async def test_runs_nest_and_the_innermost_counts(memory: AgentCache) -> None:
    async with memory.agent(max_repeats=3) as outer:
        await call_all(memory, "AA")
        async with memory.agent(max_repeats=3) as inner:
            await call_all(memory, "AA")
        with pytest.raises(AgentLoopError):
            await call(memory, "A")
    assert (outer.metrics().calls, inner.metrics().calls) == (2, 2)
    assert outer.session_id != inner.session_id
    await call_all(memory, "AAAAAA")
    assert outer.metrics().calls == 2


async def test_run_begins_once(memory: AgentCache) -> None:
    agent = memory.agent()
    async with agent:
        pass
    with pytest.raises(UsageError, match="once"):
        async with agent:
            pass


async def test_runs_of_parallel_tasks_are_apart(memory: AgentCache) -> None:
    async def run() -> int:
        async with memory.agent() as agent:
            await call_all(memory, "AAAA")
        return agent.metrics().calls

    assert await asyncio.gather(run(), run(), run()) == [4, 4, 4]


async def test_run_counts_calls_in_a_row_as_no_depth(memory: AgentCache) -> None:
    async with memory.agent(max_depth=2) as agent:
        await call_all(memory, "ABCDEFGH")
    assert (agent.metrics().calls, agent.metrics().loops) == (8, 0)
