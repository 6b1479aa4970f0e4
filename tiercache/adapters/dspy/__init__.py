"""DSPy on a cache: an object for ``dspy.cache``.

The class is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import imported_at_first_use

if TYPE_CHECKING:
    from .cache import TierCacheDSPy

__all__ = ["TierCacheDSPy"]

__getattr__ = imported_at_first_use(__name__, {"TierCacheDSPy": "cache"})
