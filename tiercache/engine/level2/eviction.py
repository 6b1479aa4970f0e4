"""Eviction: whether the server may remove keys when its memory is full.

The server does not report evictions. An index that was evicted and then started again lacks its earlier members, and
nothing shows the loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

from .breaker import GuardedLevel2

__all__ = ["Eviction", "eviction_policy_in", "evicts"]

# Seconds for which an answer counts. People change the server's policy by hand, and seldom.
_ANSWER_SECONDS: Final = 30.0


def eviction_policy_in(info: object) -> str | None:
    """Return the ``maxmemory-policy`` in the reply to INFO memory, or None if the reply names no policy."""
    found = re.search(rb"maxmemory_policy:([\w-]+)", info) if isinstance(info, bytes) else None
    return None if found is None else found[1].decode()


def evicts(policy: str | None) -> bool:
    """Return whether a server with this policy may evict indexes; True if the policy is unknown.

    Indexes expire, so the policies ``volatile-*``, which spare keys without an expiry, do not spare them.
    """
    return policy != "noeviction"


class Eviction:
    """The eviction policy of one server, asked for when needed and remembered for half a minute."""

    def __init__(self, level2: GuardedLevel2, now: Callable[[], float]) -> None:
        self._level2 = level2
        self._now = now
        self._policy: str | None = None
        self._ask_again_at = -math.inf

    async def may_evict(self) -> bool:
        """Return whether the server may evict indexes; True if the server does not report its policy.

        Raises:
            L2UnavailableError: The server did not answer.
        """
        return evicts(await self._current_policy())

    async def _current_policy(self) -> str | None:
        # While the breaker is open this does not ask: each caller also sends other commands, and these raise the error.
        if self._now() >= self._ask_again_at and self._level2.is_answering:
            (info,) = await self._level2.execute([("INFO", "memory")])
            self._policy = eviction_policy_in(info)
            self._ask_again_at = self._now() + _ANSWER_SECONDS
        return self._policy
