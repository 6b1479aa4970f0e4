"""Google ADK on a cache: sessions, and the results of tools.

Each class is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .plugin import TierCachePlugin
    from .session_service import TierCacheSessionService

__all__ = ["TierCachePlugin", "TierCacheSessionService"]

__getattr__ = imported_at_first_use(
    __name__,
    {
        "TierCachePlugin": "plugin",
        "TierCacheSessionService": "session_service",
    },
)
