"""The faults of tracking: the server loses the keys that it tracks for a replica, or replicas track differently."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from .fault_context import FaultContext
from .settings import TRACKINGS

__all__ = ["TRACKING_FAULTS"]

# The size of a tiny table of tracked keys, and the keys that a replica reads to fill it.
_TABLE_KEYS: Final = 1000
_CROWD_KEYS: Final = 5000


async def _writer_kill(on: FaultContext) -> None:
    """The connection of the writes of one replica ends: the server forgets the keys that it has tracked for it."""
    while not on.is_over:
        await on.pause(0.2, 0.8)
        writers = await _writers(on)
        if writers and on.rng.random() < 0.7:
            await on.server.execute(("CLIENT", "KILL", "ID", on.rng.choice(writers)))
            on.begin("the connection of the writes of one replica killed")
        else:
            on.begin(f"commands killed ({on.kill_commands()} connections)")


async def _writer_loss(on: FaultContext) -> None:
    """The connections of the writes end, and no new one gets as far as tracking. All other connections work."""
    while True:
        await on.pause(0.2, 0.5)
        on.proxy.stall("to_server", lane="writer")
        on.begin("no connection of writes works", count=8)
        goes_on_at = time.monotonic() + on.max_staleness * on.rng.uniform(1.2, 2.0)
        while time.monotonic() < goes_on_at:
            # At once, so that the replicas do not wait for answers that do not come.
            on.proxy.kill(lane="writer")
            await asyncio.sleep(0.01)
        on.heal("connections of writes work")
        if on.is_over:
            return


async def _writers(on: FaultContext) -> list[str]:
    """Return the ids of the connections on which replicas write and track."""
    (reply,) = await on.server.execute(("CLIENT", "LIST"))
    clients = [dict(part.partition("=")[::2] for part in line.split()) for line in reply.decode().splitlines()]
    # Flags: t tracks, P has subscribed.
    return [client["id"] for client in clients if "t" in client["flags"] and "P" not in client["flags"]]


async def _small_table(on: FaultContext) -> None:
    """The server's table of tracked keys becomes tiny during the run, and replicas read more keys than it holds."""
    await on.pause(0.3, 0.8)
    await on.server.execute(("CONFIG", "SET", "tracking-table-max-keys", _TABLE_KEYS))
    first = 0
    while not on.is_over:
        on.rng.choice(on.members).read_crowd(first, _CROWD_KEYS)
        first += _CROWD_KEYS
        on.begin("the server tracks few keys, and a replica reads many")
        await on.pause(0.3, 0.8)


async def _join(on: FaultContext) -> None:
    """Replicas leave, and others join that track as before or differently."""
    while not on.is_over:
        on.begin("quiet invalidations")
        await on.pause(0.2, 0.6)
        member = on.rng.choice(on.members)
        tracking = on.rng.choice((member.settings.tracking, *TRACKINGS))
        on.note(f"{member.name} leaves")
        await on.fleet.replace(member, tracking)
    # The last one to join follows the others.
    await asyncio.sleep(on.max_staleness)


TRACKING_FAULTS: Final[dict[str, Callable[[FaultContext], Awaitable[None]]]] = {
    "writer_kill": _writer_kill,
    "writer_loss": _writer_loss,
    "small_table": _small_table,
    "join": _join,
}
