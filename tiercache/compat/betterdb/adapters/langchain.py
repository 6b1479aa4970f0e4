"""LangChain: betterdb-agent-cache's cache of model answers, on tiercache's."""

from __future__ import annotations

from ....adapters.langchain.llm_cache import TierCacheLLMCache
from ....agent_cache import AgentCache as TierCache
from ..agent_cache import AgentCache, tiercache_of

__all__ = ["BetterDBLlmCache"]


class BetterDBLlmCache(TierCacheLLMCache):
    """TierCacheLLMCache under betterdb-agent-cache's name. It works in plain code too, and has keys of its own.

    Args:
        cache: The cache, of this package or of tiercache.
    """

    def __init__(self, cache: AgentCache | TierCache) -> None:
        super().__init__(tiercache_of(cache))
