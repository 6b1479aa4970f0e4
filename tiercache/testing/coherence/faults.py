"""What goes wrong: a coroutine for each fault, which runs beside the load and ends with everything mended."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ..proxy.chaos_proxy import ChaosProxy
from .history import Event, Fault, Restart
from .members import Member, ProcessMember
from .server import Server
from .subjects import SUBJECTS

__all__ = ["FAULTS", "NEEDS_PROCESS", "Field"]

_QUIET: Final = [subject.name for subject in SUBJECTS if subject.role == "quiet"]
# Latencies, in seconds each way, that a fault is combined with.
_LATENCIES: Final = ((0.0, 0.0), (0.0, 0.004), (0.002, 0.018))


@dataclass
class Field:
    """What a fault can lay its hands on.

    Attributes:
        seconds: How long the load is to last, about.
        tasks: Owns what goes on beside the fault.
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
        """The replicas in processes of their own."""
        return [member for member in self.members if isinstance(member, ProcessMember)]

    @property
    def is_over(self) -> bool:
        """Whether no further fault is to begin."""
        return time.monotonic() >= self.ends_at

    async def pause(self, low: float, high: float) -> None:
        """Wait for a random time."""
        await asyncio.sleep(self.rng.uniform(low, high))

    def say(self, text: str) -> None:
        """Put it on record that something happens."""
        self.record(Fault(time.monotonic(), text))

    def strike(self, text: str, *, count: int = 3, spared: Member | None = None) -> None:
        """Say what has just been done, and let somebody invalidate quiet keys while it hurts.

        Args:
            count: How many keys.
            spared: Who cannot do that now.
        """
        self.say(text)
        able = [member for member in self.members if member is not spared]
        for _ in range(count):
            self._next_quiet = (self._next_quiet + 1) % len(_QUIET)
            # A second one overtakes the load that the first makes necessary.
            two = self.rng.sample(able, min(self.rng.choice((1, 2)), len(able)))
            self.tasks.create_task(self._invalidate_soon(two, _QUIET[self._next_quiet]))

    async def _invalidate_soon(self, members: Sequence[Member], name: str) -> None:
        for member in self.members:
            member.attend(name)
        for member in members:
            await self.pause(0, 0.06)
            member.invalidate(name)

    def slow(self) -> None:
        """Bring the latency about that this run has; a healed proxy has none."""
        self.proxy.latency(*self.latency)

    def mend(self, text: str) -> None:
        """Take every fault off the proxy but the latency."""
        self.proxy.heal()
        self.slow()
        self.say(text)


async def _none(on: Field) -> None:
    while not on.is_over:
        on.strike("quiet invalidations")
        await on.pause(0.1, 0.25)


async def _latency(on: Field) -> None:
    on.latency = (0.002, 0.018)
    on.slow()
    await _none(on)


async def _bus_kill(on: Field) -> None:
    while not on.is_over:
        await asyncio.sleep(0.4)
        on.strike(f"bus killed ({on.proxy.kill(lane='bus')} connections)")


async def _bus_stall(on: Field) -> None:
    while True:
        await on.pause(0.2, 0.5)
        on.proxy.stall(lane="bus")
        on.strike("bus stalled", count=8)
        await asyncio.sleep(max(1.5, on.max_staleness * 1.5))
        on.mend("bus goes on")
        if on.is_over:
            return


async def _bus_half_open(on: Field) -> None:
    while True:
        await on.pause(0.2, 0.5)
        on.proxy.half_open(lane="bus")
        on.strike("bus half open", count=8)
        await on.pause(on.max_staleness, on.max_staleness * 1.5)
        if on.is_over:
            return


async def _command_kill(on: Field) -> None:
    while not on.is_over:
        await on.pause(0.1, 0.4)
        on.strike(f"commands killed ({on.proxy.kill(lane='commands')} connections)")


async def _command_cut(on: Field) -> None:
    """Valkey carries a command out, and nobody hears of it."""
    while not on.is_over:
        await on.pause(0.1, 0.3)
        on.proxy.cut_after(on.rng.randrange(100), lane="commands")
        on.strike("commands cut")


async def _command_stall(on: Field) -> None:
    while not on.is_over:
        await on.pause(0.2, 0.4)
        on.proxy.stall(on.rng.choice(("to_server", "to_client", "both")), lane="commands")
        on.strike("commands stalled")
        await on.pause(0.1, 0.6)
        on.mend("commands go on")


async def _restart(on: Field) -> None:
    while True:
        await on.pause(0.3, 0.8)
        on.strike("Valkey is about to be killed")
        await on.pause(0, 0.1)
        # Nobody gets in before the new one is as it should be.
        on.proxy.refuse()
        began = time.monotonic()
        await on.server.kill()
        on.say("Valkey killed")
        await on.pause(0, 0.3)
        await on.server.start()
        on.record(Restart(began, time.monotonic(), forgot=not on.server.persists))
        on.proxy.refuse(False)
        on.strike("Valkey is back" if on.server.persists else "Valkey is back, and empty")
        if on.is_over:
            return


async def _process_stop(on: Field) -> None:
    while True:
        await on.pause(0.2, 0.5)
        process = on.rng.choice(on.processes)
        process.suspend()
        try:
            on.strike(f"{process.name} stopped", count=8, spared=process)
            await asyncio.sleep(on.max_staleness * on.rng.choice((1.2, 1.2, 2.5)))
        finally:
            process.resume()
        on.strike(f"{process.name} goes on")
        if on.is_over:
            return


async def _loop_block(on: Field) -> None:
    while True:
        await on.pause(0.2, 0.5)
        process = on.rng.choice(on.processes)
        process.block(on.max_staleness * 1.3)
        on.strike(f"{process.name} blocked", count=8, spared=process)
        await asyncio.sleep(on.max_staleness * 1.4)
        if on.is_over:
            return


Run: TypeAlias = Callable[[Field], Awaitable[None]]

FAULTS: Final[dict[str, Run]] = {
    "none": _none,
    "latency": _latency,
    "bus_kill": _bus_kill,
    "bus_stall": _bus_stall,
    "bus_half_open": _bus_half_open,
    "command_kill": _command_kill,
    "command_cut": _command_cut,
    "command_stall": _command_stall,
    "restart_empty": _restart,
    "restart_persisted": _restart,
    "process_stop": _process_stop,
    "loop_block": _loop_block,
}

# Faults of a process, which the one that looks on must not have.
NEEDS_PROCESS: Final = frozenset({"process_stop", "loop_block"})


def choose_latency(name: str, rng: random.Random) -> tuple[float, float]:
    """Return the latency that a fault is combined with in a run: sometimes none."""
    return (0.0, 0.0) if name == "none" else rng.choice(_LATENCIES)
