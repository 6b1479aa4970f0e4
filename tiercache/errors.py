"""Every error that tiercache raises, under one root. A loader's own exception is never wrapped."""

from __future__ import annotations

__all__ = ["L2CommandError", "L2UnavailableError", "TierCacheError", "UsageError", "WrongLoopError"]


class TierCacheError(Exception):
    """Root of all errors of this package."""


class UsageError(TierCacheError, ValueError):
    """A bad argument or a call at the wrong time. Nothing was stored or deleted."""


class WrongLoopError(UsageError):
    """The cache was used from an event loop other than the one it belongs to, while that one is still open."""


class L2UnavailableError(TierCacheError):
    """Valkey gave no answer: unreachable, too slow, loading or failing over.

    Lookups never raise it (they become misses marked ``degraded``); what must be known to have
    reached Valkey does. A write that raised it may or may not have happened.
    """


class L2CommandError(TierCacheError):
    """Valkey answered and refused: wrong credentials, missing permission, out of memory."""
