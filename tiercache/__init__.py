"""tiercache: the cache that AI-agent workers put in front of what is slow and costs money."""

from .agent_cache import AgentCache
from .engine.clock import Clock
from .engine.explanation import Explanation
from .engine.mutation import Invalidating
from .engine.ttl import NO_EXPIRY
from .errors import L2CommandError, L2UnavailableError, TierCacheError, UsageError, WrongLoopError
from .monitor.effectiveness import ToolEffectiveness
from .monitor.policies import ToolPolicy
from .monitor.statistics import CacheStats, SessionStats, TierStats, ToolStats
from .options import (
    CoherenceOptions,
    ConnectionOptions,
    DiscoveryOptions,
    L1Options,
    ResilienceOptions,
    TelemetryOptions,
    TierOptions,
    WriteOptions,
)
from .pricing.prices import DEFAULT_COST_TABLE, ModelPrice
from .stats import LocalStats
from .tiers.kv import KvTier
from .tiers.kv_result import MISS, KvResult
from .tiers.llm import LlmTier
from .tiers.llm_key import last_user_turn
from .tiers.llm_result import LlmResponse, LlmResult
from .tiers.prepared import LlmKey, ToolKey
from .tiers.session import SessionTier
from .tiers.tool import ToolTier
from .tiers.tool_result import ToolResult

__all__ = [
    "DEFAULT_COST_TABLE",
    "MISS",
    "NO_EXPIRY",
    "AgentCache",
    "CacheStats",
    "Clock",
    "CoherenceOptions",
    "ConnectionOptions",
    "DiscoveryOptions",
    "Explanation",
    "Invalidating",
    "KvResult",
    "KvTier",
    "L1Options",
    "L2CommandError",
    "L2UnavailableError",
    "LlmKey",
    "LlmResponse",
    "LlmResult",
    "LlmTier",
    "LocalStats",
    "ModelPrice",
    "ResilienceOptions",
    "SessionStats",
    "SessionTier",
    "TelemetryOptions",
    "TierCacheError",
    "TierOptions",
    "TierStats",
    "ToolEffectiveness",
    "ToolKey",
    "ToolPolicy",
    "ToolResult",
    "ToolStats",
    "ToolTier",
    "UsageError",
    "WriteOptions",
    "WrongLoopError",
    "last_user_turn",
]
