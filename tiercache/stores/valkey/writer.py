"""The writer: ordered writes on a connection of their own.

When one of its exchanges is broken off, what was sent may still arrive; the next connection has the server end the old
one before it writes, so that no write lands behind a later one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from valkey.exceptions import ConnectionError as ValkeyConnectionError

from ...engine.level2.writes import Command, Track, Write, WriteResult
from ...errors import L2UnavailableError
from .backplane import BusNames
from .commands import Batch, WriteCommands
from .connection import Line, open_line
from .errors import map_error, map_errors
from .settings import Settings
from .tracking import Tracking

__all__ = ["Writer"]

_ACTION: Final = "a batch of writes"


class Writer:
    """The writes of one process. One call at a time: the pipe sends a batch after the other.

    Args:
        origin: What announcements are signed with.
        timeout: Seconds for one exchange.
        connecting: Seconds for making a connection.
    """

    def __init__(self, settings: Settings, names: BusNames, origin: str, *, timeout: float, connecting: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._connecting = connecting
        self._commands = WriteCommands(names, origin)
        self._tracking = Tracking(names.tracked)
        self._line: Line | None = None
        self._line_id: int | None = None
        self._broken: list[Line] = []
        self._broken_ids: list[int] = []
        self._is_closed = False

    @property
    def indexes(self) -> set[str]:
        """The indexes that have been added to; see ``WriteCommands``."""
        return self._commands.indexes

    def write(self, writes: Sequence[Write], timeout: float) -> Awaitable[list[WriteResult]]:
        """Carry out ``writes`` in order, in one exchange; see ``Level2.apply``."""
        line = self._line
        self._tracking.want(writes)
        # One that has ended between two exchanges is no broken one: nothing of its can still arrive.
        if line is None or not line.is_open or self._tracking.is_due:
            return self._prepare_and_write(writes, timeout)
        return self._begin(line, writes, timeout)

    async def _prepare_and_write(self, writes: Sequence[Write], timeout: float) -> list[WriteResult]:
        with map_errors(_ACTION):
            line = self._line if self._line is not None and self._line.is_open else await self._connect()
            if self._tracking.is_due:
                await self._track(line)
        return await self._begin(line, writes, timeout)

    async def _track(self, line: Line) -> None:
        if not self._commands.has_conditions:
            # Leases are taken by scripts there, of which this process would hear as of other processes' changes.
            self._tracking.refuse("the server has no SET ... IFEQ or no DELIFEQ, which came with Valkey 9.0")
            return
        is_answered = False
        try:
            self._tracking.answered(await line.exchange(self._tracking.commands(), self._timeout))
            is_answered = True
        finally:
            if not is_answered:
                self._break(line)

    def _begin(self, line: Line, writes: Sequence[Write], timeout: float) -> asyncio.Future[list[WriteResult]]:
        batch = self._commands.batch(writes)
        answer = _Answer(self, line, writes, batch)
        try:
            line.begin(batch.commands, timeout, answer)
        except ValkeyConnectionError as error:
            answer.set_exception(error)
        return answer.future

    def _results(self, writes: Sequence[Write], batch: Batch, replies: list[Any]) -> list[WriteResult]:
        results = self._commands.results(writes, batch, replies)
        for place, write in enumerate(writes):
            if isinstance(write, Track):
                results[place] = self._tracking.result(results[place])
        return results

    async def _connect(self) -> Line:
        if self._is_closed:
            raise L2UnavailableError("the cache was closed")
        await self._close_broken()
        line = await open_line(self._settings, self._connecting)
        asked = self._commands.questions()
        kills: list[Command] = [("CLIENT", "KILL", "ID", broken) for broken in self._broken_ids]
        is_answered = False
        try:
            line_id, *replies = await line.exchange([("CLIENT", "ID"), *asked, *kills], self._timeout)
            is_answered = True
        finally:
            if not is_answered:
                await line.aclose()
        # A user who may not ask or kill goes without: the order then holds unless an exchange is broken off.
        self._line_id = line_id if isinstance(line_id, int) else None
        self._broken_ids.clear()
        self._commands.answers(replies[: len(asked)])
        self._tracking.connection_changed()
        self._line = line
        return line

    def _break(self, line: Line) -> None:
        """Give up ``line``, on which an exchange was broken off."""
        if self._line is line:
            self._line = None
            self._broken.append(line)
            if self._line_id is not None:
                self._broken_ids.append(self._line_id)

    async def _close_broken(self) -> None:
        while self._broken:
            await self._broken.pop().aclose()

    async def aclose(self) -> None:
        """Close the connection. Never raises for a server that is gone."""
        self._is_closed = True
        await self._close_broken()
        if self._line is not None:
            await self._line.aclose()


class _Answer:
    """What becomes of the replies to one batch: the future has its results in the step in which they come."""

    __slots__ = ("_batch", "_line", "_writer", "_writes", "future")

    def __init__(self, writer: Writer, line: Line, writes: Sequence[Write], batch: Batch) -> None:
        self._writer = writer
        self._line = line
        self._writes = writes
        self._batch = batch
        self.future: asyncio.Future[list[WriteResult]] = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        # Wanted in any case: it is to be known that an exchange was broken off.
        return False

    def set_result(self, replies: list[Any]) -> None:
        try:
            results = self._writer._results(self._writes, self._batch, replies)
        # A defect: whoever waits for the batch has it, and not the line.
        except Exception as error:
            self._fail(error)
        else:
            if not self.future.done():
                self.future.set_result(results)

    def set_exception(self, error: Exception) -> None:
        self._writer._break(self._line)
        mapped = map_error(error, _ACTION)
        if mapped is not None:
            mapped.__cause__ = error
        self._fail(mapped or error)

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
