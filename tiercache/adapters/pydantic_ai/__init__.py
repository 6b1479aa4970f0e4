"""Pydantic AI on a cache: results of tools, and conversations.

Each class is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .conversations import TierCacheConversationStore
    from .tools import TierCacheTools

__all__ = ["TierCacheConversationStore", "TierCacheTools"]

# The public names, by the module of this folder that has them.
_MODULES: Final = {"TierCacheConversationStore": "conversations", "TierCacheTools": "tools"}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
