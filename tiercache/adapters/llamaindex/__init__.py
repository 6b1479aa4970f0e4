"""LlamaIndex on a cache: a store of keys and values, the messages of chats, and params for the answers of models.

Each name is imported at its first use: ``prepare_params`` needs no LlamaIndex.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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

# The public names, by the module of this folder that has them.
_MODULES: Final = {
    "LlamaIndexPrepareOptions": "params",
    "PreparedParams": "params",
    "TierCacheChatStore": "chat_store",
    "TierCacheKVStore": "kv_store",
    "TierCacheMemoryStore": "memory_store",
    "prepare_params": "params",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
