"""Runs of agents on the sync face: the sequence of calls is that of the thread of the caller."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tiercache import AgentCache, AgentLoopError, SyncCache


@pytest.fixture
def plain(url: str) -> Iterator[SyncCache]:
    with AgentCache.from_url(url, name="runs").sync as plain:
        yield plain


def test_plain_run_finds_a_repeat_before_the_call_runs(plain: SyncCache) -> None:
    calls: list[str] = []
    with plain.agent() as agent:
        for _ in range(4):
            plain.tool.get_or_load("t", {"a": 1}, lambda a: calls.append("t"), mode="refresh")
        with pytest.raises(AgentLoopError) as caught:
            plain.tool.get_or_load("t", {"a": 1}, lambda a: calls.append("t"), mode="refresh")
    assert (caught.value.kind, len(calls), agent.metrics().calls) == ("repeat", 4, 4)
    assert plain.tool.get_or_load("t", {"a": 1}, lambda a: 1).hit


def test_plain_run_counts_decorated_tools_and_nested_calls_once(plain: SyncCache) -> None:
    @plain.tool.cached
    def inner(n: int) -> int:
        return n

    @plain.tool.cached
    def outer(n: int) -> int:
        return inner(n) + 1

    with plain.agent(max_repeats=3) as agent:
        assert outer(1) == 2
        assert [call.tool for call in agent.history] == ["outer", "inner"]
        assert outer(1) == 2
        with pytest.raises(AgentLoopError):
            outer(1)
    assert agent.metrics().hits == {"l1": 1}


def test_plain_run_finds_depth(plain: SyncCache) -> None:
    def descend(level: int) -> int:
        return int(plain.tool.get_or_load("descend", {"level": level + 1}, descend).value)

    with plain.agent(max_depth=5) as agent, pytest.raises(AgentLoopError, match="depth"):
        plain.tool.get_or_load("descend", {"level": 1}, descend)
    assert agent.metrics().loops == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("is_key", [False, True])
def test_plain_run_closes_the_coroutine_of_a_refused_call(plain: SyncCache, is_key: bool) -> None:
    async def search() -> str:
        return "found"

    def call() -> str:
        if is_key:
            return plain.tool.get_or_load(plain.tool.key("search", None), search()).value
        return plain.tool.get_or_load("search", None, search()).value

    with plain.agent(max_repeats=2):
        assert call() == "found"
        with pytest.raises(AgentLoopError):
            call()
    gc.collect()
