"""tiercache: an asyncio cache for AI-agent workers, in process memory in front of Valkey."""

from .adapters.http.answer import Answer
from .adapters.http.calls import Outcome
from .agent_cache import AgentCache
from .agents.history import AgentCall, AgentLoopError, AgentMetrics
from .agents.run import AgentRun, SyncAgentRun
from .clock import Clock
from .decorators.cached import Cached, CallCounts
from .decorators.cached_generator import CachedGenerator
from .decorators.cached_many import CachedMany
from .decorators.items import ItemIterator
from .decorators.options import CachedOptions, CachedToolOptions, MemoizeManyOptions, MemoizeOptions
from .engine.hooks.events import ErrorEvent, HitEvent, InvalidateEvent, LoadEvent, StoreEvent
from .engine.operations.around_change import Invalidating
from .engine.operations.explain import Explanation
from .errors import (
    L2CommandError,
    L2UnavailableError,
    StreamLostError,
    TierCacheError,
    UnreadableCheckpointError,
    UsageError,
    WrongLoopError,
)
from .monitor.effectiveness import ToolEffectiveness
from .monitor.local_stats import LocalStats
from .monitor.statistics import CacheStats, SessionStats, TierStats, ToolStats
from .options import (
    CoherenceOptions,
    ConnectionOptions,
    DiscoveryOptions,
    L1Options,
    ResilienceOptions,
    TelemetryOptions,
    WriteOptions,
)
from .pricing.prices import DEFAULT_COST_TABLE, ModelPrice
from .sync.cache import SyncCache
from .sync.cached import SyncCached, SyncCachedMany
from .sync.cached_generator import SyncCachedGenerator, SyncItemIterator
from .sync.guard import SyncInvalidating
from .sync.kv import SyncKvTier
from .sync.llm import SyncLlmTier
from .sync.session import SyncSessionTier
from .sync.tool import SyncToolTier
from .tier_options import Admission, LlmOptions, SessionOptions, TierOptions
from .tiers.entries import Entry
from .tiers.golden import GoldenAnswer, GoldenReport
from .tiers.keys.key import LlmKey, ToolKey
from .tiers.kv.result import KvResult
from .tiers.kv.tier import KvTier
from .tiers.llm.key import last_user_turn
from .tiers.llm.result import LlmResponse, LlmResult
from .tiers.llm.tier import LlmTier
from .tiers.pinning import Pin
from .tiers.result import MISS, MissType
from .tiers.runtime_settings import RuntimeSettings
from .tiers.session.tier import SessionTier
from .tiers.tool.policies import ToolPolicy
from .tiers.tool.result import ToolResult
from .tiers.tool.tier import ToolTier
from .tiers.warm import WarmProgress, WarmReport
from .ttl import NO_EXPIRY
from .version import __version__

__all__ = [
    "DEFAULT_COST_TABLE",
    "MISS",
    "NO_EXPIRY",
    "Admission",
    "AgentCache",
    "AgentCall",
    "AgentLoopError",
    "AgentMetrics",
    "AgentRun",
    "Answer",
    "CacheStats",
    "Cached",
    "CachedGenerator",
    "CachedMany",
    "CachedOptions",
    "CachedToolOptions",
    "CallCounts",
    "Clock",
    "CoherenceOptions",
    "ConnectionOptions",
    "DiscoveryOptions",
    "Entry",
    "ErrorEvent",
    "Explanation",
    "GoldenAnswer",
    "GoldenReport",
    "HitEvent",
    "InvalidateEvent",
    "Invalidating",
    "ItemIterator",
    "KvResult",
    "KvTier",
    "L1Options",
    "L2CommandError",
    "L2UnavailableError",
    "LlmKey",
    "LlmOptions",
    "LlmResponse",
    "LlmResult",
    "LlmTier",
    "LoadEvent",
    "LocalStats",
    "MemoizeManyOptions",
    "MemoizeOptions",
    "MissType",
    "ModelPrice",
    "Outcome",
    "Pin",
    "ResilienceOptions",
    "RuntimeSettings",
    "SessionOptions",
    "SessionStats",
    "SessionTier",
    "StoreEvent",
    "StreamLostError",
    "SyncAgentRun",
    "SyncCache",
    "SyncCached",
    "SyncCachedGenerator",
    "SyncCachedMany",
    "SyncInvalidating",
    "SyncItemIterator",
    "SyncKvTier",
    "SyncLlmTier",
    "SyncSessionTier",
    "SyncToolTier",
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
    "UnreadableCheckpointError",
    "UsageError",
    "WarmProgress",
    "WarmReport",
    "WriteOptions",
    "WrongLoopError",
    "__version__",
    "last_user_turn",
]
