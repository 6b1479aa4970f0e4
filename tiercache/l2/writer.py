"""The writer: ordered writes on a connection of their own.

When one of its exchanges is broken off, what was sent may still arrive; the next connection has the server end the old
one before it writes, so that no write lands behind a later one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.level2 import Command, Track, Write, WriteResult
from ..errors import L2UnavailableError
from .backplane import BusNames
from .commands import WriteCommands
from .connect import Settings
from .line import Line, open_line
from .tracking import Tracking

__all__ = ["Writer"]


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
        self._broken_ids: list[int] = []
        self._is_closed = False

    @property
    def indexes(self) -> set[str]:
        """The indexes that have been added to; see ``WriteCommands``."""
        return self._commands.indexes

    async def write(self, writes: Sequence[Write], timeout: float) -> list[WriteResult]:
        """Carry out ``writes`` in order, in one exchange; see ``Level2.apply``. Errors as for a Line."""
        # One that has ended between two exchanges is no broken one: nothing of its can still arrive.
        line = self._line if self._line is not None and self._line.is_open else await self._connect()
        tracking, commands = self._tracking, self._commands
        is_answered = False
        try:
            tracking.want(writes)
            if tracking.is_due and not commands.has_conditions:
                # Leases are taken by scripts there, of which this process would hear as of other processes' changes.
                tracking.refuse("the server has no SET ... IFEQ or no DELIFEQ, which came with Valkey 9.0")
            elif tracking.is_due:
                tracking.answered(await line.exchange(tracking.commands(), self._timeout))
            groups = [commands.of(write) for write in writes]
            replies = await line.exchange([command for group in groups for command in group], timeout)
            is_answered = True
        finally:
            if not is_answered:
                await self._break(line)
        results: list[WriteResult] = []
        start = 0
        for write, group in zip(writes, groups, strict=True):
            own = replies[start : start + len(group)]
            start += len(group)
            results.append(tracking.result(own[0]) if isinstance(write, Track) else commands.result(write, own))
        return results

    async def _connect(self) -> Line:
        if self._is_closed:
            raise L2UnavailableError("the cache was closed")
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

    async def _break(self, line: Line) -> None:
        self._line = None
        if self._line_id is not None:
            self._broken_ids.append(self._line_id)
        await line.aclose()

    async def aclose(self) -> None:
        """Close the connection. Never raises for a server that is gone."""
        self._is_closed = True
        if self._line is not None:
            await self._line.aclose()
