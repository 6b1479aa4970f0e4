"""The multiplexed connection: many exchanges in flight on one connection, written together, answered in order.

valkey-py opens the connection (names, TLS, credentials, database) and hands its transport over. From then on a command
no longer pays for valkey-py's pool, lock, timer and stream: the commands of one step of the event loop leave in one
write, their replies arrive in one read that is parsed in C, and one timer watches the oldest exchange (``Deadline``).
Figures are in docs/performance.md.

The states of a connection::

             an exchange is sent: its commands are written at once
     +------+ ------------------------------------------> +---------+ --+  further exchanges: their commands
     | idle |                                             | pending |   |  are held back in ``_unsent``; one
     +------+ <------------------------------------------ +---------+ <-+  write at the end of this step of
         |     the last pending exchange has its replies       |           the loop sends them
         |                                                     |
         |  no answer in time | the server or the network ends the connection
         |  a reply to no command | not the protocol | LOADING, NOAUTH or the like | aclose
         v                                                     v
     +-----------------------------------------------------------+
     | closed: ``_error`` is set, for good                       |
     +-----------------------------------------------------------+

1. idle: ``_pending`` is empty. The turn of an exchange that is sent now begins now.
2. pending: ``_pending`` has the exchanges in the order in which their commands leave. It is the turn of the oldest one,
   and only this one has a deadline; the turn of the next one begins when the oldest one has its replies.
   With ``late_deadlines``, a deadline without a byte fails the pending reads, and a pending batch of writes if its own
   time has passed, and keeps the connection. It is late until its next byte, and the late replies are dropped, in
   order. So many deadlines in a row may pass without a byte, unless the ``Writer`` finds out that it is dead.
3. closed: every pending exchange has received the error, commands that were held back are dropped, and every further
   exchange raises. The server may have carried out any command that was sent.

Races that the code closes:

1. *Cancelled caller.* The exchange of a cancelled caller stays in ``_pending`` and its replies are dropped. Otherwise
   the next caller would receive them.
2. *Late loop.* After the loop was blocked, the timer may run before the loop reads replies that are already here. The
   ``Deadline`` therefore looks a second time, a moment later.
3. *End before the handover.* The stream may have received the end of the connection before the transport has this
   protocol. The transport does not report that end again, so the constructor checks for it.
4. *Unnoticed end.* The server may have closed the connection while the loop has not yet read that. A command sent
   then fails; the connection pool repeats it if the command may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from libvalkey import pack_command
from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import AuthenticationError, InvalidResponse
from valkey.exceptions import ConnectionError as ValkeyConnectionError

from ...engine.level2.writes import Command
from .deadline import LARGE_BYTES, Deadline
from .exchanges import Exchange, Introduced, LateError, ReplyFuture
from .inbox import Inbox
from .packing import Sendable, pack
from .replies import INCOMPLETE, reply_reader
from .unsent import unsent_bytes_of

__all__ = ["MultiplexedConnection"]

# Most bytes of one read. The buffer is kept: asyncio's plain protocols allocate 256 KiB for each read, and where the
# allocator gives them back to the system each time, their page faults make a read take up to eight times as long.
_BUFFER_BYTES: Final = 256 * 1024
# Seconds that ``aclose`` waits for the transport to report its end. Ending a TLS connection takes a round trip.
_CLOSE_SECONDS: Final = 1.0
# A batch of writes with less time than this is late.
_LEAST_SECONDS: Final = 0.001


class MultiplexedConnection(asyncio.BufferedProtocol):
    """A Connection that owns the transport of a connected valkey-py connection.

    Args:
        connection: Connected. No other code may use it from now on.
        listens: Whether replies that answer no command are messages. If not, such a reply ends the connection.
        introduction: Commands to send in front of the first exchange. The last one asks for the role.
        on_refused: Called if the server asks for credentials, or no longer accepts them.

    Attributes:
        late_deadlines: Deadlines in a row without a byte that the connection outlives.
        is_full: Whether the transport has more unsent bytes than it should have. ``wait_room`` waits for the network to
            take them; a caller that sends without bound must call it first.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        listens: bool = False,
        introduction: Sequence[Command] = (),
        on_refused: Callable[[AuthenticationError], None] | None = None,
    ) -> None:
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None or writer.is_closing() or reader.at_eof():  # Race 3.
            raise ValkeyConnectionError("the connection has ended")
        # No command is in flight: a server that says anything now refuses the connection, as for too many clients.
        if unasked := bytes(getattr(reader, "_buffer", b"")):
            raise ValkeyConnectionError(f"the server refused the connection: {unasked[:200]!r}")
        # valkey-py's connection is kept: if its writer were collected as garbage, that would close the transport.
        self._valkey_connection = connection
        self._transport: Any = writer.transport
        self._loop = asyncio.get_running_loop()
        self._refusals: list[ValkeyConnectionError] = []
        self._replies = reply_reader(self._refusals)
        # A view: asyncio's TLS transport reads into slices of the buffer, and a slice of a bytearray is a copy.
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._pending: deque[Exchange] = deque()
        self._unsent: list[bytes] = []
        # The deadline of the oldest pending exchange.
        self._deadline = Deadline(lambda: bool(self._pending), self._end_in_silence, unsent_bytes_of(self._transport))
        self.late_deadlines = 0
        self._silent_deadlines = 0
        self._late_byte = asyncio.Event()
        self.is_full = False
        self._room = asyncio.Event()
        self._error: Exception | None = None
        self._transport_closed = self._loop.create_future()
        self._inbox = Inbox() if listens else None
        self._introduction = introduction
        self._on_refused = on_refused
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return self._error is None

    @property
    def is_late(self) -> bool:
        """Whether a deadline has passed without a byte, and none has arrived since."""
        return self._silent_deadlines > 0

    @property
    def pending_count(self) -> int:
        """The number of exchanges in flight."""
        return len(self._pending)

    # Sending

    def exchange(self, commands: Sequence[Command], timeout: float) -> asyncio.Future[list[Any]]:
        return self.send(pack(commands), len(commands), timeout)

    def send(self, packed: bytes, count: int, timeout: float) -> asyncio.Future[list[Any]]:
        """Send ``count`` commands that are packed already; otherwise as ``exchange``."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._send(packed, count, timeout, future)
        return future

    def begin(self, commands: Sequence[Sendable], count: int, timeout: float, future: ReplyFuture) -> None:
        self._send(pack(commands), count, timeout, future, is_batch=True)

    def _send(self, packed: bytes, count: int, timeout: float, future: ReplyFuture, *, is_batch: bool = False) -> None:
        self._check_open()
        if count == 0:
            future.set_result([])
            return
        if not self._pending:
            self._deadline.begin(timeout)
        if self._introduction:
            introduction, self._introduction = self._introduction, ()
            packed = pack(introduction) + packed
            future = Introduced(self.leave, len(introduction), future)
            count += len(introduction)
        ends_at = self._loop.time() + timeout if is_batch else 0.0
        self._pending.append(Exchange(count, timeout, future, ends_at))
        if len(packed) > LARGE_BYTES:
            self._deadline.sending(len(packed))
        self._write(packed)

    async def post(self, command: Command, timeout: float) -> None:
        self._check_open()
        self._write(pack_command(command))

    def _write(self, packed: bytes) -> None:
        # A lone exchange is written at once, also behind a batch of writes. While others are in flight, those of one
        # loop step share one write.
        pending = self._pending
        if not self._unsent and (len(pending) <= 1 or (len(pending) == 2 and pending[0].ends_at)):
            self._transport.write(packed)
            return
        if not self._unsent:
            self._loop.call_soon(self._write_unsent)
        self._unsent.append(packed)

    def _write_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._error is None:  # The connection may have ended since these commands were held back.
            self._transport.write(b"".join(unsent))

    def _check_open(self) -> None:
        if self._error is not None:
            raise ValkeyConnectionError(f"the connection has ended: {self._error}")

    def pause_writing(self) -> None:
        self.is_full = True
        self._room.clear()

    def resume_writing(self) -> None:
        self.is_full = False
        self._room.set()

    async def wait_room(self) -> None:
        """Wait until the network has taken the unsent bytes.

        Raises:
            Exception: The connection has ended: the error that every pending exchange received.
        """
        while self.is_full and self._error is None:
            await self._room.wait()
        if self._error is not None:
            raise type(self._error)(*self._error.args)

    # Receiving

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand each complete reply in the buffer to the oldest pending exchange, or to the inbox."""
        replies, pending = self._replies, self._pending
        if self._silent_deadlines:
            self._silent_deadlines = 0
            self._late_byte.set()
        first = pending[0] if pending else None
        try:
            replies.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # It takes any buffer.
            gets = replies.gets
            while (reply := gets()) is not INCOMPLETE:
                if not pending:
                    if self._refusals:
                        self._refused(self._refusals[0])
                        return
                    self._receive_message(reply)
                    continue
                oldest = pending[0]
                received, count = oldest.replies, oldest.count
                received.append(reply)
                while len(received) < count and (reply := gets()) is not INCOMPLETE:
                    received.append(reply)
                if self._refusals:
                    self._refused(self._refusals[0])
                    return
                if len(received) == count:
                    pending.popleft()
                    if not oldest.future.done():  # Race 1.
                        oldest.future.set_result(received)
                        if self._error is not None:
                            return  # The replies have ended the connection: the server is no primary.
        except InvalidResponse as error:
            self._end(error)
            return
        if pending:
            if pending[0] is first:
                self._deadline.received(nbytes)
            else:
                self._deadline.begin(pending[0].timeout)

    async def wait_late_byte(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a byte on a late connection; return whether it has received one."""
        if self.is_open and self.is_late:
            self._late_byte.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._late_byte.wait(), timeout)
        return self.is_open and not self.is_late

    def _refused(self, error: ValkeyConnectionError) -> None:
        if isinstance(error, AuthenticationError) and self._on_refused is not None:
            self._on_refused(error)
        self._end(error)

    def _receive_message(self, message: Any) -> None:
        if self._inbox is None:
            self._end(InvalidResponse(f"a reply to no command: {message!r}"[:200]))
        else:
            self._inbox.put(message)

    async def receive(self) -> Any:
        return await self._open_inbox().receive()

    async def listen(self, on_message: Callable[[Any], object]) -> None:
        await self._open_inbox().listen(on_message)

    def _open_inbox(self) -> Inbox:
        assert self._inbox is not None, "only a connection that listens has messages"
        return self._inbox

    # The end

    def eof_received(self) -> None:
        return None  # None makes the transport close itself.

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ValkeyConnectionError(str(exc or "the server has closed the connection")))
        if not self._transport_closed.done():
            self._transport_closed.set_result(None)

    def _end(self, error: Exception) -> None:
        """Close the connection because of ``error``, which every pending exchange receives. The first error counts."""
        if self._error is not None:
            return
        self._error = error
        self._transport.abort()
        # Without this, valkey-py's connection would warn that it was never closed.
        self._valkey_connection._reader = self._valkey_connection._writer = None
        self._deadline.stop()
        self._room.set()
        self._late_byte.set()
        while self._pending:
            future = self._pending.popleft().future
            if not future.done():
                # Each future gets its own exception: one that is raised in many places collects all their tracebacks.
                future.set_exception(type(error)(*error.args))
        if self._inbox is not None:
            self._inbox.end(error)

    def _end_in_silence(self) -> None:
        if self._silent_deadlines >= self.late_deadlines:
            self._end(TimeoutError("Valkey did not answer in time"))
            return
        self._silent_deadlines += 1
        # All of them: an exchange behind the late one has no answer either. But a batch of writes keeps its own time.
        now, next_timeout = self._loop.time(), self._pending[0].timeout
        for exchange in self._pending:
            if (left := exchange.ends_at - now) > _LEAST_SECONDS:
                next_timeout = min(next_timeout, left)
            elif not exchange.future.done():
                exchange.future.set_exception(LateError("Valkey did not answer in time"))
        self._deadline.begin(next_timeout)

    def leave(self, error: Exception) -> None:
        self._end(error)

    async def aclose(self) -> None:
        self._end(ValkeyConnectionError("it was closed"))
        # The TLS shutdown may get no answer; the transport is abandoned then.
        await asyncio.wait([self._transport_closed], timeout=_CLOSE_SECONDS)
