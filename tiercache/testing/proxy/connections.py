"""The connections of a proxy: starts the task of each, ends it, and keeps the errors of ``lane_of``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Literal

from .connection import Connection
from .lanes import Lanes, Rule
from .target import Target

__all__ = ["Connections"]


class Connections:
    """The open and the half-open connections of a proxy.

    Args:
        seed: Seeds the delays; the n-th connection has the same delays for the same seed.
    """

    def __init__(self, target: Target, lanes: Lanes, seed: int) -> None:
        self._target = target
        self._lanes = lanes
        self._seed = seed
        self._accepted_count = 0
        # The keys are ordered by their arrival.
        self._open: dict[Connection, None] = {}
        self._silent: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []

    def present(self, lane: str | None) -> list[Connection]:
        """Return the open connections of ``lane``, or all of them if ``lane`` is None, without half-open ones."""
        return [connection for connection in self._open if lane is None or lane == connection.state.lane]

    def change(self, lane: str | None, change: Callable[[Rule], Rule]) -> None:
        """Change the rule of ``lane``, or every rule if ``lane`` is None, for present and later connections."""
        self._lanes.change(lane, change)
        for connection in self._open:
            connection.state.wake()

    def add(self, client: socket.socket) -> None:
        """Start to carry the bytes of an accepted socket."""
        self._accepted_count += 1
        connection = Connection(client, self._target, f"{self._seed}:{self._accepted_count}", self._lanes)
        self._open[connection] = None
        task = connection.task = asyncio.get_running_loop().create_task(connection.carry(), name="chaos-proxy")
        self._tasks.add(task)
        # A callback and not a ``finally`` in the task: a task cancelled before its first step never runs.
        task.add_done_callback(lambda task: self._ended(connection, task))

    def drop(self, connection: Connection, fate: Literal["reset", "silent"]) -> None:
        """End a connection: reset its sockets, or keep them open and silent."""
        del self._open[connection]
        connection.state.fate = fate
        if fate == "silent":
            self._silent.append(connection)
        connection.cancel()

    async def close_all(self) -> list[BaseException]:
        """End every connection and every task, drop the held bytes, and return the errors of ``lane_of``."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in [*self._open, *self._silent]:
            connection.close()
        self._open.clear()
        self._silent.clear()
        errors, self._errors = self._errors, []
        return errors

    def _ended(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open.pop(connection, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The group contains the error of ``lane_of``, the only foreign code that runs in the task.
            self._errors += error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
            connection.state.fate = "reset"
        if connection.state.fate != "silent":
            connection.close()
