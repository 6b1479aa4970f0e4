"""Interoperability: betterdb-agent-cache and tiercache share one Valkey and one name, and read each other's entries."""

from __future__ import annotations

from typing import Any

import betterdb_agent_cache as betterdb
import pytest
from betterdb_agent_cache.types import LlmStoreOptions, ToolStoreOptions

from tests.requests import HELLO, asking
from tests.support import MakeCache
from tiercache import AgentCache

REQUESTS: list[dict[str, Any]] = [
    HELLO,
    asking("é 👍🏽 \u2028", temperature=0.7, max_tokens=5, stop=["\n"], seed=0),
    {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [{"type": "function", "function": {"name": "b"}}, {"type": "function", "function": {"name": "a"}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "reasoning_effort": "high",
        "prompt_cache_key": "k",
    },
]


@pytest.fixture
def ours(make_cache: MakeCache) -> AgentCache:
    return make_cache(name="test")


@pytest.mark.parametrize("params", REQUESTS)
async def test_interop_reads_llm_entry_of_betterdb(peer: betterdb.AgentCache, ours: AgentCache, params: Any) -> None:
    key = await peer.llm.store(params, "from the peer", LlmStoreOptions(tokens={"input": 3, "output": 4}, ttl=60))
    result = await ours.llm.check(params)
    assert (result.source, result.response, result.key) == ("l2", "from the peer", key)
    assert result.tokens == {"input": 3, "output": 4}
    assert result.cost is not None
    assert result.ttl is not None
    assert 58 < result.ttl <= 60


@pytest.mark.parametrize("params", REQUESTS)
async def test_interop_llm_entry_is_read_by_betterdb(peer: betterdb.AgentCache, ours: AgentCache, params: Any) -> None:
    key = await ours.llm.store(params, "from us", tokens={"input": 3, "output": 4})
    result = await peer.llm.check(params)
    assert (result.hit, result.response, result.key) == (True, "from us", key)
    assert (result.input_tokens, result.output_tokens) == (3, 4)


async def test_interop_content_blocks_pass_both_ways(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    blocks: Any = [{"type": "text", "text": "Hi "}, {"type": "tool_call", "id": "1", "name": "n", "args": {"b": 1}}]
    await peer.llm.store_multipart(HELLO, blocks)
    assert (await ours.llm.check(HELLO)).content_blocks == blocks
    await ours.llm.store_multipart(asking("x"), blocks)
    theirs = await peer.llm.check(asking("x"))
    assert (theirs.response, theirs.content_blocks) == ("Hi ", blocks)


async def test_interop_invalidates_entries_of_both(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.llm.store(HELLO, "x")
    await ours.llm.store(asking("y"), "y")
    assert await ours.llm.invalidate_by_model("gpt-4o") == 2
    await ours.llm.store(HELLO, "x")
    assert await peer.llm.clear() == 1


async def test_interop_misses_on_parameter_that_betterdb_ignores(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.llm.store({**HELLO, "top_k": 1}, "for top_k 1")  # type: ignore[typeddict-unknown-key]
    assert not (await ours.llm.check({**HELLO, "top_k": 2})).hit


@pytest.mark.parametrize("args", [{"city": "Sofia", "n": 1.0}, None, [1, {"b": 1, "a": 2}], "text"])
async def test_interop_tool_results_pass_both_ways(peer: betterdb.AgentCache, ours: AgentCache, args: Any) -> None:
    key = await peer.tool.store("get_weather", args, "from the peer", ToolStoreOptions(cost=0.5, ttl=60))
    result = await ours.tool.check("get_weather", args)
    assert (result.source, result.value, result.cost, result.key) == ("l2", "from the peer", 0.5, key)
    await ours.tool.store("get_weather", args, {"from": "us"})
    theirs = await peer.tool.check("get_weather", args)
    assert (theirs.hit, theirs.response) == (True, '{"from":"us"}')
    assert await peer.tool.invalidate_by_tool("get_weather") == 1


async def test_interop_statistics_add_up_counts_of_both(peer: betterdb.AgentCache, ours: AgentCache) -> None:
    await peer.llm.check(HELLO)
    await peer.llm.store(HELLO, "x", LlmStoreOptions(tokens={"input": 1000, "output": 0}))
    await peer.llm.check(HELLO)
    await ours.llm.check(HELLO)
    await ours.llm.check(HELLO)
    await ours.llm.check(asking("unknown"))
    await peer.tool.check("search", {})
    await ours.tool.check("search", {})
    stats, theirs = await ours.stats(), await peer.stats()
    assert (stats.llm.hits, stats.llm.misses) == (theirs.llm.hits, theirs.llm.misses) == (3, 2)
    assert (stats.tool.misses, stats.per_tool["search"].misses) == (2, 2)
    assert theirs.per_tool["search"].misses == 2
    assert stats.cost_saved_micros == theirs.cost_saved_micros == 3 * 2500
