"""LangGraph on a cache: the saver of checkpoints, the cache of nodes, and the store. Each is imported at its first use.

A part needs the ``langgraph`` extra when it is imported, and not when this folder is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .input_key import node_key
    from .node_cache import TierCacheNodeCache
    from .saver import TierCacheSaver
    from .store import TierCacheStore

__all__ = ["TierCacheNodeCache", "TierCacheSaver", "TierCacheStore", "node_key"]

__getattr__ = imported_at_first_use(
    __name__,
    {
        "TierCacheNodeCache": "node_cache",
        "TierCacheSaver": "saver",
        "TierCacheStore": "store",
        "node_key": "input_key",
    },
)
