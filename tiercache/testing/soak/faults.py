"""The faults of a soak: of the network, of Valkey, and of a process. Each is over when its coroutine ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from ...errors import L2CommandError
from ..coherence.server import Server
from ..proxy.chaos_proxy import ChaosProxy
from .child import Child

__all__ = ["FAULTS", "FaultContext", "text_of"]

_LANES: Final = ("bus", "commands", None)
# Seconds after which every process knows a new eviction policy.
_POLICY_SECONDS: Final = 32.0
# Room of a Valkey that evicts, and the entries that push other entries out.
_ROOM_BYTES: Final = 1024 * 1024
_FILLER_BYTES: Final = 32 * 1024


@dataclass(frozen=True)
class FaultContext:
    """The parts of a soak that a fault can affect.

    Attributes:
        rng: Decides the victims and the durations.
        longest: The longest duration of a fault, in seconds.
    """

    proxy: ChaosProxy
    server: Server
    children: Sequence[Child]
    rng: random.Random
    longest: float

    async def last(self, shortest: float = 0.3) -> None:
        """Wait for the duration of a fault."""
        await asyncio.sleep(self.rng.uniform(min(shortest, self.longest), self.longest))

    def lane(self) -> str | None:
        """Return a lane of the proxy, or None for all."""
        return self.rng.choice(_LANES)


async def _cut(on: FaultContext) -> None:
    """Connections are reset."""
    on.proxy.kill(lane=on.lane())


async def _cut_answer(on: FaultContext) -> None:
    """Connections are reset in the middle of an answer."""
    on.proxy.cut_after(on.rng.randrange(4000), lane=on.lane())
    await on.last()


async def _garbage(on: FaultContext) -> None:
    """Garbage replaces an answer, and the connections end."""
    on.proxy.garble(lane=on.lane())
    await on.last()


async def _stall(on: FaultContext) -> None:
    """Bytes stand still, in one direction or in both."""
    on.proxy.stall(on.rng.choice(("to_server", "to_client", "both")), lane=on.lane())
    await on.last()


async def _black_hole(on: FaultContext) -> None:
    """Connections are dead without looking dead."""
    on.proxy.half_open(lane=on.lane())
    await on.last()


async def _slow_link(on: FaultContext) -> None:
    """The link is slow."""
    on.proxy.slow_link(on.rng.choice((20_000, 200_000, 2_000_000)), on.rng.choice((0.01, 0.08)), lane=on.lane())
    await on.last(1.0)


async def _latency(on: FaultContext) -> None:
    """The link has a latency that differs from byte to byte."""
    on.proxy.latency(0.001, on.rng.choice((0.005, 0.05)), lane=on.lane())
    await on.last(1.0)


async def _refuse(on: FaultContext) -> None:
    """Connections are reset, and new ones refused."""
    on.proxy.refuse()
    on.proxy.kill()
    await on.last()


async def _restart(on: FaultContext) -> None:
    """Valkey is killed, and starts again empty."""
    # No process may connect before the new server is ready.
    on.proxy.refuse()
    await on.server.kill()
    await on.last()
    await on.server.start()


async def _freeze(on: FaultContext) -> None:
    """Valkey is stopped (SIGSTOP), and goes on."""
    process_id = int((await on.server.info("server"))["process_id"])
    os.kill(process_id, signal.SIGSTOP)
    try:
        await on.last()
    finally:
        os.kill(process_id, signal.SIGCONT)


async def _flush_all(on: FaultContext) -> None:
    """FLUSHALL."""
    await on.server.execute(("FLUSHALL",))


async def _flush_scripts(on: FaultContext) -> None:
    """SCRIPT FLUSH."""
    await on.server.execute(("SCRIPT", "FLUSH"))


async def _kill_clients(on: FaultContext) -> None:
    """CLIENT KILL of all connections, of the bus or of the others."""
    for kind in on.rng.choice((("normal",), ("pubsub",), ("normal", "pubsub"))):
        await on.server.execute(("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))


async def _out_of_memory(on: FaultContext) -> None:
    """Valkey refuses every write that needs memory."""
    await on.server.execute(("CONFIG", "SET", "maxmemory", 1))
    try:
        await on.last()
    finally:
        await on.server.execute(("CONFIG", "SET", "maxmemory", 0))


async def _evict(on: FaultContext) -> None:
    """Valkey evicts keys at random: entries, leases, indexes, the counter."""
    await on.server.execute(("CONFIG", "SET", "maxmemory-policy", "allkeys-random"))
    try:
        await asyncio.sleep(_POLICY_SECONDS)
        used = int((await on.server.info("memory"))["used_memory"])
        await on.server.execute(("CONFIG", "SET", "maxmemory", used + _ROOM_BYTES))
        for number in range(int(on.longest * 20)):
            # Refused if there is nothing more to evict.
            with suppress(L2CommandError):
                await on.server.execute(("SET", f"filler:{number}", b"x" * _FILLER_BYTES, "PX", 5000))
            await asyncio.sleep(0.05)
    finally:
        await on.server.execute(("CONFIG", "SET", "maxmemory", 0), ("CONFIG", "SET", "maxmemory-policy", "noeviction"))


async def _stop_process(on: FaultContext) -> None:
    """A process is stopped (SIGSTOP), and goes on."""
    child = on.rng.choice(on.children)
    child.suspend()
    try:
        await on.last()
    finally:
        child.resume()


Fault: TypeAlias = Callable[[FaultContext], Awaitable[None]]

FAULTS: Final[dict[str, Fault]] = {
    "cut": _cut,
    "cut_answer": _cut_answer,
    "garbage": _garbage,
    "stall": _stall,
    "black_hole": _black_hole,
    "slow_link": _slow_link,
    "latency": _latency,
    "refuse": _refuse,
    "restart": _restart,
    "freeze": _freeze,
    "flush_all": _flush_all,
    "flush_scripts": _flush_scripts,
    "kill_clients": _kill_clients,
    "out_of_memory": _out_of_memory,
    "evict": _evict,
    "stop_process": _stop_process,
}


def text_of(name: str) -> str:
    """Return the sentence that describes a fault."""
    return FAULTS[name].__doc__ or name
