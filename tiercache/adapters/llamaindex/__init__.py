"""LlamaIndex on a cache: a store of keys and values, the messages of chats, and params for the answers of models.

Each name is imported at its first use: ``prepare_params`` needs no LlamaIndex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .chat_store import TierCacheChatStore
    from .kv_store import TierCacheKVStore
    from .memory_store import TierCacheMemoryStore
    from .params import LlamaIndexPrepareOptions, PreparedParams, prepare_params

__all__ = [
    "LlamaIndexPrepareOptions",
    "PreparedParams",
    "TierCacheChatStore",
    "TierCacheKVStore",
    "TierCacheMemoryStore",
    "prepare_params",
]

__getattr__ = imported_at_first_use(
    __name__,
    {
        "LlamaIndexPrepareOptions": "params",
        "PreparedParams": "params",
        "TierCacheChatStore": "chat_store",
        "TierCacheKVStore": "kv_store",
        "TierCacheMemoryStore": "memory_store",
        "prepare_params": "params",
    },
)
