"""All errors of tiercache, with one common base class. An exception of a loader is never wrapped."""

from __future__ import annotations

__all__ = ["L2CommandError", "L2NotNowError", "L2UnavailableError", "TierCacheError", "UsageError", "WrongLoopError"]


class TierCacheError(Exception):
    """Base class of all errors of this package."""


class UsageError(TierCacheError, ValueError):
    """A wrong argument, or a call at the wrong time. The call has stored and deleted nothing."""


class WrongLoopError(UsageError):
    """A call from another event loop than the cache's own loop, which is still open."""


class L2UnavailableError(TierCacheError):
    """Valkey gave no answer: it is unreachable, too slow, loading its data, or failing over.

    Lookups never raise this error: they become misses marked ``degraded``. Calls whose caller must know that Valkey was
    reached do raise it. After this error a write may or may not have happened.
    """


class L2NotNowError(L2UnavailableError):
    """Valkey answered that it cannot carry the command out now: it is failing over, or has too few replicas."""


class L2CommandError(TierCacheError):
    """Valkey answered and refused the command: wrong credentials, missing permission, or out of memory."""
