"""Connection pools: exchanges in no particular order. The store uses one for everything but writes and messages.

There are two kinds:

1. ``SharedConnection``: all exchanges share one multiplexed connection.
2. ``PlainPool``: each exchange has a plain connection to itself. A cache uses this pool for fakes and with
   ``multiplexed=False``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ValkeyError

from ...engine.level2.writes import Command
from ...errors import L2UnavailableError
from .connection import PlainConnection, open_multiplexed, open_plain
from .multiplexed import MultiplexedConnection
from .packing import pack
from .roles import ReplicaError
from .settings import Settings

__all__ = ["ConnectionPool", "PlainPool", "SharedConnection", "open_pool"]


class ConnectionPool(Protocol):
    """Sends commands at any time, on a connection that it opens if needed.

    Raises:
        valkey.exceptions.ConnectionError, TimeoutError: As for a Connection.
        L2UnavailableError: The pool was closed.
    """

    def exchange(
        self, commands: Sequence[Command], timeout: float, *, may_repeat: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        """Send ``commands`` in one write; return a reply, or a ResponseError as its reply, for each.

        Args:
            timeout: Seconds without a byte, counted from the moment when a connection is free. Opening a connection
                has a deadline of its own.
            may_repeat: Whether the commands may be sent once more, on another connection, if the connection turns out
                to have ended.
        """
        ...

    def read(self, key: str, timeout: float) -> Coroutine[Any, Any, list[Any]]:
        """Send GET and PTTL of ``key``, as ``exchange`` with ``may_repeat``."""
        ...

    def leave(self, error: Exception) -> None:
        """Use none of the open connections again, because of ``error``. The next exchange makes a new one."""
        ...

    async def aclose(self) -> None:
        """Wait for the exchanges in flight, then close the connections. Never raises for a server that is gone."""
        ...


def open_pool(settings: Settings, *, timeout: float, connect_timeout: float) -> ConnectionPool:
    """Return the kind of pool that ``settings`` allow. The first exchange connects.

    Args:
        timeout: Seconds that ``aclose`` waits for exchanges in flight.
        connect_timeout: Seconds to open a connection.
    """
    kind = SharedConnection if settings.is_multiplexed else PlainPool
    return kind(settings, timeout=timeout, connect_timeout=connect_timeout)


class SharedConnection:
    """A ConnectionPool of one multiplexed connection. Arguments as for ``open_pool``."""

    def __init__(self, settings: Settings, *, timeout: float, connect_timeout: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._connection: MultiplexedConnection | None = None
        self._opening: asyncio.Task[MultiplexedConnection] | None = None
        self._is_closed = False

    def exchange(
        self, commands: Sequence[Command], timeout: float, *, may_repeat: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._send(pack(commands), len(commands), timeout, may_repeat)

    def read(self, key: str, timeout: float) -> Coroutine[Any, Any, list[Any]]:
        return self._send(_packed_read(key), 2, timeout, True)

    async def _send(self, packed: bytes, count: int, timeout: float, may_repeat: bool) -> list[Any]:
        connection = self._connection
        if connection is not None and connection.is_open:
            try:
                if connection.is_full:
                    await connection.wait_room()
                return await connection.send(packed, count, timeout)
            except ValkeyConnectionError:
                # The server may have closed an idle connection; this process may notice that only when it uses it.
                if not may_repeat or self._is_closed:
                    raise
        connection = await self._opened()
        if connection.is_full:
            await connection.wait_room()
        return await connection.send(packed, count, timeout)

    async def _opened(self) -> MultiplexedConnection:
        """Return an open connection. Callers that arrive while one is being opened share it."""
        if self._is_closed:
            raise L2UnavailableError("the cache was closed")
        if self._connection is not None and self._connection.is_open:
            return self._connection
        # An eager task may have ended before ``create_task`` returned.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="tiercache-connect")
            self._opening.add_done_callback(_retrieve_error)
        # Shielded: the cancellation of one caller must not stop the opening for the others.
        return await asyncio.shield(self._opening)

    async def _open(self) -> MultiplexedConnection:
        try:
            self._connection = await open_multiplexed(self._settings, self._connect_timeout)
            return self._connection
        finally:
            self._opening = None

    def leave(self, error: Exception) -> None:
        if self._connection is not None:
            self._connection.leave(error)

    async def aclose(self) -> None:
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._connection is not None:
            # The reply to this PING comes after the replies to all exchanges in flight. The wait may fail, or the
            # server may be gone; the connection is closed in any case.
            with suppress(ValkeyError, OSError, TimeoutError):
                await self._connection.exchange([("PING",)], self._timeout)
            await self._connection.aclose()


def _packed_read(key: str) -> bytes:
    """Return GET and PTTL of ``key`` as they are sent, in a third of the time of ``pack``.

    Most calls that miss L1 end in this read.
    """
    data = key.encode()
    size = len(data)
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (size, data, size, data)


def _retrieve_error(task: asyncio.Task[MultiplexedConnection]) -> None:
    """Keep asyncio from logging an error that no caller retrieved: every caller still waiting receives it."""
    if not task.cancelled():
        task.exception()


class PlainPool:
    """A ConnectionPool of plain connections, at most ``settings.max_connections``. Arguments as for ``open_pool``."""

    def __init__(self, settings: Settings, *, timeout: float, connect_timeout: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._permits = asyncio.Semaphore(settings.max_connections)
        self._idle: list[PlainConnection] = []
        self._busy: set[PlainConnection] = set()
        self._timed_out_at = -1.0
        self._is_closed = False

    def read(self, key: str, timeout: float) -> Coroutine[Any, Any, list[Any]]:
        return self.exchange([("GET", key), ("PTTL", key)], timeout, may_repeat=True)

    async def exchange(self, commands: Sequence[Command], timeout: float, *, may_repeat: bool = False) -> list[Any]:
        now = asyncio.get_running_loop().time
        queued_at = now()
        # The wait for a permit is outside the deadline: ten thousand reads at once take turns, which is no outage.
        async with self._permits:
            if self._is_closed:
                raise L2UnavailableError("the cache was closed")
            if self._timed_out_at > queued_at:
                # Without this, the exchanges of a long queue would wait for a silent server one after the other.
                raise L2UnavailableError("Valkey did not answer in time while this exchange waited; it was not sent")
            try:
                return await self._exchange(commands, timeout, may_repeat)
            except ReplicaError as error:
                # The other connections lead to the same server. An answer of theirs must not count as one of a primary.
                self.leave(error)
                raise
            except TimeoutError:
                self._timed_out_at = now()
                await _close_all(self._idle)  # They may be as dead as the connection that was not answered on.
                raise

    async def _exchange(self, commands: Sequence[Command], timeout: float, may_repeat: bool) -> list[Any]:
        while True:
            idle = self._idle.pop() if self._idle else None
            connection = idle or await open_plain(self._settings, self._connect_timeout)
            self._busy.add(connection)
            try:
                if idle is None or idle.is_open:
                    return await connection.exchange(commands, timeout)
            except ValkeyConnectionError:
                # An idle connection may have ended without this process noticing. The commands are repeated once, on a
                # new connection: the other idle ones may have ended too.
                if idle is None or not may_repeat or self._is_closed:
                    raise
                may_repeat = False
                await _close_all(self._idle)
            finally:
                self._busy.remove(connection)
                if connection.is_open and not self._is_closed:
                    self._idle.append(connection)
                else:
                    await connection.aclose()

    def leave(self, error: Exception) -> None:
        for connection in (*self._idle, *self._busy):
            connection.leave(error)

    async def aclose(self) -> None:
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout), AsyncExitStack() as permits:
                # No exchange is in flight once this has all permits.
                for _ in range(self._settings.max_connections):
                    await permits.enter_async_context(self._permits)
        await _close_all([*self._idle, *self._busy])


async def _close_all(connections: list[PlainConnection]) -> None:
    """Close ``connections``, which are then no longer in the list."""
    while connections:
        await connections.pop().aclose()
