"""tiercache: the cache that AI-agent workers put in front of what is slow and costs money."""

from .agent_cache import AgentCache
from .engine.clock import Clock
from .engine.ttl import NO_EXPIRY
from .errors import L2CommandError, L2UnavailableError, TierCacheError, UsageError, WrongLoopError
from .options import L1Options, ResilienceOptions, TierOptions
from .pricing.prices import DEFAULT_COST_TABLE, ModelPrice
from .stats import LocalStats
from .tiers.llm import LlmTier
from .tiers.llm_key import last_user_turn
from .tiers.llm_result import LlmResponse, LlmResult
from .tiers.tool import ToolTier
from .tiers.tool_result import ToolResult

__all__ = [
    "DEFAULT_COST_TABLE",
    "NO_EXPIRY",
    "AgentCache",
    "Clock",
    "L1Options",
    "L2CommandError",
    "L2UnavailableError",
    "LlmResponse",
    "LlmResult",
    "LlmTier",
    "LocalStats",
    "ModelPrice",
    "ResilienceOptions",
    "TierCacheError",
    "TierOptions",
    "ToolResult",
    "ToolTier",
    "UsageError",
    "WrongLoopError",
    "last_user_turn",
]
