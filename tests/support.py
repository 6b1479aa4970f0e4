"""Clocks for the tests."""

from __future__ import annotations

import time

from tiercache import Clock


class ManualClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.clock = Clock(monotonic=lambda: self.seconds, wall=lambda: 1_700_000_000.0 + self.seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


def frozen_wall(seconds: float) -> Clock:
    """A clock whose wall shows one moment for ever."""
    return Clock(monotonic=time.monotonic, wall=lambda: seconds)
