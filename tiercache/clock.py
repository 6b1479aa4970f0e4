"""The clock of a cache: monotonic time and wall time, which tests replace together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SYSTEM_CLOCK", "Clock"]


@dataclass(frozen=True, slots=True)
class Clock:
    """The source of the time.

    Attributes:
        monotonic: Returns seconds that never go back, for deadlines and ages.
        wall: Returns seconds since the epoch, for the timestamps stored with values.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]


SYSTEM_CLOCK = Clock(monotonic=time.monotonic, wall=time.time)
