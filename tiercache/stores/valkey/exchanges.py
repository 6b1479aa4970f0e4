"""Exchanges: commands in flight on a multiplexed connection, and the receivers of their replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .roles import ReplicaError, check_role

__all__ = ["Exchange", "Introduced", "LateError", "ReplyFuture"]


class ReplyFuture(Protocol):
    """The receiver of an exchange's replies: a future, or an object that uses the replies in the step they arrive."""

    def done(self) -> bool:
        """Return whether the replies are no longer wanted."""
        ...

    def set_result(self, replies: list[Any], /) -> None:
        """Take the replies. Must not raise."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Take the error with which the connection ended, or LateError. Must not raise."""
        ...


class LateError(TimeoutError):
    """An exchange has no answer in time, and its connection goes on: the server may still carry the commands out."""


class Exchange:
    """Commands in flight: the replies received so far, their expected count, and their receiver.

    Args:
        timeout: Seconds without a byte, at the turn of the exchange.
        ends_at: Of a batch of writes: the moment up to which it may wait behind other exchanges. Else 0.
    """

    __slots__ = ("count", "ends_at", "future", "replies", "timeout")

    def __init__(self, count: int, timeout: float, future: ReplyFuture, ends_at: float) -> None:
        self.count = count
        self.timeout = timeout
        self.future = future
        self.replies: list[Any] = []
        self.ends_at = ends_at


class Introduced:
    """The ReplyFuture of the first exchange: takes the introduction's replies out, and leaves a replica.

    Args:
        leave: Ends the connection.
        count: The replies of the introduction, in front of those for ``future``.
    """

    __slots__ = ("_count", "_future", "_leave")

    def __init__(self, leave: Callable[[Exception], object], count: int, future: ReplyFuture) -> None:
        self._leave = leave
        self._count = count
        self._future = future

    def done(self) -> bool:
        return False  # The role counts even if no caller waits any more.

    def set_result(self, replies: list[Any], /) -> None:
        try:
            check_role(replies[self._count - 1])
        except ReplicaError as error:
            self.set_exception(error)
            self._leave(error)
            return
        if not self._future.done():
            self._future.set_result(replies[self._count :])

    def set_exception(self, error: Exception, /) -> None:
        if not self._future.done():
            self._future.set_exception(error)
