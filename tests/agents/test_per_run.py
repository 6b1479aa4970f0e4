"""Entries of one run: they end with it in both levels, and shared entries stay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support import MakeCache
from tiercache import AgentCache, UsageError
from tiercache.embedded import EmbeddedValkey


async def load(cache: AgentCache, number: int, **options: Any) -> Any:
    return await cache.tool.get_or_load("t", {"n": number}, lambda n: n, **options)


async def test_per_run_entry_ends_with_its_run_in_both_levels(cache: AgentCache, plain: Any) -> None:
    shared = await load(cache, 1)
    async with cache.agent("r1") as agent:
        assert (await load(cache, 1)).source == "l1"
        own, other = await asyncio.gather(load(cache, 1, per_run=True), load(cache, 2, per_run=True))
        assert (own.source, (await load(cache, 1, per_run=True)).source) == ("loader", "l1")
        await cache.flush_writes()
        assert plain.exists(own.key, other.key, shared.key) == 3
        assert agent.history[-1].key == own.key != shared.key
    assert plain.exists(own.key, other.key) == 0
    assert plain.exists(shared.key) == 1
    assert (await load(cache, 1)).source == "l1"
    async with cache.agent("r1"):
        assert (await load(cache, 1, per_run=True)).source == "loader"


async def test_per_run_entries_of_nested_runs_are_apart(cache: AgentCache) -> None:
    async with cache.agent():
        outer = await load(cache, 1, per_run=True)
        async with cache.agent():
            inner = await load(cache, 1, per_run=True)
            assert (inner.source, inner.key != outer.key) == ("loader", True)
        assert (await load(cache, 1, per_run=True)).source == "l1"


async def test_per_run_removes_the_entries_of_other_processes(make_cache: MakeCache) -> None:
    first, second = make_cache(name="test"), make_cache(name="test")
    async with first.agent("r", keep=True):
        await load(first, 1, per_run=True)
        await first.flush_writes()
    async with second.agent("r"):
        assert (await load(second, 1, per_run=True)).source == "l2"
    async with second.agent("r"):
        assert (await load(second, 1, per_run=True)).source == "loader"


async def test_per_run_joins_the_key_beside_the_scope(cache: AgentCache) -> None:
    async with cache.agent("same"):
        own = await load(cache, 1, per_run=True)
        with cache.calls(scope="same"):
            keys = {own.key, (await load(cache, 1)).key, (await load(cache, 1, per_run=True)).key}
    assert len(keys) == 3


async def test_per_run_needs_a_run_of_the_same_cache(cache: AgentCache, memory: AgentCache) -> None:
    with pytest.raises(UsageError, match="per_run"):
        await load(cache, 1, per_run=True)
    async with memory.agent():
        with pytest.raises(UsageError, match="per_run"):
            await load(cache, 1, per_run=True)
        key: Any = memory.tool.key("t", {"n": 1})
        with pytest.raises(UsageError, match="per_run"):
            await memory.tool.get_or_load(key, lambda n: n, per_run=True)  # type: ignore[call-overload]


async def test_per_run_ends_without_an_error_while_valkey_is_away(caplog: pytest.LogCaptureFixture) -> None:
    server = EmbeddedValkey()
    server.start()
    cache = AgentCache.from_url(server.url, name="away")
    try:
        async with cache.agent() as agent:
            await load(cache, 1, per_run=True)
            await cache.flush_writes()
            server.stop()
        assert "removed later" in caplog.text
        async with cache.agent(agent.session_id):
            assert (await load(cache, 1, per_run=True)).source == "loader"

    finally:
        await cache.aclose()
        server.stop()


def test_per_run_entry_ends_with_its_plain_run(url: str) -> None:
    with AgentCache.from_url(url, name="plain").sync as cache:
        for _ in range(2):
            with cache.agent("r") as agent:
                result = cache.tool.get_or_load("t", {"n": 1}, lambda n: n, per_run=True)
            assert (result.source, agent.history[-1].key) == ("loader", result.key)
