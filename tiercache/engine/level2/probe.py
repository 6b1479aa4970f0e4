"""The probe: asks a store whose breaker is open, so that no caller has to wait for the answer.

A lookup that asked a silent store would pay the deadline of an exchange, and of a connection before it. The probe pays
both in the background.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ...errors import TierCacheError
from .breaker import Breaker, GuardedLevel2

__all__ = ["Probe"]


class Probe:
    """Asks ``level2`` while ``breaker`` is open.

    Args:
        pause: Seconds between the opening of the breaker, or the end of a PING, and the next PING.
    """

    def __init__(self, level2: GuardedLevel2, breaker: Breaker, *, pause: float) -> None:
        self._level2 = level2
        self._breaker = breaker
        self._pause = pause

    async def run(self) -> None:
        """Send PINGs whenever the breaker is open, until cancelled. The answer to a PING closes the breaker."""
        while True:
            await self._breaker.wait_open()
            await asyncio.sleep(self._pause)
            if self._breaker.is_open:
                # The breaker records the failure.
                with suppress(TierCacheError):
                    await self._level2.ping()
