"""The faults: a coroutine for each, which runs beside the load. When it ends, the fault has ended too."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

from ...errors import L2CommandError
from .fault_context import COMMAND_LANES, FaultContext
from .history import Restart
from .tracking_faults import TRACKING_FAULTS

__all__ = ["FAULTS", "NEEDS_PROCESS", "choose_latency"]

# The ranges of the latency, in seconds each way; a run combines one of them with its fault.
_LATENCIES: Final = ((0.0, 0.0), (0.0, 0.004), (0.002, 0.018))

# Room of a server that evicts: about a hundred of the fillers that push other keys out.
_ROOM_BYTES: Final = 1536 * 1024
_FILLER_BYTES: Final = 16 * 1024


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
        on.begin(f"commands killed ({on.kill_commands()} connections)")


async def _command_cut(on: FaultContext) -> None:
    """Valkey executes commands whose answers are lost."""
    while not on.is_over:
        await on.pause(0.1, 0.3)
        byte_count = on.rng.randrange(100)
        for lane in COMMAND_LANES:
            on.proxy.cut_after(byte_count, lane=lane)
        on.begin("commands cut")


async def _command_stall(on: FaultContext) -> None:
    while not on.is_over:
        await on.pause(0.2, 0.4)
        direction: Literal["to_server", "to_client", "both"] = on.rng.choice(("to_server", "to_client", "both"))
        for lane in COMMAND_LANES:
            on.proxy.stall(direction, lane=lane)
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
        name, lanes = on.rng.choice((("bus", ("bus",)), ("commands", COMMAND_LANES), ("every lane", (None,))))
        for lane in lanes:
            on.proxy.slow_link(speed, round_trip, lane=lane)
        on.begin(f"{speed:,} bytes a second for {name}", count=6)
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


FAULTS: Final[dict[str, Callable[[FaultContext], Awaitable[None]]]] = {
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
    **TRACKING_FAULTS,
}

# Faults that stop a whole process, which must not be the process of the checker.
NEEDS_PROCESS: Final = frozenset({"process_stop", "loop_block"})


def choose_latency(name: str, rng: random.Random) -> tuple[float, float]:
    """Return the range of the latency in a run with the fault ``name``; it may be 0."""
    return (0.0, 0.0) if name == "none" else rng.choice(_LATENCIES)
