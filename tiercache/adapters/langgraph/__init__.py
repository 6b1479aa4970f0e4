"""LangGraph on a cache: the saver of checkpoints, the cache of nodes, and the store. Each is imported at its first use.

A part needs the ``langgraph`` extra when it is imported, and not when this folder is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .input_key import node_key
    from .node_cache import TierCacheNodeCache
    from .saver import TierCacheSaver
    from .store import TierCacheStore

__all__ = ["TierCacheNodeCache", "TierCacheSaver", "TierCacheStore", "node_key"]

# The public names, by the module of this folder that has them.
_MODULES: Final[dict[str, str]] = {
    "TierCacheNodeCache": "node_cache",
    "TierCacheSaver": "saver",
    "TierCacheStore": "store",
    "node_key": "input_key",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
