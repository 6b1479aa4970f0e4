"""LangChain on a cache: model answers, results of tools, embeddings, and the messages of chats.

Each class is imported at its first use: the answers of models do not need LangChain's agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .byte_store import TierCacheByteStore
    from .chat_history import TierCacheChatMessageHistory
    from .llm_cache import TierCacheLLMCache
    from .tool_cache import TierCacheToolMiddleware

__all__ = ["TierCacheByteStore", "TierCacheChatMessageHistory", "TierCacheLLMCache", "TierCacheToolMiddleware"]

__getattr__ = imported_at_first_use(
    __name__,
    {
        "TierCacheByteStore": "byte_store",
        "TierCacheChatMessageHistory": "chat_history",
        "TierCacheLLMCache": "llm_cache",
        "TierCacheToolMiddleware": "tool_cache",
    },
)
