"""All errors of tiercache, with one common base class. An exception of a loader is never wrapped."""

from __future__ import annotations

from typing import Final

__all__ = [
    "PASSING",
    "L2CommandError",
    "L2LoginError",
    "L2NotNowError",
    "L2ReplicaError",
    "L2SilentError",
    "L2UnavailableError",
    "StreamLostError",
    "TierCacheError",
    "UnreadableCheckpointError",
    "UsageError",
    "WrongLoopError",
]


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


class L2ReplicaError(L2UnavailableError):
    """The server is a replica, which may lack the latest changes; nothing is read from it."""


class L2SilentError(L2UnavailableError):
    """Valkey gave no answer within the long deadline of a new connection."""


class L2CommandError(TierCacheError):
    """Valkey answered and refused the command: wrong credentials, missing permission, or out of memory."""


class L2LoginError(L2CommandError):
    """Valkey refused the credentials, or refused them less than ``ResilienceOptions.breaker_pause`` ago."""


class StreamLostError(TierCacheError):
    """An answer that another process streams ended before its last part: that process died, or could not finish it.

    Nothing is stored. The next call starts the stream again.
    """


class UnreadableCheckpointError(TierCacheError):
    """A checkpoint is damaged or incomplete, or contains a class that is not allowed.

    The message names the thread and the reason. No other state is returned in its place.
    """


# The errors of a state of Valkey that may pass. The breaker logs the state, and invalidations are repeated.
PASSING: Final = (L2UnavailableError, L2LoginError)
