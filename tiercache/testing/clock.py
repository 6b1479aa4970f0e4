"""The fake clock: a clock that a test moves."""

from __future__ import annotations

import math
from typing import Final

from ..clock import Clock
from ..errors import UsageError

__all__ = ["FakeClock"]

# Far from 0 and far from the wall clock, so that code which confuses the two clocks fails at once.
_FIRST_MONOTONIC: Final = 1000.0


class FakeClock:
    """A clock that moves only by ``advance``: ``AgentCache(..., clock=fake.clock)``.

    Args:
        start: The first value of the wall clock, in seconds since the epoch.

    This clock drives the cache's own times: the age of L1 entries, the end of their trust, the next attempt of the
    breaker. Valkey and the event loop keep their own clocks: lifetimes in Valkey and timeouts pass in real time.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        if not math.isfinite(start):
            raise UsageError(f"start must be a finite number of seconds since the epoch, not {start!r}")
        self._elapsed = 0.0
        self._clock = Clock(monotonic=lambda: _FIRST_MONOTONIC + self._elapsed, wall=lambda: start + self._elapsed)

    @property
    def clock(self) -> Clock:
        """The clock for the cache. Every access returns the same object."""
        return self._clock

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by ``seconds``.

        Args:
            seconds: At least 0.

        Raises:
            UsageError: ``seconds`` is negative or not finite: a monotonic clock does not go back.
        """
        if not 0 <= seconds < math.inf:
            raise UsageError(f"seconds must be finite and at least 0, because a clock moves forward, not {seconds!r}")
        self._elapsed += seconds
