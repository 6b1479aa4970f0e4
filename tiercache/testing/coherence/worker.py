"""A replica in its own process: ``python -m tiercache.testing.coherence.worker SETTINGS``.

The process reads commands from standard input and writes messages to standard output, one JSON line each. The end of
standard input ends the process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import TypeAlias

import msgspec
from msgspec import Struct

from ..child_process import listen
from .database import Database
from .foreign import ForeignClient
from .history import Event
from .replica import Replica
from .settings import ReplicaSettings

__all__ = [
    "Block",
    "Command",
    "Finish",
    "Finished",
    "Invalidate",
    "Message",
    "ReadAll",
    "ReadCrowd",
    "Ready",
    "Start",
    "Stop",
    "Stopped",
    "Versions",
    "Watch",
]


class Start(Struct, frozen=True, tag=True):
    """Start the users of the cache."""


class Invalidate(Struct, frozen=True, tag=True):
    """Invalidate a subject. There is no reply."""

    name: str


class Watch(Struct, frozen=True, tag=True):
    """Read a subject more often for a while. There is no reply."""

    name: str


class ReadCrowd(Struct, frozen=True, tag=True):
    """Read many keys that hold nothing. There is no reply."""

    first: int
    count: int


class Block(Struct, frozen=True, tag=True):
    """Block the event loop. There is no reply."""

    seconds: float


class Stop(Struct, frozen=True, tag=True):
    """Stop the users of the cache; the reply is ``Stopped`` when they have ended."""


class ReadAll(Struct, frozen=True, tag=True):
    """Read every subject; the reply is ``Versions``."""


class Finish(Struct, frozen=True, tag=True):
    """Close the cache; the reply is all events of the history, and then ``Finished``."""


Command: TypeAlias = Start | Invalidate | Watch | ReadCrowd | Block | Stop | ReadAll | Finish


class Ready(Struct, frozen=True, tag=True):
    """The cache is open."""


class Stopped(Struct, frozen=True, tag=True):
    """The reply to ``Stop``."""


class Versions(Struct, frozen=True, tag=True):
    """The reply to ``ReadAll``: the version of each subject, or None if the cache has no value."""

    versions: dict[str, int | None]


class Finished(Struct, frozen=True, tag=True):
    """The last message."""


Message: TypeAlias = Ready | Stopped | Versions | Finished | Event

_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder[Command](Command)


def _send(*messages: Message) -> None:
    sys.stdout.buffer.write(b"".join(_ENCODE(message) + b"\n" for message in messages))
    sys.stdout.buffer.flush()


async def _work(settings: ReplicaSettings) -> None:
    events: list[Event] = []
    commands: asyncio.Queue[Command] = asyncio.Queue()
    # Runs until the end of ``_work``.
    listener = asyncio.create_task(listen(_DECODER, commands.put_nowait))
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(settings.database_url))
        foreign = await stack.enter_async_context(ForeignClient(settings.server_url))
        cache = await stack.enter_async_context(settings.cache())
        replica = Replica(settings, cache, database, foreign, events.append)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        _send(Ready())
        users: asyncio.Task[None] | None = None
        while not isinstance(command := await commands.get(), Finish):
            match command:
                case Start():
                    users = tasks.create_task(replica.run(stop))
                case Invalidate(name):
                    tasks.create_task(replica.invalidate(name))
                case Watch(name):
                    replica.watch(name)
                case ReadCrowd(first, count):
                    tasks.create_task(replica.read_crowd(first, count))
                case Block(seconds):
                    time.sleep(seconds)  # noqa: ASYNC251 - the fault is a blocked loop
                case Stop():
                    stop.set()
                    if users is not None:
                        await users
                    _send(Stopped())
                case ReadAll():
                    _send(Versions(await replica.read_all()))
    _send(*events, Finished())
    listener.cancel()


def main() -> None:
    """Run the replica that the first argument describes."""
    asyncio.run(_work(msgspec.json.decode(sys.argv[1], type=ReplicaSettings)))


if __name__ == "__main__":
    main()
