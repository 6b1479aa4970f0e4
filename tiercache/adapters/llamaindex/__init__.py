"""LlamaIndex on a cache: a store of keys and values, and the messages of chats.

Each class is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .chat_store import TierCacheChatStore
    from .kv_store import TierCacheKVStore

__all__ = ["TierCacheChatStore", "TierCacheKVStore"]

# The public names, by the module of this folder that has them.
_MODULES: Final = {"TierCacheChatStore": "chat_store", "TierCacheKVStore": "kv_store"}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
