"""Connections to Valkey: the protocol, the opening, and the plain connection.

There are two kinds:

1. ``MultiplexedConnection`` has many exchanges in flight at once. A cache uses it wherever it can.
2. ``PlainConnection`` leaves sending and reading to valkey-py. A cache uses it for connection classes that are more
   than a socket (subclasses, and fakes for tests) and with ``multiplexed=False``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeVar

from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import AuthenticationError, ResponseError, ValkeyError
from valkey.exceptions import ConnectionError as ValkeyConnectionError

from ...engine.level2.writes import Command
from .deadline import LARGE_BYTES, Deadline
from .errors import OpeningTimeoutError
from .exchanges import ReplyFuture
from .multiplexed import MultiplexedConnection
from .packing import Sendable
from .roles import check_role
from .settings import Settings
from .unsent import unsent_bytes_of

__all__ = ["Connection", "PlainConnection", "open_connection", "open_multiplexed", "open_plain"]

C = TypeVar("C")


class Connection(Protocol):
    """One connection to Valkey. Its exchanges are answered in the order in which they were sent.

    Raises:
        valkey.exceptions.ConnectionError: The connection has ended, from any method. The server may have carried out
            the commands that were sent.
        TimeoutError: The server did not answer in time. The connection has been closed.
    """

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as this process knows."""
        ...

    @property
    def is_late(self) -> bool:
        """Whether the connection has outlived a deadline without a byte, and none has arrived since."""
        ...

    def exchange(self, commands: Sequence[Command], timeout: float) -> Awaitable[list[Any]]:
        """Send ``commands`` in one write; return a reply, or a ResponseError as its reply, for each.

        Args:
            timeout: Seconds without a byte, counted from the moment when all earlier exchanges have their replies; see
                ``Deadline``.
        """
        ...

    def begin(self, commands: Sequence[Sendable], count: int, timeout: float, future: ReplyFuture) -> None:
        """Send ``commands`` as ``exchange`` does; ``future`` takes the replies. Raises only if nothing was sent.

        Args:
            commands: Only a multiplexed connection takes packed ones.
            count: The number of replies.
        """
        ...

    async def post(self, command: Command, timeout: float) -> None:
        """Send a command that has no reply, or whose reply is a message."""
        ...

    async def receive(self) -> Any:
        """Return the next message. Without a deadline."""
        ...

    async def listen(self, on_message: Callable[[Any], object]) -> None:
        """Call ``on_message`` with each message in the step of its arrival, until the end or until a call raises."""
        ...

    def leave(self, error: Exception) -> None:
        """Use the connection no more, because of ``error``: it is not open any more. ``aclose`` closes it."""
        ...

    async def aclose(self) -> None:
        """Close the connection. Never raises for a server that is gone."""
        ...


async def open_connection(settings: Settings, timeout: float, *, listens: bool = False) -> Connection:
    """Open a connection of the kind that ``settings`` allow.

    Args:
        timeout: Seconds to resolve the name, negotiate TLS and authenticate.
        listens: Whether messages that answer no command will arrive.
    """
    if settings.is_multiplexed:
        return await open_multiplexed(settings, timeout, listens=listens)
    return await open_plain(settings, timeout)


async def open_multiplexed(settings: Settings, timeout: float, *, listens: bool = False) -> MultiplexedConnection:
    """Open a multiplexed connection. Arguments as for ``open_connection``."""
    wrap = partial(
        MultiplexedConnection,
        listens=listens,
        introduction=settings.introduction,
        on_refused=settings.logins.refused,
    )
    return await _open(settings, timeout, wrap)


async def open_plain(settings: Settings, timeout: float) -> PlainConnection:
    """Open a plain connection. Arguments as for ``open_connection``."""
    wrap = partial(PlainConnection, introduction=settings.introduction, on_refused=settings.logins.refused)
    return await _open(settings, timeout, wrap)


async def _open(settings: Settings, timeout: float, wrap: Callable[[AbstractConnection], C]) -> C:
    connection = settings.connection()
    try:
        async with asyncio.timeout(timeout), settings.logins.attempt():
            # In a task with an empty context: the transport keeps the context in which it is made for as long as it
            # lives, and the caller that happens to open the connection has the variables of one request there.
            await asyncio.get_running_loop().create_task(
                connection.connect(),  # type: ignore[no-untyped-call]
                name="tiercache-transport",
                context=Context(),
            )
        return wrap(connection)
    except TimeoutError as error:
        await _disconnect(connection)
        raise OpeningTimeoutError("the server did not answer in time") from error
    except BaseException as error:
        await _disconnect(connection)
        shown = settings.without_secrets(error)
        if shown is error:
            raise
    # Raised here, so that the original error is not its context.
    raise shown


class PlainConnection:
    """A Connection on a connection of valkey-py, with one exchange at a time.

    Args:
        introduction: Commands to send in front of the first exchange. The last one asks for the role.
        on_refused: Called if the server asks for credentials, or no longer accepts them.
    """

    is_late = False

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        introduction: Sequence[Command] = (),
        on_refused: Callable[[AuthenticationError], None] | None = None,
    ) -> None:
        self._connection = connection
        self._introduction = introduction
        self._left: Exception | None = None
        self._on_refused = on_refused
        self._turn = asyncio.Lock()
        # Ends the exchange in progress.
        self._limit: asyncio.Timeout | None = None
        unsent_bytes = unsent_bytes_of(getattr(connection._writer, "transport", None))
        self._deadline = Deadline(lambda: self._limit is not None, self._end_in_silence, unsent_bytes)
        _report_received(connection._reader, self._deadline.received)

    @property
    def is_open(self) -> bool:
        # The reader and the writer of a fake client do not have these methods.
        has_ended = getattr(self._connection._reader, "at_eof", _no)
        was_reset = getattr(self._connection._writer, "is_closing", _no)
        return bool(self._connection.is_connected and not has_ended() and not was_reset() and self._left is None)

    def leave(self, error: Exception) -> None:
        # An exchange in flight ends by itself, and raises; its caller closes a connection that is not open.
        self._left = error

    async def exchange(self, commands: Sequence[Sendable], timeout: float) -> list[Any]:
        async with self._turn:
            self._check_connected()
            try:
                return await self._exchange(commands, timeout)
            except BaseException:
                # Also after a cancellation: a reply that is left behind would be the next exchange's first.
                await self.aclose()
                raise

    async def _exchange(self, commands: Sequence[Sendable], timeout: float) -> list[Any]:
        try:
            async with asyncio.timeout(None) as self._limit:
                self._deadline.begin(timeout)
                introduction, self._introduction = self._introduction, ()
                await self._write([*introduction, *commands])
                if introduction:
                    check_role([await self._reply() for _ in introduction][-1])
                replies = [await self._reply() for _ in commands]
                if self._left is not None:
                    raise type(self._left)(*self._left.args)
                return replies
        finally:
            self._limit = None

    def _end_in_silence(self) -> None:
        assert self._limit is not None
        self._limit.reschedule(asyncio.get_running_loop().time())

    def begin(self, commands: Sequence[Sendable], count: int, timeout: float, future: ReplyFuture) -> None:
        self._check_connected()
        exchanging = asyncio.get_running_loop().create_task(self.exchange(commands, timeout), name="tiercache-exchange")
        exchanging.add_done_callback(partial(_hand_over, future))

    async def post(self, command: Command, timeout: float) -> None:
        self._check_connected()
        async with asyncio.timeout(timeout):
            await self._write([command])

    async def receive(self) -> Any:
        self._check_connected()
        return await self._connection.read_response()

    async def listen(self, on_message: Callable[[Any], object]) -> None:
        while True:
            on_message(await self.receive())

    async def aclose(self) -> None:
        self._deadline.stop()
        await _disconnect(self._connection)

    def _check_connected(self) -> None:
        # valkey-py would connect again, but without the subscriptions and settings that were made on the connection.
        if not self._connection.is_connected:
            raise ValkeyConnectionError("the connection has ended")

    async def _write(self, commands: Sequence[Sendable]) -> None:
        connection = self._connection
        # valkey-py does not notice that the server has reset an idle connection, and from Python 3.12 on writing to its
        # transport raises AttributeError.
        if getattr(connection._writer, "is_closing", _no)():
            await connection.disconnect(nowait=True)
            raise ValkeyConnectionError("the connection has ended")
        packed = connection.pack_commands(commands)
        if (byte_count := sum(map(len, packed))) > LARGE_BYTES:
            self._deadline.sending(byte_count)
        # Without valkey-py's own health check: the reply to its PING would arrive between messages.
        await connection.send_packed_command(packed, check_health=False)

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error
        except AuthenticationError as error:
            if self._on_refused is not None:
                self._on_refused(error)
            raise


def _no() -> bool:
    return False


def _report_received(reader: Any, report: Callable[[int], object]) -> None:
    """Report the number of bytes whenever ``reader`` receives some."""
    feed = getattr(reader, "feed_data", None)
    if feed is None:  # The reader of a fake client receives nothing from a network.
        return

    def feed_and_report(data: bytes) -> None:
        report(len(data))
        feed(data)

    reader.feed_data = feed_and_report


def _hand_over(future: ReplyFuture, exchanging: asyncio.Task[list[Any]]) -> None:
    """Hand the outcome of the task ``exchanging`` to ``future``."""
    if exchanging.cancelled():
        future.set_exception(ValkeyConnectionError("the exchange was broken off"))
    elif (error := exchanging.exception()) is None:
        future.set_result(exchanging.result())
    else:
        future.set_exception(error if isinstance(error, Exception) else ValkeyConnectionError(repr(error)))


async def _disconnect(connection: AbstractConnection) -> None:
    # Closing may fail for a server that is gone. Nothing is left to do then, and no counter counts it.
    with suppress(ValkeyError, OSError, TimeoutError):
        await connection.disconnect(nowait=True)
