"""The inbox of a connection: messages that answer no command, such as those of pub/sub, for one reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from valkey.exceptions import ConnectionError as ValkeyConnectionError

__all__ = ["Inbox"]


class Inbox:
    """Messages in the order of their arrival. One reader at a time either receives them one by one or listens.

    Raises:
        valkey.exceptions.ConnectionError: The connection has ended, from ``receive`` and ``listen``.
    """

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._on_message: Callable[[Any], object] | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def put(self, message: Any) -> None:
        """Hand ``message`` to the listener in this step, or keep it until the reader receives it. Never raises."""
        if self._on_message is None:
            self._messages.append(message)
            self._wake()
            return
        try:
            self._on_message(message)
        except Exception as error:
            # The listener is at fault, not the connection: only ``listen`` ends, and later messages are kept.
            self._on_message = None
            if self._wakeup is not None and not self._wakeup.done():
                self._wakeup.set_exception(error)

    def end(self, error: Exception) -> None:
        """Let the reader fail because of ``error`` as soon as no message is left."""
        self._error = error
        self._wake()

    async def receive(self) -> Any:
        """Return the next message. Without a deadline."""
        while not self._messages:
            self._check_open()
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup
        return self._messages.popleft()

    async def listen(self, on_message: Callable[[Any], object]) -> None:
        """Call ``on_message`` with each message in the step of its arrival, until the end or until a call raises."""
        # No await between the kept messages and the first new one: no message overtakes another.
        while self._messages:
            on_message(self._messages.popleft())
        self._check_open()
        self._on_message, self._wakeup = on_message, asyncio.get_running_loop().create_future()
        try:
            await self._wakeup
        finally:
            self._on_message = None
        self._check_open()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _check_open(self) -> None:
        if self._error is not None:
            raise ValkeyConnectionError(f"the connection has ended: {self._error}")
