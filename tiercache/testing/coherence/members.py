"""The replicas of a run: some in this process, some in their own processes, with one interface."""

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
from .database import Database
from .history import Event
from .replica import Replica, ReplicaSettings
from .worker import (
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
    Watch,
)

__all__ = ["LocalMember", "Member", "ProcessMember", "WorkerEndedError", "local_member", "process_member"]

M = TypeVar("M")

_DECODER = msgspec.json.Decoder[Message](Message)

_LINE_LIMIT = 1024 * 1024
_MAX_ERROR_BYTES = 4000


class WorkerEndedError(TierCacheError):
    """A process ended too early, or sent an unexpected message; the text has its error output."""


class Member(Protocol):
    """One replica of a run."""

    @property
    def name(self) -> str:
        """The replica's name in the history."""
        ...

    def start(self) -> None:
        """Start the users of the cache."""
        ...

    def invalidate(self, name: str) -> None:
        """Make the replica invalidate a subject, and do not wait."""
        ...

    def watch(self, name: str) -> None:
        """Make the replica read a subject more often for a while."""
        ...

    async def stop(self) -> None:
        """Stop the users of the cache, and return when they have ended."""
        ...

    async def read_all(self) -> dict[str, int | None]:
        """Return the version that the replica reads for each subject."""
        ...

    async def finish(self) -> None:
        """Close the cache, and add the rest of its events to the history."""
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

    def watch(self, name: str) -> None:
        self._replica.watch(name)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._users)

    async def read_all(self) -> dict[str, int | None]:
        return await self._replica.read_all()

    async def finish(self) -> None:
        pass  # All events are recorded already, and the end of the run closes the cache.


@asynccontextmanager
async def local_member(settings: ReplicaSettings, record: Callable[[Event], None]) -> AsyncIterator[LocalMember]:
    """Make a replica in this process."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(settings.database_url))
        cache = await stack.enter_async_context(settings.cache())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        yield LocalMember(settings.name, Replica(settings, cache, database, record), tasks)


class ProcessMember:
    """A replica in its own process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, record: Callable[[Event], None]) -> None:
        self.name = name
        self._process = process
        self._record = record
        self._errors = asyncio.create_task(self._collect_errors())

    def start(self) -> None:
        self._send(Start())

    def invalidate(self, name: str) -> None:
        self._send(Invalidate(name))

    def watch(self, name: str) -> None:
        self._send(Watch(name))

    def block(self, seconds: float) -> None:
        """Make the process block its event loop."""
        self._send(Block(seconds))

    def suspend(self) -> None:
        """Stop the process with SIGSTOP at any point of its work, until ``resume``."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the stopped process."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    async def wait_ready(self) -> None:
        """Return when the process has opened its cache."""
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
                raise WorkerEndedError(f"{self.name} sent {message}, although no command asked for a reply")
            self._record(message)

    async def end(self) -> None:
        """Kill the process if it still runs."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._errors

    def _send(self, command: Command) -> None:
        assert self._process.stdin is not None
        # If the process has ended, ``_next`` raises.
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def _receive(self, kind: type[M]) -> M:
        message = await self._next()
        if not isinstance(message, kind):
            raise WorkerEndedError(f"{self.name} sent {message} instead of a {kind.__name__}")
        return message

    async def _next(self) -> Message:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await self._process.wait()
            raise WorkerEndedError(f"{self.name} ended with exit code {code}: {await self._errors}")
        message: Message = _DECODER.decode(line)
        return message

    async def _collect_errors(self) -> str:
        assert self._process.stderr is not None
        output = b""
        while chunk := await self._process.stderr.read(1024):
            output = (output + chunk)[-_MAX_ERROR_BYTES:]
        return output.decode(errors="replace").strip()


@asynccontextmanager
async def process_member(settings: ReplicaSettings, record: Callable[[Event], None]) -> AsyncIterator[ProcessMember]:
    """Make a replica in its own process, and kill the process at the end, in every state.

    The process has its own session: a Ctrl-C in the terminal reaches only the checker.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", f"{__package__}.worker", msgspec.json.encode(settings).decode()),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
        limit=_LINE_LIMIT,
        # The child imports tiercache from where this process imported it.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    member = ProcessMember(settings.name, process, record)
    try:
        yield member
    finally:
        await member.end()
