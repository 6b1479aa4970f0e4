"""The faults: a coroutine for each, which runs beside the load. When it ends, the fault has ended too."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ...errors import L2CommandError
from ..proxy.chaos_proxy import ChaosProxy
from .history import Event, Fault, Restart
from .members import Member, ProcessMember
from .server import Server
from .subjects import SUBJECTS

__all__ = ["FAULTS", "NEEDS_PROCESS", "FaultContext"]

_QUIET: Final = [subject.name for subject in SUBJECTS if subject.is_quiet]
# The ranges of the latency, in seconds each way; a run combines one of them with its fault.
_LATENCIES: Final = ((0.0, 0.0), (0.0, 0.004), (0.002, 0.018))

# Room of a server that evicts: about a hundred of the fillers that push other keys out.
_ROOM_BYTES: Final = 1536 * 1024
_FILLER_BYTES: Final = 16 * 1024


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
    members: Sequence[Member]
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
            member.invalidate(name)

    def apply_latency(self) -> None:
        """Give the proxy the latency of this run. A healed proxy has none."""
        self.proxy.latency(*self.latency)

    def heal(self, text: str) -> None:
        """End every fault of the proxy except the latency."""
        self.proxy.heal()
        self.apply_latency()
        self.note(text)


async def _none(on: FaultContext) -> None:
    while not on.is_over:
        on.begin("quiet invalidations")
        await on.pause(0.1, 0.25)


async def _latency(on: FaultContext) -> None:
    on.latency = (0.002, 0.018)
    on.apply_latency()
    await _none(on)


async def _bus_kill(on: FaultContext) -> None:
    while not on.is_over:
        await asyncio.sleep(0.4)
        on.begin(f"bus killed ({on.proxy.kill(lane='bus')} connections)")


async def _bus_stall(on: FaultContext) -> None:
    while True:
        await on.pause(0.2, 0.5)
        on.proxy.stall(lane="bus")
        on.begin("bus stalled", count=8)
        await asyncio.sleep(max(1.5, on.max_staleness * 1.5))
        on.heal("bus goes on")
        if on.is_over:
            return


async def _bus_half_open(on: FaultContext) -> None:
    while True:
        await on.pause(0.2, 0.5)
        on.proxy.half_open(lane="bus")
        on.begin("bus half open", count=8)
        await on.pause(on.max_staleness, on.max_staleness * 1.5)
        if on.is_over:
            return


async def _command_kill(on: FaultContext) -> None:
    while not on.is_over:
        await on.pause(0.1, 0.4)
        on.begin(f"commands killed ({on.proxy.kill(lane='commands')} connections)")


async def _command_cut(on: FaultContext) -> None:
    """Valkey executes commands whose answers are lost."""
    while not on.is_over:
        await on.pause(0.1, 0.3)
        on.proxy.cut_after(on.rng.randrange(100), lane="commands")
        on.begin("commands cut")


async def _command_stall(on: FaultContext) -> None:
    while not on.is_over:
        await on.pause(0.2, 0.4)
        on.proxy.stall(on.rng.choice(("to_server", "to_client", "both")), lane="commands")
        on.begin("commands stalled")
        await on.pause(0.1, 0.6)
        on.heal("commands go on")


async def _refuse(on: FaultContext) -> None:
    """Connections are reset and new ones refused: writes get lost that Valkey has never received."""
    while True:
        await on.pause(0.2, 0.5)
        on.proxy.refuse()
        on.begin(f"connections refused ({on.proxy.kill()} reset)")
        await on.pause(0.03, 0.2)
        on.heal("connections accepted")
        if on.is_over:
            return


async def _slow_link(on: FaultContext) -> None:
    """The link is slow at times, for one lane or for both: announcements and writes overtake each other by far."""
    while True:
        await on.pause(0.1, 0.3)
        speed, round_trip = on.rng.choice((5_000, 20_000, 100_000)), on.rng.choice((0.02, 0.08, 0.2))
        lane = on.rng.choice(("bus", "commands", None))
        on.proxy.slow_link(speed, round_trip, lane=lane)
        on.begin(f"{speed:,} bytes a second for {lane or 'every lane'}", count=6)
        await on.pause(0.4, 1.2)
        on.heal("the link is fast again")
        if on.is_over:
            return


async def _restart(on: FaultContext) -> None:
    while True:
        await on.pause(0.3, 0.8)
        on.begin("Valkey is about to be killed")
        await on.pause(0, 0.1)
        # No replica may connect before the new server is ready.
        on.proxy.refuse()
        began = time.monotonic()
        await on.server.kill()
        on.note("Valkey killed")
        await on.pause(0, 0.3)
        await on.server.start()
        on.record(Restart(began, time.monotonic(), forgot=not on.server.persists))
        on.proxy.refuse(False)
        on.begin("Valkey is back" if on.server.persists else "Valkey is back, and empty")
        if on.is_over:
            return


async def _process_stop(on: FaultContext) -> None:
    while True:
        await on.pause(0.2, 0.5)
        process = on.rng.choice(on.processes)
        process.suspend()
        try:
            on.begin(f"{process.name} stopped", count=8, spared=process)
            await asyncio.sleep(on.max_staleness * on.rng.choice((1.2, 1.2, 2.5)))
        finally:
            process.resume()
        on.begin(f"{process.name} goes on")
        if on.is_over:
            return


async def _loop_block(on: FaultContext) -> None:
    while True:
        await on.pause(0.2, 0.5)
        process = on.rng.choice(on.processes)
        process.block(on.max_staleness * 1.3)
        on.begin(f"{process.name} blocked", count=8, spared=process)
        await asyncio.sleep(on.max_staleness * 1.4)
        if on.is_over:
            return


async def _evict(on: FaultContext) -> None:
    """Valkey has no room, and evicts keys at random: entries, leases, indexes, the counter of the changes."""
    used = int((await on.server.info("memory"))["used_memory"])
    await on.server.execute(("CONFIG", "SET", "maxmemory", used + _ROOM_BYTES))
    number = 0
    while not on.is_over:
        fillers = range(number, number + 8)
        number += len(fillers)
        # Refused if there is nothing more to evict.
        with suppress(L2CommandError):
            await on.server.execute(*[("SET", f"filler:{each}", b"x" * _FILLER_BYTES) for each in fillers])
        if not number % 64:
            on.begin("Valkey evicts keys, and every index")
            (indexes,) = await on.server.execute(("KEYS", "*:__tc:idx:*"))
            # The server may choose any keys, so also these.
            if indexes:
                await on.server.execute(("DEL", *indexes))
        await on.pause(0, 0.04)
    await on.server.execute(("CONFIG", "SET", "maxmemory", 0))
    on.note("Valkey evicts no more keys")


Run: TypeAlias = Callable[[FaultContext], Awaitable[None]]

FAULTS: Final[dict[str, Run]] = {
    "none": _none,
    "latency": _latency,
    "bus_kill": _bus_kill,
    "bus_stall": _bus_stall,
    "bus_half_open": _bus_half_open,
    "command_kill": _command_kill,
    "command_cut": _command_cut,
    "command_stall": _command_stall,
    "refuse": _refuse,
    "slow_link": _slow_link,
    "restart_empty": _restart,
    "restart_persisted": _restart,
    "evict": _evict,
    "process_stop": _process_stop,
    "loop_block": _loop_block,
}

# Faults that stop a whole process, which must not be the process of the checker.
NEEDS_PROCESS: Final = frozenset({"process_stop", "loop_block"})


def choose_latency(name: str, rng: random.Random) -> tuple[float, float]:
    """Return the range of the latency in a run with the fault ``name``; it may be 0."""
    return (0.0, 0.0) if name == "none" else rng.choice(_LATENCIES)
