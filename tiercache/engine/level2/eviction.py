"""Whether the server makes room by removing keys: what an index has lost that way, nobody tells it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

from .breaker import GuardedLevel2

__all__ = ["Eviction", "policy_in", "takes_any"]

# Seconds for which an answer is good. A policy is changed by hand, now and then.
_GOOD_SECONDS: Final = 30.0


def policy_in(info: object) -> str | None:
    """Return the ``maxmemory-policy`` that the reply to INFO memory names, None if it names none."""
    found = re.search(rb"maxmemory_policy:([\w-]+)", info) if isinstance(info, bytes) else None
    return None if found is None else found[1].decode()


def takes_any(policy: str | None) -> bool:
    """Return whether a server of this policy may remove keys that do not expire. One that is not known may."""
    return policy is None or policy.startswith("allkeys-")


class Eviction:
    """What one connection's server does when it is full. Asked when it matters, and not again for half a minute."""

    def __init__(self, level2: GuardedLevel2, now: Callable[[], float]) -> None:
        self._level2 = level2
        self._now = now
        self._policy: str | None = None
        self._ask_at = -math.inf

    async def may_take_any(self) -> bool:
        """Return whether it may remove keys that do not expire. A server that does not say may.

        Raises:
            L2UnavailableError: No answer.
        """
        return takes_any(await self._asked())

    async def may_take_expiring(self) -> bool:
        """As ``may_take_any``, for keys that expire."""
        return await self._asked() != "noeviction"

    async def _asked(self) -> str | None:
        # While there is no answer to be had, whoever wants to know has other things to ask, and learns it from those.
        if self._now() >= self._ask_at and self._level2.is_answering:
            (info,) = await self._level2.execute([("INFO", "memory")])
            self._policy = policy_in(info)
            self._ask_at = self._now() + _GOOD_SECONDS
        return self._policy
