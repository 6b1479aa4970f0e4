"""ValkeyLevel2: reads, ordered writes and scans on one Valkey server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from valkey.asyncio import Valkey
from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ResponseError, ValkeyError

from ..engine.level2 import Command, Delete, Stored, Write, WriteResult
from ..engine.ttl import to_milliseconds
from ..errors import L2CommandError, L2UnavailableError
from .connect import Settings
from .errors import map_error, map_errors

__all__ = ["ValkeyLevel2"]

T = TypeVar("T")

_SCAN_COUNT: Final = 1000
# Above the deadline that an empty exchange has: a slow network must still be able to carry a large batch.
_BYTES_PER_SECOND: Final = 16 * 1024 * 1024
# A first connection resolves names, does a TLS handshake and authenticates.
_CONNECT_DEADLINES: Final = 4


class ValkeyLevel2:
    """A Level2 on a pool of its own, bound to the running loop from the first call on.

    Args:
        settings: How to connect.
        timeout: Seconds for one exchange, from the moment a connection is free.
    """

    def __init__(self, settings: Settings, *, timeout: float) -> None:
        self._timeout = timeout
        self._pool = settings.pool()
        self._client = Valkey(connection_pool=self._pool)
        self._free = asyncio.Semaphore(settings.max_connections)
        self._silent_at = -1.0
        self._reading: list[AbstractConnection] = []

    async def ping(self) -> None:
        await self._within("PING", self._client.ping, self._timeout * _CONNECT_DEADLINES)

    async def get(self, key: str) -> Stored | None:
        value, ttl = await self._within("GET", lambda: self._read([("GET", key), ("PTTL", key)]))
        if isinstance(value, ResponseError):
            if str(value).startswith("WRONGTYPE"):
                return Stored(None, None)
            raise map_error(value, "GET") or value
        if isinstance(ttl, ResponseError):
            raise map_error(ttl, "PTTL") or ttl
        if value is None or ttl == -2:
            return None  # Gone; -2: between the two commands.
        return Stored(value, None if ttl == -1 else ttl / 1000)

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._within("MGET", lambda: self._client.mget(keys))

    async def apply(self, writes: Sequence[Write]) -> list[WriteResult]:
        commands = [_command(write) for write in writes]
        size_bytes = sum(write.size_bytes for write in writes)
        timeout = self._timeout + size_bytes / _BYTES_PER_SECOND
        replies = await self._within("a batch of writes", lambda: self._exchange(commands), timeout)
        return [_result(write, reply) for write, reply in zip(writes, replies, strict=True)]

    async def scan(self, prefix: str) -> AsyncIterator[list[bytes]]:
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
        cursor = 0
        while True:
            scan = partial(self._client.scan, cursor, match=pattern, count=_SCAN_COUNT)
            cursor, keys = await self._within("SCAN", scan)
            if keys:
                yield keys
            if cursor == 0:
                return

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._within("a batch of commands", lambda: self._exchange(commands))
        return [_mapped(reply) for reply in replies]

    async def aclose(self) -> None:
        # What may fail is saying goodbye to a server that is gone; there is nothing left to do or to count.
        with suppress(ValkeyError, OSError):
            await self._pool.disconnect()

    async def _within(self, action: str, exchange: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """Return what ``exchange`` returns, within the deadline; errors are mapped."""
        # No asynccontextmanager: this runs while the loop shuts down, when it starts no asynchronous generator.
        now = asyncio.get_running_loop().time
        queued_at = now()
        # The wait for a connection is outside the deadline: ten thousand reads at once take their turns, and none of
        # them is an outage. Only when others have gone unanswered meanwhile is it no use to try as long again.
        async with self._free:
            if self._silent_at > queued_at:
                raise L2UnavailableError(f"Valkey did not answer others in time ({action} waited for its turn)")
            with map_errors(action):
                try:
                    async with asyncio.timeout(self._timeout if timeout is None else timeout):
                        return await exchange()
                except TimeoutError:
                    self._silent_at = now()
                    raise

    async def _read(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
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
        connection = await self._connection()
        try:
            replies = await _send(connection, commands)
        except BaseException:
            await self._pool.release(connection)
            raise
        self._reading.append(connection)
        return replies

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send ``commands`` in one write and return a reply, or the error in its place, for each."""
        connection = await self._connection()
        try:
            return await _send(connection, commands)
        finally:
            await self._pool.release(connection)

    async def _connection(self) -> AbstractConnection:
        connection: AbstractConnection = await self._pool.get_connection("PIPELINE")  # type: ignore[no-untyped-call]
        return connection


async def _send(connection: AbstractConnection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    # When this is broken off, also by a cancellation, the connection disconnects itself: no reply is left behind.
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await _reply(connection) for _ in commands]


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _mapped(reply: Any) -> Any:
    return (map_error(reply, "a command") or reply) if isinstance(reply, ResponseError) else reply


def _command(write: Write) -> tuple[Any, ...]:
    if isinstance(write, Delete):
        return ("DEL", *write.keys)
    if write.ttl is None:
        return ("SET", write.key, write.value)
    return ("SET", write.key, write.value, "PX", to_milliseconds(write.ttl))


def _result(write: Write, reply: Any) -> WriteResult:
    if isinstance(reply, int):
        return reply
    if isinstance(reply, ResponseError):
        mapped = map_error(reply, "DEL" if isinstance(write, Delete) else "SET")
        return mapped or L2CommandError(str(reply))
    return 1
