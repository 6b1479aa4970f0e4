"""A line: one connection to Valkey, on which exchanges are answered in the order in which they were made.

``MultiplexedLine`` has many of them under way at once and is what a cache uses where it can; ``PlainLine`` is a
connection of valkey-py as it is, for those that are more than a socket: subclasses, and fakes for tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ResponseError, ValkeyError

from ...engine.level2.writes import Command
from .multiplexed import Answer, MultiplexedLine
from .settings import Settings

__all__ = ["Line", "PlainLine", "open_line", "send"]


class Line(Protocol):
    """One connection.

    Raises:
        valkey.exceptions.ConnectionError: It has ended, from any method. What was sent may have been carried out.
        TimeoutError: There was no answer in time; it has been ended.
    """

    @property
    def is_open(self) -> bool:
        """Whether it has not ended, as far as is known."""
        ...

    def exchange(self, commands: Sequence[Command], timeout: float) -> Awaitable[list[Any]]:
        """Send ``commands`` in one write; return a reply, or the ResponseError in its place, for each.

        Args:
            timeout: Seconds, from when all earlier exchanges have been answered.
        """
        ...

    def begin(self, commands: Sequence[Command], timeout: float, answer: Answer) -> None:
        """As ``exchange``, for ``answer``, which gets the replies or the error. Raises only before anything is sent."""
        ...

    async def post(self, command: Command, timeout: float) -> None:
        """Send a command to which there is no reply, or one among the messages."""
        ...

    async def receive(self) -> Any:
        """Return the next message. Without a deadline."""
        ...

    async def listen(self, hear: Callable[[Any], object]) -> None:
        """Call ``hear`` with each message in the step in which it comes, until the line ends or ``hear`` raises."""
        ...

    async def aclose(self) -> None:
        """End it. Never raises for a server that is gone."""
        ...


async def open_line(settings: Settings, timeout: float, *, listens: bool = False) -> Line:
    """Connect.

    Args:
        timeout: Seconds: names are resolved, TLS is negotiated, credentials are shown.
        listens: Whether messages will come that answer no command.
    """
    connection = settings.connection()
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()  # type: ignore[no-untyped-call]
        return MultiplexedLine(connection, listens=listens) if settings.is_multiplexed else PlainLine(connection)
    except BaseException:
        await _disconnect(connection)
        raise


class PlainLine:
    """A Line that is a connection of valkey-py."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        # The reader of a fake client cannot say whether the server has hung up.
        has_ended = getattr(self._connection._reader, "at_eof", lambda: False)
        return bool(self._connection.is_connected and not has_ended())

    async def exchange(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        async with self._turn:
            self._check_open()
            async with asyncio.timeout(timeout):
                return await send(self._connection, commands)

    def begin(self, commands: Sequence[Command], timeout: float, answer: Answer) -> None:
        self._check_open()
        exchanging = asyncio.get_running_loop().create_task(self.exchange(commands, timeout), name="tiercache-exchange")
        exchanging.add_done_callback(partial(_hand_over, answer))

    async def post(self, command: Command, timeout: float) -> None:
        self._check_open()
        async with asyncio.timeout(timeout):
            await _write(self._connection, [command])

    async def receive(self) -> Any:
        self._check_open()
        return await self._connection.read_response()

    async def listen(self, hear: Callable[[Any], object]) -> None:
        while True:
            hear(await self.receive())

    async def aclose(self) -> None:
        await _disconnect(self._connection)

    def _check_open(self) -> None:
        # Used all the same it would connect anew, without what was arranged on it.
        if not self._connection.is_connected:
            raise ValkeyConnectionError("the connection has ended")


def _hand_over(answer: Answer, exchanging: asyncio.Task[list[Any]]) -> None:
    if exchanging.cancelled():
        answer.set_exception(ValkeyConnectionError("the exchange was broken off"))
    elif (error := exchanging.exception()) is None:
        answer.set_result(exchanging.result())
    else:
        answer.set_exception(error if isinstance(error, Exception) else ValkeyConnectionError(repr(error)))


async def send(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to ``commands``, as ``Line.exchange``; without a deadline."""
    # When this is broken off, also by a cancellation, the connection disconnects itself: no reply is left behind.
    await _write(connection, commands)
    return [await _reply(connection) for _ in commands]


async def _write(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    # A writer that was reset while nobody used it valkey-py does not know of yet, and writing to its transport raises
    # AttributeError from Python 3.12 on. The writer of a fake client cannot say.
    is_closing = getattr(connection._writer, "is_closing", None)
    if is_closing is not None and is_closing():
        await connection.disconnect(nowait=True)
        raise ValkeyConnectionError("the connection has ended")
    # Without valkey-py's own health check, whose ping would be answered between messages.
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


async def _disconnect(connection: AbstractConnection) -> None:
    # What may fail is saying goodbye to a server that is gone; there is nothing left to do then, and nothing to count.
    with suppress(ValkeyError, OSError, TimeoutError):
        await connection.disconnect(nowait=True)
