"""OpenAI Agents on a cache: a session for the items of a conversation, and cached function tools.

Each name is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .session import TierCacheSession
    from .tools import cache_tools

__all__ = ["TierCacheSession", "cache_tools"]

__getattr__ = imported_at_first_use(
    __name__,
    {"TierCacheSession": "session", "cache_tools": "tools"},
)
