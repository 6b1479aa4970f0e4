"""Exchanges in no particular order: everything but writes and messages.

They share one multiplexed line, or have valkey-py's pool where connections are not multiplexed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ValkeyError

from ...engine.level2.writes import Command
from ...errors import L2UnavailableError
from .connection import Line, open_line, send
from .multiplexed import MultiplexedLine
from .settings import Settings

__all__ = ["Exchanges", "PooledExchanges", "SharedExchanges", "open_exchanges"]


class Exchanges(Protocol):
    """Where commands can be sent at any time.

    Raises:
        valkey.exceptions.ConnectionError, TimeoutError: As for a Line.
        L2UnavailableError: It was closed.
    """

    async def exchange(self, commands: Sequence[Command], timeout: float, *, may_repeat: bool = False) -> list[Any]:
        """Send ``commands`` in one write; return a reply, or the ResponseError in its place, for each.

        Args:
            timeout: Seconds for one exchange, from the moment that a connection is free. Making one has time of its
                own.
            may_repeat: Whether they may be sent again where a connection had ended without anybody noticing.
        """
        ...

    def begin(self, packed: bytes, count: int, timeout: float) -> asyncio.Future[list[Any]] | None:
        """Send ``count`` packed commands now, as ``exchange`` would; None where that has to be waited for."""
        ...

    async def aclose(self) -> None:
        """Let the exchanges under way end, and the connections. Never raises for a server that is gone."""
        ...


def open_exchanges(settings: Settings, *, timeout: float, connecting: float) -> Exchanges:
    """Return the kind that ``settings`` allow. Connects when first used.

    Args:
        timeout: Seconds that closing waits for exchanges under way.
        connecting: Seconds for making a connection.
    """
    kind = SharedExchanges if settings.is_multiplexed else PooledExchanges
    return kind(settings, timeout=timeout, connecting=connecting)


class SharedExchanges:
    """Exchanges on one line that all share. Arguments as for ``open_exchanges``."""

    def __init__(self, settings: Settings, *, timeout: float, connecting: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._connecting = connecting
        self._line: Line | None = None
        self._opening: asyncio.Task[Line] | None = None
        self._is_closed = False

    async def exchange(self, commands: Sequence[Command], timeout: float, *, may_repeat: bool = False) -> list[Any]:
        line = self._line
        if line is None or not line.is_open:
            return await (await self._opened()).exchange(commands, timeout)
        try:
            return await line.exchange(commands, timeout)
        except ValkeyConnectionError:
            if not may_repeat or self._is_closed:
                raise
        return await (await self._opened()).exchange(commands, timeout)

    def begin(self, packed: bytes, count: int, timeout: float) -> asyncio.Future[list[Any]] | None:
        line = self._line
        return line.send(packed, count, timeout) if isinstance(line, MultiplexedLine) and line.is_open else None

    async def _opened(self) -> Line:
        """Return an open line; callers who come at once share the making of it."""
        if self._is_closed:
            raise L2UnavailableError("the cache was closed")
        if self._line is not None and self._line.is_open:
            return self._line
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="tiercache-connect")
            self._opening.add_done_callback(_seen)
        return await asyncio.shield(self._opening)

    async def _open(self) -> Line:
        try:
            self._line = await open_line(self._settings, self._connecting)
            return self._line
        finally:
            self._opening = None

    async def aclose(self) -> None:
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._line is not None:
            # In its turn, behind all that is under way.
            with suppress(ValkeyError, OSError, TimeoutError):
                await self._line.exchange([("PING",)], self._timeout)
            await self._line.aclose()


def _seen(task: asyncio.Task[Line]) -> None:
    if not task.cancelled():
        task.exception()  # Whoever still waits for it has it.


class PooledExchanges:
    """Exchanges each on a connection of their own while they last. Arguments as for ``open_exchanges``."""

    def __init__(self, settings: Settings, *, timeout: float, connecting: float) -> None:
        self._pool = settings.pool()
        self._timeout = timeout
        self._connecting = connecting
        self._permit_count = settings.max_connections
        self._free = asyncio.Semaphore(self._permit_count)
        self._silent_at = -1.0
        self._is_closed = False
        self._idle: list[AbstractConnection] = []

    async def exchange(self, commands: Sequence[Command], timeout: float, *, may_repeat: bool = False) -> list[Any]:
        now = asyncio.get_running_loop().time
        queued_at = now()
        # The wait for a connection is outside the deadline: ten thousand reads at once take their turns, and none of
        # them is an outage. Only when others have gone unanswered meanwhile is it no use to try as long again.
        async with self._free:
            if self._is_closed:
                raise L2UnavailableError("the cache was closed")
            if self._silent_at > queued_at:
                raise L2UnavailableError("Valkey did not answer others in time, for whom this one waited")
            try:
                return await self._exchange(commands, timeout, may_repeat)
            except TimeoutError:
                self._silent_at = now()
                await self._drop_idle()
                raise

    def begin(self, packed: bytes, count: int, timeout: float) -> None:
        return None

    async def _exchange(self, commands: Sequence[Command], timeout: float, may_repeat: bool) -> list[Any]:
        # The pool looks at each connection before it hands it out, which costs a sixth of a read. What may be repeated
        # takes one that was used just now, unlooked at, and asks the pool only if that one has died since.
        if may_repeat and self._idle:
            with suppress(ValkeyConnectionError):
                return await self._on(self._idle.pop(), commands, timeout, stays_out=True)
        async with asyncio.timeout(self._connecting):
            connection: AbstractConnection = await self._pool.get_connection("PIPELINE")  # type: ignore[no-untyped-call]
        return await self._on(connection, commands, timeout, stays_out=may_repeat)

    async def _on(
        self, connection: AbstractConnection, commands: Sequence[Command], timeout: float, *, stays_out: bool
    ) -> list[Any]:
        is_good = False
        try:
            async with asyncio.timeout(timeout):
                replies = await send(connection, commands)
            is_good = stays_out
            return replies
        finally:
            if is_good:
                self._idle.append(connection)
            else:
                await self._pool.release(connection)

    async def _drop_idle(self) -> None:
        """Let go of connections that may be as dead as the one that was not answered on."""
        while self._idle:
            connection = self._idle.pop()
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

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
