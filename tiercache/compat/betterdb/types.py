"""The options and the results of betterdb-agent-cache.

A class of tiercache with the same fields serves under both names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...monitor.effectiveness import ToolEffectiveness as ToolEffectivenessEntry
from ...monitor.statistics import CacheStats as AgentCacheStats
from ...monitor.statistics import SessionStats, TierStats, ToolStats
from ...pricing.prices import ModelPrice as ModelCost
from ...tiers.tool.policies import ToolPolicy
from ...ttl import Ttl
from .blocks import (
    BinaryBlock,
    BlockHints,
    CacheControlHint,
    ContentBlock,
    LlmCacheMessage,
    LlmCacheParams,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolDefinition,
    ToolResultBlock,
)

__all__ = [
    "AgentCacheOptions",
    "AgentCacheStats",
    "AnalyticsOptions",
    "BinaryBlock",
    "BlockHints",
    "CacheControlHint",
    "ConfigRefreshOptions",
    "ContentBlock",
    "DiscoveryOptions",
    "LlmCacheMessage",
    "LlmCacheParams",
    "LlmCacheResult",
    "LlmStoreOptions",
    "ModelCost",
    "ReasoningBlock",
    "SessionStats",
    "TelemetryOptions",
    "TextBlock",
    "TierDefaults",
    "TierStats",
    "ToolCacheResult",
    "ToolCallBlock",
    "ToolDefinition",
    "ToolEffectivenessEntry",
    "ToolPolicy",
    "ToolResultBlock",
    "ToolStats",
    "ToolStoreOptions",
]


@dataclass
class TierDefaults:
    """The lifetime of a tier's entries: ``TierOptions.ttl``."""

    ttl: Ttl | None = None


@dataclass
class TelemetryOptions:
    """Names for telemetry, as in ``tiercache.TelemetryOptions``."""

    tracer_name: str = "@betterdb/agent-cache"
    metrics_prefix: str = "agent_cache"
    registry: Any = None


@dataclass
class AnalyticsOptions:
    """Not used: tiercache sends data to the caller's Valkey alone."""

    disabled: bool = False
    stats_interval_s: float = 300.0


@dataclass
class ConfigRefreshOptions:
    """Not used, and a changed value is logged: tiercache reads changed policies by itself."""

    enabled: bool = True
    interval_ms: int = 30_000


@dataclass
class DiscoveryOptions:
    """Whether BetterDB Monitor finds the cache. A changed value of the two other options is logged, and not used."""

    enabled: bool = True
    heartbeat_interval_ms: int = 30_000
    include_tool_policies: bool = True


@dataclass
class AgentCacheOptions:
    """The options of a cache; ``tiercache.AgentCache`` describes them.

    Args:
        client: A ``valkey.asyncio.Valkey``. The cache takes its settings, and makes connections of its own.
        tier_defaults: Lifetimes for ``"llm"``, ``"tool"`` and ``"session"``.
        cost_table: Prices that win over the bundled table.
        use_default_cost_table: False leaves the bundled table out.
    """

    client: Any
    name: str = "betterdb_ac"
    default_ttl: Ttl | None = None
    tier_defaults: dict[str, TierDefaults] = field(default_factory=dict)
    cost_table: dict[str, ModelCost] = field(default_factory=dict)
    use_default_cost_table: bool = True
    telemetry: TelemetryOptions = field(default_factory=TelemetryOptions)
    analytics: AnalyticsOptions = field(default_factory=AnalyticsOptions)
    config_refresh: ConfigRefreshOptions = field(default_factory=ConfigRefreshOptions)
    discovery: DiscoveryOptions = field(default_factory=DiscoveryOptions)


@dataclass
class LlmStoreOptions:
    """The lifetime of an answer, and its token counts: ``{"input": 12, "output": 34}``."""

    ttl: Ttl | None = None
    tokens: dict[str, int] | None = None


@dataclass
class ToolStoreOptions:
    """The lifetime of a result, and the dollars that its call cost."""

    ttl: Ttl | None = None
    cost: float | None = None


@dataclass
class LlmCacheResult:
    """The outcome of ``llm.check``. A miss has no response, no blocks and no key."""

    hit: bool
    tier: str = "llm"
    response: str | None = None
    content_blocks: list[ContentBlock] | None = None
    key: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class ToolCacheResult:
    """The outcome of ``tool.check``. A miss has no response and no key."""

    hit: bool
    tool_name: str = ""
    tier: str = "tool"
    response: str | None = None
    key: str | None = None
