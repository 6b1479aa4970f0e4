"""A replica in a process of its own: ``python -m tiercache.testing.coherence.worker SETTINGS``.

Commands come in on standard input, one JSON line each; what it has to say goes out on standard output likewise. The
end of standard input ends the process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import msgspec
from msgspec import Struct

from .history import Event
from .origin import Origin
from .replica import Replica, ReplicaSettings

__all__ = [
    "Attend",
    "Block",
    "Command",
    "Finish",
    "Finished",
    "Invalidate",
    "Message",
    "ReadAll",
    "Ready",
    "Start",
    "Stop",
    "Stopped",
    "Versions",
]


class Start(Struct, frozen=True, tag=True):
    """Let the users of the cache begin."""


class Invalidate(Struct, frozen=True, tag=True):
    """Invalidate a subject. Not answered."""

    name: str


class Attend(Struct, frozen=True, tag=True):
    """Read a subject more often for a while. Not answered."""

    name: str


class Block(Struct, frozen=True, tag=True):
    """Block the event loop. Not answered."""

    seconds: float


class Stop(Struct, frozen=True, tag=True):
    """Let the users of the cache end; answered by ``Stopped`` when they have."""


class ReadAll(Struct, frozen=True, tag=True):
    """Read every subject; answered by ``Versions``."""


class Finish(Struct, frozen=True, tag=True):
    """Close the cache; answered by the events of the history, then by ``Finished``."""


Command: TypeAlias = Start | Invalidate | Attend | Block | Stop | ReadAll | Finish


class Ready(Struct, frozen=True, tag=True):
    """The cache is open."""


class Stopped(Struct, frozen=True, tag=True):
    """The answer to ``Stop``."""


class Versions(Struct, frozen=True, tag=True):
    """The answer to ``ReadAll``: a version for each subject, None for nothing."""

    versions: dict[str, int | None]


class Finished(Struct, frozen=True, tag=True):
    """The end."""


Message: TypeAlias = Ready | Stopped | Versions | Finished | Event

_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder[Command](Command)


def _say(*messages: Message) -> None:
    sys.stdout.buffer.write(b"".join(_ENCODE(message) + b"\n" for message in messages))
    sys.stdout.buffer.flush()


async def _work(settings: ReplicaSettings) -> None:
    events: list[Event] = []
    commands: asyncio.Queue[Command] = asyncio.Queue()
    # Until the loop ends.
    listener = asyncio.create_task(_listen(commands.put_nowait))
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(settings.origin_url))
        cache = await stack.enter_async_context(settings.cache())
        replica = Replica(settings, cache, origin, events.append)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        _say(Ready())
        users: asyncio.Task[None] | None = None
        while not isinstance(command := await commands.get(), Finish):
            match command:
                case Start():
                    users = tasks.create_task(replica.run(stop))
                case Invalidate(name):
                    tasks.create_task(replica.invalidate(name))
                case Attend(name):
                    replica.attend(name)
                case Block(seconds):
                    time.sleep(seconds)  # noqa: ASYNC251 - on purpose
                case Stop():
                    stop.set()
                    if users is not None:
                        await users
                    _say(Stopped())
                case ReadAll():
                    _say(Versions(await replica.read_all()))
    _say(*events, Finished())
    listener.cancel()


async def _listen(receive: Callable[[Command], None]) -> None:
    """Hand over each command that comes in."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        receive(_DECODER.decode(line))
    os._exit(1)  # Whoever started this process is gone.


def main() -> None:
    """Run the replica that the first argument describes."""
    asyncio.run(_work(msgspec.json.decode(sys.argv[1], type=ReplicaSettings)))


if __name__ == "__main__":
    main()
