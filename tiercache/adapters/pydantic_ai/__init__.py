"""Pydantic AI on a cache: results of tools, and conversations.

Each class is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .conversations import TierCacheConversationStore
    from .tools import TierCacheTools

__all__ = ["TierCacheConversationStore", "TierCacheTools"]

__getattr__ = imported_at_first_use(
    __name__,
    {"TierCacheConversationStore": "conversations", "TierCacheTools": "tools"},
)
