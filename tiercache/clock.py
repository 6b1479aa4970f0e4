"""The two clocks of the cache, injectable together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SYSTEM_CLOCK", "Clock"]


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the time comes from.

    Attributes:
        monotonic: Seconds that never go back, for deadlines and ages.
        wall: Seconds since the epoch, for what is written beside a value.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]


SYSTEM_CLOCK = Clock(monotonic=time.monotonic, wall=time.time)
