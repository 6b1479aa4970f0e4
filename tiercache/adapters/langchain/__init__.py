"""LangChain on a cache: model answers, results of tools, embeddings, and the messages of chats.

Each class is imported at its first use: the answers of models do not need LangChain's agents.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .byte_store import TierCacheByteStore
    from .chat_history import TierCacheChatMessageHistory
    from .llm_cache import TierCacheLLMCache
    from .tool_cache import TierCacheToolMiddleware

__all__ = ["TierCacheByteStore", "TierCacheChatMessageHistory", "TierCacheLLMCache", "TierCacheToolMiddleware"]

# The public names, by the module of this folder that has them.
_MODULES: Final = {
    "TierCacheByteStore": "byte_store",
    "TierCacheChatMessageHistory": "chat_history",
    "TierCacheLLMCache": "llm_cache",
    "TierCacheToolMiddleware": "tool_cache",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
