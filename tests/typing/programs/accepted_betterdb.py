"""A user's program with the names and the types of betterdb-agent-cache."""

from __future__ import annotations

from typing import assert_type

from tiercache import AgentCache as TierCache
from tiercache.compat.betterdb import (
    AgentCache,
    AgentCacheStats,
    ContentBlock,
    LlmCacheParams,
    LlmCacheResult,
    LlmStoreOptions,
    ModelCost,
    TierDefaults,
    ToolCacheResult,
    ToolEffectivenessEntry,
    ToolPolicy,
    ToolStoreOptions,
)
from tiercache.compat.betterdb.types import AgentCacheOptions, TelemetryOptions


def options(client: object) -> AgentCacheOptions:
    return AgentCacheOptions(
        client=client,
        default_ttl=60,
        tier_defaults={"llm": TierDefaults(ttl=3600)},
        cost_table={"m": ModelCost(input_per_1k=1, output_per_1k=2)},
        telemetry=TelemetryOptions(registry=None),
    )


async def main(tiercache: TierCache) -> None:
    cache = AgentCache(tiercache)
    params: LlmCacheParams = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    blocks: list[ContentBlock] = [{"type": "text", "text": "Hi"}]
    assert_type(await cache.llm.store_multipart(params, blocks, LlmStoreOptions(ttl=60, tokens={"input": 1})), str)
    answer = assert_type(await cache.llm.check(params), LlmCacheResult)
    assert answer.content_blocks == blocks
    await cache.tool.set_policy("search", ToolPolicy(ttl=600))
    await cache.tool.store("search", {"q": 1}, "found", ToolStoreOptions(cost=0.5))
    found = assert_type(await cache.tool.check("search", {"q": 1}), ToolCacheResult)
    assert found.response == "found"
    await cache.session.set("thread", "field", "text", ttl=5)
    assert assert_type(await cache.session.get("thread", "field"), str | None) == "text"
    stats = assert_type(await cache.stats(), AgentCacheStats)
    assert (stats.tool.hit_rate, stats.per_tool["search"].ttl) == (1.0, 600)
    (entry,) = assert_type(await cache.tool_effectiveness(), list[ToolEffectivenessEntry])
    assert entry.recommendation == "increase_ttl"
