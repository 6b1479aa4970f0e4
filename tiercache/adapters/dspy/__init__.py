"""DSPy on a cache: an object for ``dspy.cache``.

The class is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import TierCacheDSPy

__all__ = ["TierCacheDSPy"]


def __getattr__(name: str) -> Any:
    if name != "TierCacheDSPy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.cache").TierCacheDSPy
