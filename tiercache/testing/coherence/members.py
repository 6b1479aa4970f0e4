"""The replicas of a run: some in this process, some in their own processes, with one interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeVar

import msgspec

from ..child_process import ChildEndedError, ChildProcess, child_process
from .database import Database
from .foreign import ForeignClient
from .history import Event
from .replica import Replica
from .settings import ReplicaSettings
from .worker import (
    Block,
    Finish,
    Finished,
    Invalidate,
    Message,
    ReadAll,
    ReadCrowd,
    Ready,
    Start,
    Stop,
    Stopped,
    Versions,
    Watch,
)

__all__ = ["LocalMember", "Member", "ProcessMember", "local_member", "process_member"]

M = TypeVar("M")

_DECODER = msgspec.json.Decoder[Message](Message)


class Member(Protocol):
    """One replica of a run."""

    settings: ReplicaSettings

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

    def read_crowd(self, first: int, count: int) -> None:
        """Make the replica read ``count`` keys that hold nothing, and do not wait."""
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

    def __init__(self, settings: ReplicaSettings, replica: Replica, tasks: asyncio.TaskGroup) -> None:
        self.settings = settings
        self.name = settings.name
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

    def read_crowd(self, first: int, count: int) -> None:
        self._users.append(self._tasks.create_task(self._replica.read_crowd(first, count)))

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
        foreign = await stack.enter_async_context(ForeignClient(settings.server_url))
        cache = await stack.enter_async_context(settings.cache())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        yield LocalMember(settings, Replica(settings, cache, database, foreign, record), tasks)


class ProcessMember:
    """A replica in its own process."""

    def __init__(
        self, settings: ReplicaSettings, process: ChildProcess[Message], record: Callable[[Event], None]
    ) -> None:
        self.settings = settings
        self.name = process.name
        self._process = process
        self._record = record
        self.suspend = process.suspend
        self.resume = process.resume

    def start(self) -> None:
        self._process.send(Start())

    def invalidate(self, name: str) -> None:
        self._process.send(Invalidate(name))

    def watch(self, name: str) -> None:
        self._process.send(Watch(name))

    def read_crowd(self, first: int, count: int) -> None:
        self._process.send(ReadCrowd(first, count))

    def block(self, seconds: float) -> None:
        """Make the process block its event loop."""
        self._process.send(Block(seconds))

    async def wait_ready(self) -> None:
        """Return when the process has opened its cache."""
        await self._receive(Ready)

    async def stop(self) -> None:
        self._process.send(Stop())
        await self._receive(Stopped)

    async def read_all(self) -> dict[str, int | None]:
        self._process.send(ReadAll())
        return (await self._receive(Versions)).versions

    async def finish(self) -> None:
        self._process.send(Finish())
        while not isinstance(message := await self._process.receive_any(), Finished):
            if isinstance(message, Ready | Stopped | Versions):
                raise ChildEndedError(f"{self.name} sent {message}, although no command asked for a reply")
            self._record(message)

    async def _receive(self, kind: type[M]) -> M:
        return self._process.expect(await self._process.receive_any(), kind)


@asynccontextmanager
async def process_member(settings: ReplicaSettings, record: Callable[[Event], None]) -> AsyncIterator[ProcessMember]:
    """Make a replica in its own process, and kill the process at the end, in every state."""
    async with child_process(settings.name, f"{__package__}.worker", settings, _DECODER) as process:
        yield ProcessMember(settings, process, record)
