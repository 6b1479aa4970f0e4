"""The memory side of a runtime: L1, fences, flights, the limits of loads, and the locks of keys that get tags."""

from __future__ import annotations

from collections.abc import Callable

from ...options import ResilienceOptions
from ..entries.overrides import Switches
from ..hooks.calls import HookCalls
from .fences import Fences
from .flights import Flights
from .key_locks import KeyLocks
from .l1 import L1
from .load_limits import LoadLimits
from .pins import PinTable

__all__ = ["Memory"]


class Memory:
    """The state of one runtime in this process. L1 and the pins outlive the runtime; the other parts end with it.

    Args:
        now: The monotonic clock, in seconds.
        hooks: The calls of the hooks of this face.
        switches: The tiers and tools that are disabled at run time.
    """

    def __init__(
        self,
        l1: L1,
        pins: PinTable,
        options: ResilienceOptions,
        now: Callable[[], float],
        hooks: HookCalls,
        switches: Switches,
    ) -> None:
        self.switches = switches
        self.l1 = l1
        self.pins = pins
        self.hooks = hooks
        self.now = now
        self.fences = Fences(now)
        self.flights = Flights(lambda began, is_reported: l1.trusts(began, now(), is_reported=is_reported))
        self.load_limits = LoadLimits(options)
        self.tag_locks = KeyLocks()
