"""Google ADK on a cache: sessions, and the results of tools.

Each class is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .plugin import TierCachePlugin
    from .session_service import TierCacheSessionService

__all__ = ["TierCachePlugin", "TierCacheSessionService"]

# The public names, by the module of this folder that has them.
_MODULES: Final = {
    "TierCachePlugin": "plugin",
    "TierCacheSessionService": "session_service",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
