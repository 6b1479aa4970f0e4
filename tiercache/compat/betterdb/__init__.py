"""The names of betterdb-agent-cache on tiercache: a program changes its imports alone.

Keys and values in Valkey stay the same, so that both libraries may serve one fleet while it is replaced.
"""

from .agent_cache import AgentCache
from .analytics import Analytics
from .default_cost_table import DEFAULT_COST_TABLE
from .errors import AgentCacheError, AgentCacheUsageError, ValkeyCommandError
from .types import (
    AgentCacheOptions,
    AgentCacheStats,
    BinaryBlock,
    BlockHints,
    ConfigRefreshOptions,
    ContentBlock,
    DiscoveryOptions,
    LlmCacheMessage,
    LlmCacheParams,
    LlmCacheResult,
    LlmStoreOptions,
    ModelCost,
    ReasoningBlock,
    SessionStats,
    TextBlock,
    TierDefaults,
    TierStats,
    ToolCacheResult,
    ToolCallBlock,
    ToolDefinition,
    ToolEffectivenessEntry,
    ToolPolicy,
    ToolResultBlock,
    ToolStats,
    ToolStoreOptions,
)

__all__ = [
    "DEFAULT_COST_TABLE",
    "AgentCache",
    "AgentCacheError",
    "AgentCacheOptions",
    "AgentCacheStats",
    "AgentCacheUsageError",
    "Analytics",
    "BinaryBlock",
    "BlockHints",
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
    "ValkeyCommandError",
]
