"""ValkeyLevel2: reads, ordered writes and scans on one Valkey server."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ResponseError, ValkeyError

from ..engine.level2 import Command, Position, Stored, Track, Write, WriteResult
from ..errors import L2UnavailableError
from .backplane import BusNames, ValkeySubscription
from .commands import WriteCommands
from .connect import Settings, send
from .errors import map_error, map_errors
from .reads import CHUNK_COUNT, BatchReader
from .scripts import script
from .tracking import Tracking

__all__ = ["ValkeyLevel2"]

T = TypeVar("T")

_SCAN_COUNT: Final = 1000
# Indexes trimmed in one exchange, and exchanges at most.
_TRIMMED_COUNT: Final = 20
_MAX_TRIMS: Final = 100
# Above the deadline that an empty exchange has: a slow network must still be able to carry a large batch.
_BYTES_PER_SECOND: Final = 16 * 1024 * 1024
# A first connection resolves names, does a TLS handshake and authenticates.
_CONNECT_DEADLINES: Final = 4


class _Deadline:
    """The time that one exchange has. Making a connection for it has time of its own."""

    def __init__(self, seconds: float, connecting: float) -> None:
        self._seconds = seconds
        self._connecting = connecting
        self._now = asyncio.get_running_loop().time
        self.timeout = asyncio.timeout(seconds)

    def begin_connecting(self) -> None:
        """Grant the time for making a connection."""
        self.timeout.reschedule(self._now() + self._connecting)

    def begin_exchange(self) -> None:
        """Grant the time for the exchange, anew."""
        self.timeout.reschedule(self._now() + self._seconds)


class ValkeyLevel2:
    """A Level2 on a pool of its own, bound to the running loop from the first call on.

    Writes have a connection of their own. When one of its exchanges is broken off, what was sent may still arrive; the
    next connection has the server end the old one before it writes, so that no write lands behind a later one.

    Args:
        settings: How to connect.
        timeout: Seconds for one exchange, from the moment a connection is free.
        name: The cache's.
        origin: What its announcements are signed with.
    """

    def __init__(self, settings: Settings, *, timeout: float, name: str = "betterdb_ac", origin: str = "") -> None:
        self._settings = settings
        self._timeout = timeout
        self._names = BusNames.of(name, settings.db)
        self._ask_number: Command = ("GET", self._names.sequence)
        self._commands = WriteCommands(self._names, origin)
        self._tracking = Tracking(self._names.tracked)
        self._pool = settings.pool()
        self._permit_count = settings.max_connections
        self._free = asyncio.Semaphore(self._permit_count)
        self._silent_at = -1.0
        self._is_closed = False
        self._reading: list[AbstractConnection] = []
        self._writing: AbstractConnection | None = None
        self._writing_id: int | None = None
        self._broken_ids: list[int] = []
        self._batch_reader = BatchReader()

    async def ping(self) -> None:
        (reply,) = await self._within(
            "PING", lambda deadline: self._exchange(deadline, [("PING",)]), self._timeout * _CONNECT_DEADLINES
        )
        if isinstance(reply, ResponseError):
            raise map_error(reply, "PING") or reply

    async def get(self, key: str) -> Stored | None:
        value, ttl = await self._within("GET", lambda deadline: self._read(deadline, [("GET", key), ("PTTL", key)]))
        if isinstance(value, ResponseError):
            if str(value).startswith("WRONGTYPE"):
                return Stored(None, None)
            raise map_error(value, "GET") or value
        if isinstance(ttl, ResponseError):
            raise map_error(ttl, "PTTL") or ttl
        if value is None or ttl == -2:
            return None  # Gone; -2: between the two commands.
        return Stored(value, None if ttl == -1 else ttl / 1000)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        # What the answer weighs is not known beforehand: each chunk has the time of one exchange.
        timeout = self._timeout * max(1, math.ceil(len(keys) / CHUNK_COUNT))
        return await self._within(
            "a read of many keys",
            lambda deadline: self._batch_reader.read(keys, partial(self._read, deadline)),
            timeout,
        )

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        (values,) = await self._within("MGET", lambda deadline: self._read(deadline, [("MGET", *keys)]))
        if isinstance(values, ResponseError):
            raise map_error(values, "MGET") or values
        return list(values)

    async def apply(self, writes: Sequence[Write]) -> list[WriteResult]:
        size_bytes = sum(write.size_bytes for write in writes)
        timeout = self._timeout + size_bytes / _BYTES_PER_SECOND
        return await self._within("a batch of writes", lambda deadline: self._write(deadline, writes), timeout)

    async def scan(self, prefix: str) -> AsyncIterator[list[bytes]]:
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
        cursor: int | bytes = 0
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            (reply,) = await self._within("SCAN", partial(self._read, commands=[command]))
            if isinstance(reply, ResponseError):
                raise map_error(reply, "SCAN") or reply
            cursor, keys = reply
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._within("a batch of commands", lambda deadline: self._exchange(deadline, commands))
        return [_mapped(reply) for reply in replies]

    async def trim_indexes(self) -> None:
        later: list[str] = []
        for _ in range(_MAX_TRIMS):
            page = [self._commands.indexes.pop() for _ in range(min(_TRIMMED_COUNT, len(self._commands.indexes)))]
            if not page:
                break
            replies = await self.execute([("EVAL", script("trim"), 1, index) for index in page])
            # Where there is more to do, it is done next.
            self._commands.indexes.update(index for index, more in zip(page, replies, strict=True) if more == 1)
            later += [index for index, more in zip(page, replies, strict=True) if more == 2]
        self._commands.indexes.update(later)

    async def subscribe(self) -> ValkeySubscription:
        return await ValkeySubscription.open(
            self._settings, self._names.channel, self._timeout, self._timeout * _CONNECT_DEADLINES
        )

    async def position(self) -> Position:
        info, number = await self.execute([("INFO", "server"), ("EVAL", script("position"), 1, self._names.sequence)])
        # Without permission to ask it is not known which server answers: nothing is proved then.
        server = re.search(rb"run_id:(\w+)", info) if isinstance(info, bytes) else None
        return Position(None if server is None else server[1].decode(), _number(number))

    async def last_number(self) -> int:
        (number,) = await self.execute([self._ask_number])
        return _number(number)

    async def aclose(self) -> None:
        self._is_closed = True
        permit_count = 0
        # What may fail is waiting for exchanges under way, or saying goodbye to a server that is gone; there is nothing
        # left to do then, and nothing to count.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                while permit_count < self._permit_count:
                    await self._free.acquire()
                    permit_count += 1
        for _ in range(permit_count):
            self._free.release()  # Who comes now is told that the cache is closed.
        with suppress(ValkeyError, OSError, TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self._pool.disconnect()

    async def _within(
        self, action: str, exchange: Callable[[_Deadline], Awaitable[T]], timeout: float | None = None
    ) -> T:
        """Return what ``exchange`` returns, within the deadline; errors are mapped."""
        # No asynccontextmanager: this runs while the loop shuts down, when it starts no asynchronous generator.
        now = asyncio.get_running_loop().time
        queued_at = now()
        # The wait for a connection is outside the deadline: ten thousand reads at once take their turns, and none of
        # them is an outage. Only when others have gone unanswered meanwhile is it no use to try as long again.
        async with self._free:
            if self._is_closed:
                raise L2UnavailableError(f"the cache was closed ({action})")
            if self._silent_at > queued_at:
                raise L2UnavailableError(f"Valkey did not answer others in time ({action} waited for its turn)")
            with map_errors(action):
                deadline = _Deadline(timeout or self._timeout, self._timeout * _CONNECT_DEADLINES)
                try:
                    async with deadline.timeout:
                        return await exchange(deadline)
                except TimeoutError:
                    self._silent_at = now()
                    await self._drop_idle()
                    raise

    async def _drop_idle(self) -> None:
        """Let go of connections that may be as dead as the one that was not answered on."""
        while self._reading:
            connection = self._reading.pop()
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def _read(self, deadline: _Deadline, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """As ``_exchange``, for commands that may be sent twice.

        The pool looks at each connection before it hands it out, which costs a sixth of a read. A read takes one that
        the last read used, unlooked at, and asks the pool only if that one has died since.
        """
        if self._reading:
            connection = self._reading.pop()
            try:
                replies = await _send(connection, commands)
            except ValkeyConnectionError:
                await self._pool.release(connection)
            except BaseException:
                await self._pool.release(connection)
                raise
            else:
                self._reading.append(connection)
                return replies
        connection = await self._connection(deadline)
        try:
            replies = await _send(connection, commands)
        except BaseException:
            await self._pool.release(connection)
            raise
        self._reading.append(connection)
        return replies

    async def _write(self, deadline: _Deadline, writes: Sequence[Write]) -> list[WriteResult]:
        """Carry out ``writes`` on their connection. One call at a time: the pipe sends a batch after the other."""
        connection = self._writing
        if connection is not None and await _has_died(connection):
            # Between two exchanges: nothing of its can still arrive.
            self._writing = None
            await self._pool.release(connection)
            connection = None
        if connection is None:
            connection = await self._connection_for_writes(deadline)
        tracking = self._tracking
        try:
            tracking.want(writes)
            if tracking.is_due and not self._commands.has_conditions:
                # Leases are taken by scripts there, of which this process would hear as of other processes' changes.
                tracking.refuse("the server has no SET ... IFEQ or no DELIFEQ, which came with Valkey 9.0")
            elif tracking.is_due:
                tracking.answered(await _send(connection, tracking.commands()))
            groups = [self._commands.of(write) for write in writes]
            replies = await _send(connection, [command for group in groups for command in group])
        except BaseException:
            self._writing = None
            if self._writing_id is not None:
                self._broken_ids.append(self._writing_id)
            await self._pool.release(connection)
            raise
        results: list[WriteResult] = []
        start = 0
        for write, group in zip(writes, groups, strict=True):
            own = replies[start : start + len(group)]
            start += len(group)
            results.append(tracking.result(own[0]) if isinstance(write, Track) else self._commands.result(write, own))
        return results

    async def _connection_for_writes(self, deadline: _Deadline) -> AbstractConnection:
        connection = await self._connection(deadline)
        kills = [("CLIENT", "KILL", "ID", broken) for broken in self._broken_ids]
        try:
            asked = self._commands.questions()
            client_id, *replies = await _send(connection, [("CLIENT", "ID"), *asked, *kills])
        except BaseException:
            await self._pool.release(connection)
            raise
        # A user who may not ask or kill goes without: the order then holds unless an exchange is broken off.
        self._writing_id = client_id if isinstance(client_id, int) else None
        self._broken_ids.clear()
        self._commands.answers(replies[: len(asked)])
        self._tracking.connection_changed()
        self._writing = connection
        deadline.begin_exchange()
        return connection

    async def _exchange(self, deadline: _Deadline, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send ``commands`` in one write and return a reply, or the error in its place, for each."""
        connection = await self._connection(deadline)
        try:
            return await _send(connection, commands)
        finally:
            await self._pool.release(connection)

    async def _connection(self, deadline: _Deadline) -> AbstractConnection:
        deadline.begin_connecting()
        connection: AbstractConnection = await self._pool.get_connection("PIPELINE")  # type: ignore[no-untyped-call]
        deadline.begin_exchange()
        return connection


async def _has_died(connection: AbstractConnection) -> bool:
    try:
        return not connection.is_connected or bool(await connection.can_read_destructive())  # type: ignore[no-untyped-call]
    except (ValkeyConnectionError, OSError):
        return True


async def _send(connection: AbstractConnection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    # When this is broken off, also by a cancellation, the connection disconnects itself: no reply is left behind.
    await send(connection, connection.pack_commands(commands))
    return [await _reply(connection) for _ in commands]


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _number(reply: Any) -> int:
    """Return what the counter of changes holds, 0 for nothing or for what is no number; raise if it may not be read."""
    if isinstance(reply, Exception):
        raise reply
    return int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0


def _mapped(reply: Any) -> Any:
    return (map_error(reply, "a command") or reply) if isinstance(reply, ResponseError) else reply
