"""A line on which many exchanges are under way at once: written together, parsed in C, answered in order.

valkey-py connects (names, TLS, credentials, database) and hands its transport over. From then on what it costs for
each command (a pool, a lock, a timer, a stream) is paid no more: commands of one step of the event loop leave in one
write, replies come in one read, and one timer watches the oldest exchange. Figures are in docs/performance.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from libvalkey import Reader, pack_command
from valkey._parsers.base import BaseParser
from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import InvalidResponse

from ...engine.level2.writes import Command

__all__ = ["Answer", "MultiplexedLine"]

_INCOMPLETE: Final = object()
_SECOND_LOOK_SECONDS: Final = 0.001
# Seconds to wait for a transport to say that it is closed, when a TLS connection is being ended.
_LAST_WORD_SECONDS: Final = 1.0


class Answer(Protocol):
    """Where the replies to an exchange go: a future, or what does its work in the very step in which they come."""

    def done(self) -> bool:
        """Whether nobody wants them any more."""
        ...

    def set_result(self, replies: list[Any], /) -> None:
        """Take them. Must not raise."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Take the error of a line that has ended. Must not raise."""
        ...


class _Exchange:
    """Commands under way: how many replies are to come, and who waits for them."""

    __slots__ = ("answer", "count", "replies", "timeout")

    def __init__(self, count: int, timeout: float, answer: Answer) -> None:
        self.count = count
        self.timeout = timeout
        self.answer = answer
        self.replies: list[Any] = []


class MultiplexedLine(asyncio.Protocol):
    """A Line on the transport of a connected connection of valkey-py, from now on its owner.

    A caller that is cancelled leaves its exchange to be answered to nobody: the line stays in step.

    Args:
        listens: Whether replies that answer no command are messages. Otherwise they end the line.
    """

    def __init__(self, connection: AbstractConnection, *, listens: bool = False) -> None:
        reader, writer = connection._reader, connection._writer
        # An end that the stream has been told of already would not be told again.
        if reader is None or writer is None or writer.is_closing() or reader.at_eof():
            raise ValkeyConnectionError("the connection has ended")
        # The connection is kept: were its writer collected, that would close the transport.
        self._connection = connection
        self._transport: Any = writer.transport
        self._loop = asyncio.get_running_loop()
        self._replies = Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._under_way: deque[_Exchange] = deque()
        self._unsent: list[bytes] = []
        self._due = 0.0
        self._missed = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._ended = self._loop.create_future()
        self._listens = listens
        self._messages: deque[Any] = deque()
        self._listener: asyncio.Future[None] | None = None
        self._hear: Callable[[Any], object] | None = None
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return self._error is None

    # Sending

    def exchange(self, commands: Sequence[Command], timeout: float) -> asyncio.Future[list[Any]]:
        if len(commands) == 1:
            return self.send(pack_command(commands[0]), 1, timeout)
        return self.send(b"".join([pack_command(command) for command in commands]), len(commands), timeout)

    def send(self, packed: bytes, count: int, timeout: float) -> asyncio.Future[list[Any]]:
        """Send ``count`` packed commands. Otherwise as ``exchange``, of which it is the quicker half."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._send(packed, count, timeout, future)
        return future

    def begin(self, commands: Sequence[Command], timeout: float, answer: Answer) -> None:
        self._send(b"".join([pack_command(command) for command in commands]), len(commands), timeout, answer)

    def _send(self, packed: bytes, count: int, timeout: float, answer: Answer) -> None:
        self._check_open()
        if count == 0:
            answer.set_result([])
            return
        if not self._under_way:
            self._expect(timeout)
        self._under_way.append(_Exchange(count, timeout, answer))
        self._write(packed)

    async def post(self, command: Command, timeout: float) -> None:
        self._check_open()
        self._write(pack_command(command))

    def _write(self, packed: bytes) -> None:
        # Who is alone is not kept waiting. Who comes while others are under way goes with all that come in this step.
        if len(self._under_way) <= 1 and not self._unsent:
            self._transport.write(packed)
            return
        if not self._unsent:
            self._loop.call_soon(self._write_unsent)
        self._unsent.append(packed)

    def _write_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._error is None:
            self._transport.write(b"".join(unsent))

    def _check_open(self) -> None:
        if self._error is not None:
            raise ValkeyConnectionError(f"the connection has ended: {self._error}")

    # Receiving

    def data_received(self, data: bytes) -> None:
        replies, under_way = self._replies, self._under_way
        try:
            replies.feed(data)
            while (reply := replies.gets()) is not _INCOMPLETE:
                if isinstance(reply, ValkeyConnectionError):
                    # Such as LOADING or NOAUTH: nothing that is asked here will be answered.
                    self._end(reply)
                    return
                if not under_way:
                    self._message(reply)
                    continue
                head = under_way[0]
                head.replies.append(reply)
                if len(head.replies) == head.count:
                    under_way.popleft()
                    if under_way:
                        self._due = self._loop.time() + under_way[0].timeout
                    if not head.answer.done():
                        head.answer.set_result(head.replies)
        except InvalidResponse as error:
            self._end(error)

    def _message(self, message: Any) -> None:
        if not self._listens:
            self._end(InvalidResponse(f"a reply to no command: {message!r}"[:200]))
        elif self._hear is None:
            self._messages.append(message)
            self._wake()
        else:
            try:
                self._hear(message)
            except Exception as error:
                # It is the listener's, and not the line's.
                self._hear = None
                if self._listener is not None and not self._listener.done():
                    self._listener.set_exception(error)

    async def receive(self) -> Any:
        """Return the next message. One caller at a time."""
        while not self._messages:
            self._check_open()
            self._listener = self._loop.create_future()
            await self._listener
        return self._messages.popleft()

    async def listen(self, hear: Callable[[Any], object]) -> None:
        while self._messages:
            hear(self._messages.popleft())
        self._check_open()
        self._hear, self._listener = hear, self._loop.create_future()
        try:
            await self._listener
        finally:
            self._hear = None
        self._check_open()

    def _wake(self) -> None:
        if self._listener is not None and not self._listener.done():
            self._listener.set_result(None)

    # Time

    def _expect(self, timeout: float) -> None:
        self._due = self._loop.time() + timeout
        if self._watch is None:
            self._watch = self._loop.call_at(self._due, self._look)
        elif self._watch.when() > self._due:
            self._watch.cancel()
            self._watch = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        """Look, when somebody should have been answered at the latest, whether they were."""
        self._watch = None
        if not self._under_way:
            return
        if self._loop.time() < self._due:
            self._watch = self._loop.call_at(self._due, self._look)
        elif self._missed != self._due:
            # Perhaps it is the loop that was held up, and one that looks at timers first: what has come is read now.
            self._missed = self._due
            self._watch = self._loop.call_later(_SECOND_LOOK_SECONDS, self._look)
        else:
            self._end(TimeoutError("Valkey did not answer in time"))

    # The end

    def eof_received(self) -> None:
        return None  # The transport closes itself.

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ValkeyConnectionError(str(exc or "the server has closed the connection")))
        if not self._ended.done():
            self._ended.set_result(None)

    def _end(self, error: Exception) -> None:
        """End the line, because of ``error``, which everybody under way is told."""
        if self._error is not None:
            return
        self._error = error
        self._transport.abort()
        # Valkey-py's connection would complain that nobody has closed it.
        self._connection._reader = self._connection._writer = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._under_way:
            answer = self._under_way.popleft().answer
            if not answer.done():
                # One each: an exception that is raised in many places at once gathers all their tracebacks.
                answer.set_exception(type(error)(*error.args))
        self._wake()

    async def aclose(self) -> None:
        self._end(ValkeyConnectionError("it was closed"))
        # What may fail is the goodbye of TLS; the transport is let go of then.
        await asyncio.wait([self._ended], timeout=_LAST_WORD_SECONDS)
