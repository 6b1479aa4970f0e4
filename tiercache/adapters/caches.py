"""The cache of an adapter: the check of the argument, and the log."""

from __future__ import annotations

from ..agent_cache import AgentCache
from ..errors import L2CommandError, L2UnavailableError, UsageError
from ..log import CacheLog

__all__ = ["UNAVAILABLE", "check_cache", "log_of"]

# The errors with which Valkey is no help, and an adapter that caches goes on without it.
UNAVAILABLE = (L2UnavailableError, L2CommandError)


def check_cache(cache: object) -> AgentCache:
    """Return ``cache``.

    Raises:
        UsageError: ``cache`` is not an AgentCache.
    """
    if not isinstance(cache, AgentCache):
        raise UsageError(f"cache must be an AgentCache, not {type(cache).__name__}")
    return cache


def log_of(cache: AgentCache) -> CacheLog:
    """Return the log of ``cache``."""
    return cache._parts.shared.log
