"""The parts of a run that a fault can affect, and the lanes of its proxy."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..proxy.chaos_proxy import ChaosProxy
from ..proxy.lanes import bus_or_commands
from .fleet import Fleet
from .history import Event, Fault
from .members import Member, ProcessMember
from .server import Server
from .subjects import SUBJECTS

__all__ = ["COMMAND_LANES", "FaultContext", "lane_of"]

# The lanes of all connections except those for messages. The writes of a replica that tracks have a lane of their own.
COMMAND_LANES: Final = ("commands", "writer")
_TRACKS: Final = b"$8\r\nTRACKING\r\n$2\r\nON\r\n"

_QUIET: Final = [subject.name for subject in SUBJECTS if subject.is_quiet]


def lane_of(opening: bytes) -> str:
    """Return "bus", "writer" or "commands" for a connection whose client has sent ``opening``."""
    lane = bus_or_commands(opening)
    return "writer" if lane == "commands" and _TRACKS in opening else lane


@dataclass
class FaultContext:
    """The parts of a run that a fault can affect.

    Attributes:
        rng: Decides the moments and the victims of the fault.
        seconds: The approximate duration of the load.
        record: Adds an event to the history.
        tasks: Owns the invalidations that run beside the fault.
        latency: The range of the proxy's latency in this run, in seconds each way.
    """

    proxy: ChaosProxy
    server: Server
    fleet: Fleet
    rng: random.Random
    seconds: float
    max_staleness: float
    record: Callable[[Event], None]
    tasks: asyncio.TaskGroup
    latency: tuple[float, float] = (0.0, 0.0)
    _next_quiet: int = field(default=0)

    def __post_init__(self) -> None:
        self.ends_at = time.monotonic() + self.seconds

    @property
    def members(self) -> Sequence[Member]:
        """The replicas that take part now."""
        return self.fleet.members

    @property
    def processes(self) -> list[ProcessMember]:
        """The replicas that have their own process."""
        return [member for member in self.members if isinstance(member, ProcessMember)]

    @property
    def is_over(self) -> bool:
        """Whether the time of the load is over, so that no further fault may begin."""
        return time.monotonic() >= self.ends_at

    async def pause(self, low: float, high: float) -> None:
        """Wait for a random time between ``low`` and ``high`` seconds."""
        await asyncio.sleep(self.rng.uniform(low, high))

    def note(self, text: str) -> None:
        """Add the beginning or the end of a fault to the history."""
        self.record(Fault(time.monotonic(), text))

    def begin(self, text: str, *, count: int = 3, spared: Member | None = None) -> None:
        """Note a fault that has just begun, and make replicas invalidate quiet keys during the fault.

        Args:
            count: The number of keys.
            spared: A replica that cannot invalidate now.
        """
        self.note(text)
        able = [member for member in self.members if member is not spared]
        for _ in range(count):
            self._next_quiet = (self._next_quiet + 1) % len(_QUIET)
            # The second invalidation overtakes the load that follows the first.
            chosen = self.rng.sample(able, min(self.rng.choice((1, 2)), len(able)))
            self.tasks.create_task(self._invalidate_soon(chosen, _QUIET[self._next_quiet]))

    async def _invalidate_soon(self, members: Sequence[Member], name: str) -> None:
        for member in self.members:
            member.watch(name)
        for member in members:
            await self.pause(0, 0.06)
            if member in self.members:  # It may have left.
                member.invalidate(name)

    def kill_commands(self) -> int:
        """Reset all connections except those for messages; return how many there were."""
        return sum(self.proxy.kill(lane=lane) for lane in COMMAND_LANES)

    def apply_latency(self) -> None:
        """Give the proxy the latency of this run. A healed proxy has none."""
        self.proxy.latency(*self.latency)

    def heal(self, text: str) -> None:
        """End every fault of the proxy except the latency."""
        self.proxy.heal()
        self.apply_latency()
        self.note(text)
