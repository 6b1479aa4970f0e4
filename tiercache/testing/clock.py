"""A clock for tests."""

from __future__ import annotations

import math
from typing import Final

from ..clock import Clock
from ..errors import UsageError

__all__ = ["FakeClock"]

# Far from 0 and far from the wall, so that code which takes one clock for the other goes wrong at once.
_FIRST_MONOTONIC: Final = 1000.0


class FakeClock:
    """A clock that moves when told to: ``AgentCache(..., clock=fake.clock)``.

    Args:
        start: What its wall shows at first, in seconds since the epoch.

    It is the cache's own time: how old what is in L1 is and how long it can be trusted, when the breaker asks again.
    What Valkey and the event loop measure goes on by itself: lifetimes in Valkey, timeouts.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        if not math.isfinite(start):
            raise UsageError(f"start: not a moment: {start!r}")
        self._elapsed = 0.0
        self._clock = Clock(monotonic=lambda: _FIRST_MONOTONIC + self._elapsed, wall=lambda: start + self._elapsed)

    @property
    def clock(self) -> Clock:
        """The same clock at every call; it shows what this object says."""
        return self._clock

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks alike.

        Args:
            seconds: At least 0.

        Raises:
            UsageError: ``seconds`` is negative or not a number: a monotonic clock does not go back.
        """
        if not 0 <= seconds < math.inf:
            raise UsageError(f"seconds: a clock moves forward by a finite time, not by {seconds!r}")
        self._elapsed += seconds
