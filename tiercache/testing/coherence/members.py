"""The replicas of a run as the run sees them: some in this process, some in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Protocol, TypeVar

import msgspec

from ...errors import TierCacheError
from .history import Event
from .origin import Origin
from .replica import Replica, ReplicaSettings
from .worker import (
    Attend,
    Block,
    Command,
    Finish,
    Finished,
    Invalidate,
    Message,
    ReadAll,
    Ready,
    Start,
    Stop,
    Stopped,
    Versions,
)

__all__ = ["LocalMember", "Member", "ProcessMember", "WorkerEndedError", "local_member", "process_member"]

M = TypeVar("M")

_DECODER = msgspec.json.Decoder[Message](Message)

_LINE_LIMIT = 1024 * 1024
_LAST_WORDS = 4000


class WorkerEndedError(TierCacheError):
    """A process ended before its work was done; the message has what it said."""


class Member(Protocol):
    """One replica of a run."""

    @property
    def name(self) -> str:
        """What the history calls it."""
        ...

    def start(self) -> None:
        """Let the users of the cache begin."""
        ...

    def invalidate(self, name: str) -> None:
        """Have it invalidate a subject, without waiting for that."""
        ...

    def attend(self, name: str) -> None:
        """Have it read a subject more often for a while."""
        ...

    async def stop(self) -> None:
        """Let the users of the cache end, and return when they have."""
        ...

    async def read_all(self) -> dict[str, int | None]:
        """Return what it reads for each subject."""
        ...

    async def finish(self) -> None:
        """Close the cache, and hand in the rest of the history."""
        ...


class LocalMember:
    """A replica in this process."""

    def __init__(self, name: str, replica: Replica, tasks: asyncio.TaskGroup) -> None:
        self.name = name
        self._replica = replica
        self._tasks = tasks
        self._stop = asyncio.Event()
        self._users: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._users.append(self._tasks.create_task(self._replica.run(self._stop)))

    def invalidate(self, name: str) -> None:
        self._users.append(self._tasks.create_task(self._replica.invalidate(name)))

    def attend(self, name: str) -> None:
        self._replica.attend(name)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._users)

    async def read_all(self) -> dict[str, int | None]:
        return await self._replica.read_all()

    async def finish(self) -> None:
        pass  # It has recorded everything already; the cache is closed with the run.


@asynccontextmanager
async def local_member(settings: ReplicaSettings, record: Callable[[Event], None]) -> AsyncIterator[LocalMember]:
    """Make a replica in this process."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(settings.origin_url))
        cache = await stack.enter_async_context(settings.cache())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        yield LocalMember(settings.name, Replica(settings, cache, origin, record), tasks)


class ProcessMember:
    """A replica in a process of its own."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, record: Callable[[Event], None]) -> None:
        self.name = name
        self._process = process
        self._record = record
        self._errors = asyncio.create_task(self._last_words())

    def start(self) -> None:
        self._send(Start())

    def invalidate(self, name: str) -> None:
        self._send(Invalidate(name))

    def attend(self, name: str) -> None:
        self._send(Attend(name))

    def block(self, seconds: float) -> None:
        """Have it block its event loop."""
        self._send(Block(seconds))

    def suspend(self) -> None:
        """Stop the process in the middle of whatever it does, until ``resume``."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    async def wait_ready(self) -> None:
        """Return when its cache is open."""
        await self._receive(Ready)

    async def stop(self) -> None:
        self._send(Stop())
        await self._receive(Stopped)

    async def read_all(self) -> dict[str, int | None]:
        self._send(ReadAll())
        return (await self._receive(Versions)).versions

    async def finish(self) -> None:
        self._send(Finish())
        while not isinstance(message := await self._next(), Finished):
            if isinstance(message, Ready | Stopped | Versions):
                raise WorkerEndedError(f"{self.name} said {message} where it had nothing to answer")
            self._record(message)

    async def end(self) -> None:
        """End the process at once, if it still runs."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._errors

    def _send(self, command: Command) -> None:
        assert self._process.stdin is not None
        # Of one that has ended ``_next`` tells.
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def _receive(self, kind: type[M]) -> M:
        message = await self._next()
        if not isinstance(message, kind):
            raise WorkerEndedError(f"{self.name} said {message} where a {kind.__name__} was expected")
        return message

    async def _next(self) -> Message:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await self._process.wait()
            raise WorkerEndedError(f"{self.name} ended with exit code {code}: {await self._errors}")
        message: Message = _DECODER.decode(line)
        return message

    async def _last_words(self) -> str:
        assert self._process.stderr is not None
        said = b""
        while chunk := await self._process.stderr.read(1024):
            said = (said + chunk)[-_LAST_WORDS:]
        return said.decode(errors="replace").strip()


@asynccontextmanager
async def process_member(settings: ReplicaSettings, record: Callable[[Event], None]) -> AsyncIterator[ProcessMember]:
    """Make a replica in a process of its own, which ends on the way out whatever state it is in.

    Its session is its own: a Ctrl-C in the terminal reaches this process alone.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", f"{__package__}.worker", msgspec.json.encode(settings).decode()),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
        limit=_LINE_LIMIT,
        # Found where this process found it.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    member = ProcessMember(settings.name, process, record)
    try:
        yield member
    finally:
        await member.end()
