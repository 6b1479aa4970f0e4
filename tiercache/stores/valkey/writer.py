"""The writer: ordered writes on a connection of their own.

If an exchange is broken off, its commands may still reach the server later. Therefore the next connection first makes
the server end the broken one (CLIENT KILL), and only then writes: no write arrives after a later write.

With tracking by interest, the end of the connection costs all of L1, and one late answer must not. A connection that is
dead without looking dead must not make writes fail for long either. So a late connection stays, and before the next
batch this process opens another connection, and asks the server there:

1. No answer: the server is silent. The batch fails, and the late connection stays.
2. An answer, and within another deadline a byte on the late connection: it is used again, and the other one is closed.
3. An answer, and no such byte: the late connection is broken, and the other one carries the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from valkey.exceptions import ConnectionError as ValkeyConnectionError

from ...engine.level2.writes import Command, Track, Write, WriteResult
from ...errors import L2CommandError, L2ReplicaError, L2UnavailableError
from .backplane import BackplaneNames
from .commands import Batch, WriteCommands
from .connection import Connection, open_connection
from .errors import map_error, map_errors
from .exchanges import LateError
from .multiplexed import MultiplexedConnection
from .roles import ReplicaError
from .settings import Settings
from .tracking import Tracking

__all__ = ["Writer"]

_ACTION: Final = "a batch of writes"
# A batch of writes has more time than an empty exchange: a slow network must still be able to carry a large batch.
_BYTES_PER_SECOND: Final = 16 * 1024 * 1024
# Deadlines in a row that a connection outlives on which keys are registered.
_LATE_DEADLINES: Final = 3
# Bytes of writes in flight behind which reads do not wait.
_MAX_AHEAD_BYTES: Final = 64 * 1024


class Writer:
    """The writes of one process. One call at a time: the write pipe sends one batch after the other.

    Args:
        origin: Signs the announcements of this process.
        timeout: Seconds for one exchange; a large batch has more.
        connect_timeout: Seconds to open a connection.
    """

    def __init__(
        self, settings: Settings, names: BackplaneNames, origin: str, *, timeout: float, connect_timeout: float
    ) -> None:
        self._settings = settings
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._tracking = Tracking(names, may_register=settings.is_multiplexed)
        self._commands = WriteCommands(names, origin, self._tracking.questions, packs=settings.is_multiplexed)
        self._connection: Connection | None = None
        self._connection_id: int | None = None
        # Bytes of the batch in flight.
        self._sent_bytes = 0
        # Connections on which an exchange was broken off: to be closed here, and to be ended by the server.
        self._broken: list[Connection] = []
        self._broken_ids: list[int] = []
        self._is_closed = False

    def forget_listed(self) -> None:
        """List every index again at its next use: another process may have removed it from the register."""
        self._commands.listed.clear()

    def write(self, writes: Sequence[Write]) -> Awaitable[list[WriteResult]]:
        """Carry out ``writes`` in order, in one exchange; see ``Level2.apply``."""
        connection = self._connection
        self._tracking.note_subscriber(writes)
        # A connection that ended between two exchanges is not broken: none of its commands can still arrive.
        is_ready = connection is not None and connection.is_open and not connection.is_late
        if connection is None or not is_ready or self._tracking.is_due or self._commands.must_probe:
            return self._prepare_and_write(writes)
        return self._begin(connection, writes)

    @property
    def registering(self) -> MultiplexedConnection | None:
        """The connection on which a read registers its key with the server; None if no key can be registered now.

        While a large write is in flight, small reads would wait behind it. While an answer is late, further reads use
        another connection, and the late one fails alone.
        """
        connection = self._connection
        if not self._tracking.registers or not isinstance(connection, MultiplexedConnection):
            return None
        # A connection that has ended refuses the read.
        return None if connection.is_late or self._sent_bytes > _MAX_AHEAD_BYTES else connection

    async def _prepare_and_write(self, writes: Sequence[Write]) -> list[WriteResult]:
        try:
            with map_errors(_ACTION):
                connection = await self._prepare()
        except L2CommandError as error:
            return _refused(writes, error)
        return await self._begin(connection, writes)

    async def _prepare(self) -> Connection:
        """Return an open connection, on which tracking is on if it is wanted."""
        connection = self._connection
        if connection is None or not connection.is_open or connection.is_late:
            connection = await self._connect()
        elif self._commands.must_probe:
            self._commands.take_probe_replies(await self._ask(connection, self._commands.probes()))
        if self._tracking.is_due:
            await self._track(connection)
        return connection

    async def _ask(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        """Send ``commands`` in front of a batch; give the connection up if they are not answered."""
        is_answered = False
        try:
            replies = await connection.exchange(commands, self._timeout)
            is_answered = True
        finally:
            if not is_answered:
                self._break(connection)
        return replies

    async def _track(self, connection: Connection) -> None:
        if self._commands.must_probe:
            return  # Whether the server can track is unknown; the next write asks again.
        if not self._commands.has_conditions:
            # Scripts take the leases on such a server, and tracking would report the writes of a script to this
            # process as if another process had made them.
            self._tracking.refuse("the server has no SET ... IFEQ or no DELIFEQ, which came with Valkey 9.0")
            return
        self._tracking.take_replies(await self._ask(connection, self._tracking.commands()))
        if self._tracking.is_due:  # Interest is not possible: by broadcast then.
            self._tracking.take_replies(await self._ask(connection, self._tracking.commands()))
        if isinstance(connection, MultiplexedConnection):
            # The end of the connection would cost all of L1. One late answer must not.
            connection.late_deadlines = _LATE_DEADLINES if self._tracking.registers else 0

    def _begin(self, connection: Connection, writes: Sequence[Write]) -> asyncio.Future[list[WriteResult]]:
        self._commands.registers = self._tracking.registers
        batch = self._commands.batch(writes)
        replies = _BatchReplies(self, connection, writes, batch)
        self._sent_bytes = size_bytes = sum([write.size_bytes for write in writes])
        timeout = self._timeout + size_bytes / _BYTES_PER_SECOND
        try:
            connection.begin(batch.commands, batch.reply_count, timeout, replies)
        except ValkeyConnectionError as error:
            replies.set_exception(error)
        return replies.results

    def _results(self, writes: Sequence[Write], batch: Batch, replies: list[Any]) -> list[WriteResult]:
        results = self._commands.results(writes, batch, replies)
        if Track in map(type, writes):
            for index, write in enumerate(writes):
                if isinstance(write, Track):
                    results[index] = self._tracking.result(results[index])
        if self._commands.has_lost_right:
            self._commands.has_lost_right = False
            self._tracking.ask_again()
        return results

    async def _connect(self) -> Connection:
        """Open a connection, probe the features of the server, and make it end the broken connections.

        A late connection is returned if it receives a byte now, and broken if the server answers elsewhere alone.
        """
        if self._is_closed:
            raise L2UnavailableError("the cache was closed")
        late = self._connection
        if not isinstance(late, MultiplexedConnection) or not late.is_open or not late.is_late:
            late = None
            await self._close_connections()
        connection = await open_connection(self._settings, self._connect_timeout)
        is_used = False
        try:
            if late is not None:
                await connection.exchange([("PING",)], self._timeout)
                if await late.wait_late_byte(self._timeout):
                    return late
                self._break(late)
                await self._close_connections()
            probes = self._commands.probes()
            kills: list[Command] = [("CLIENT", "KILL", "ID", broken) for broken in self._broken_ids]
            own_id, *replies = await connection.exchange([("CLIENT", "ID"), *probes, *kills], self._timeout)
            is_used = True
        finally:
            if not is_used:
                await connection.aclose()
        self._sent_bytes = 0
        # A user without permission for CLIENT ID or CLIENT KILL is not refused: the order of that user's writes then
        # holds unless an exchange is broken off.
        self._connection_id = own_id if isinstance(own_id, int) else None
        self._broken_ids.clear()
        self._commands.take_probe_replies(replies[: len(probes)])
        self._tracking.connection_changed()
        self._connection = connection
        return connection

    def _break(self, connection: Connection) -> None:
        """Give up ``connection``, on which an exchange was broken off."""
        if self._connection is connection:
            self._connection = None
            self._broken.append(connection)
            if self._connection_id is not None:
                self._broken_ids.append(self._connection_id)

    def leave(self, error: Exception) -> None:
        """Use the connection no more, because of ``error``: the server is no primary. The next batch makes a new one.

        The server is not asked to end the connection: a replica carries no write out, and the number of the connection
        means another connection on another server.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            self._broken.append(connection)
            connection.leave(error)

    async def _close_connections(self) -> None:
        while self._broken:
            await self._broken.pop().aclose()
        if self._connection is not None:
            await self._connection.aclose()

    async def aclose(self) -> None:
        """Close the connection. Never raises for a server that is gone."""
        self._is_closed = True
        await self._close_connections()


def _refused(writes: Sequence[Write], error: L2CommandError) -> list[WriteResult]:
    """Return the results of ``writes`` after the server has refused the connection, such as its credentials."""
    # Each write gets its own exception: one that is raised in many places collects all their tracebacks.
    return [type(error)(*error.args) for _ in writes]


class _BatchReplies:
    """The receiver of the replies to one batch: a ReplyFuture.

    Attributes:
        results: A future that has the results of the writes in the step in which the replies arrive.
    """

    __slots__ = ("_batch", "_connection", "_writer", "_writes", "results")

    def __init__(self, writer: Writer, connection: Connection, writes: Sequence[Write], batch: Batch) -> None:
        self._writer = writer
        self._connection = connection
        self._writes = writes
        self._batch = batch
        self.results: asyncio.Future[list[WriteResult]] = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        # Never done, not even if no caller waits for the results: the writer must know of a broken exchange.
        return False

    def set_result(self, replies: list[Any]) -> None:
        self._writer._sent_bytes = 0
        try:
            results = self._writer._results(self._writes, self._batch, replies)
        # A defect of this package: it reaches the caller that waits for the batch, and the connection goes on.
        except Exception as error:
            self._fail(error)
        else:
            if L2ReplicaError in map(type, results):
                self._writer.leave(ReplicaError("the server is no primary: it refused a write"))
            if not self.results.done():
                self.results.set_result(results)

    def set_exception(self, error: Exception) -> None:
        if not isinstance(error, LateError):
            self._writer._break(self._connection)
        mapped = map_error(error, _ACTION)
        if mapped is not None:
            mapped.__cause__ = error
        if isinstance(mapped, L2CommandError):
            if not self.results.done():
                self.results.set_result(_refused(self._writes, mapped))
        else:
            self._fail(mapped or error)

    def _fail(self, error: Exception) -> None:
        if not self.results.done():
            self.results.set_exception(error)
