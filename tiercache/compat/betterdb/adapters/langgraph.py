"""LangGraph: betterdb-agent-cache's saver of checkpoints, on tiercache's."""

from __future__ import annotations

from ....adapters.langgraph.saver import TierCacheSaver
from ....agent_cache import AgentCache as TierCache
from ..agent_cache import AgentCache, tiercache_of

__all__ = ["BetterDBSaver"]


class BetterDBSaver(TierCacheSaver):
    """TierCacheSaver under betterdb-agent-cache's name. It reads the threads of tiercache alone.

    Args:
        cache: The cache, of this package or of tiercache.

    Every method raises the errors of TierCacheSaver, which are AgentCacheErrors.
    """

    def __init__(self, cache: AgentCache | TierCache) -> None:
        super().__init__(tiercache_of(cache))
