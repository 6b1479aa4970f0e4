"""Server-assisted tracking: the server reports the keys that clients change, except this process's own writer.

The writer's connection turns tracking on (CLIENT TRACKING in broadcast mode; NOLOOP leaves out the writer's own
changes) and redirects the messages to the connection of the subscription. Tracking ends when either connection ends,
and the server does not report that end. Therefore this process turns tracking on again with each new connection of
either kind, and asks the server for the state of tracking (CLIENT TRACKINGINFO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from valkey.exceptions import ResponseError

from ...engine.level2.writes import Command, Track, Write, WriteResult
from ...errors import L2CommandError
from .errors import is_not_now, map_error

__all__ = ["Tracking"]


class Tracking:
    """The state of tracking on the writer's connection.

    Args:
        prefixes: Prefixes of the tracked keys.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = prefixes
        self._subscriber: int | None = None
        self._is_on = False
        # Counts how often tracking was turned on.
        self._number = 0
        self._refusal: Exception | None = None

    def note_subscriber(self, writes: Sequence[Write]) -> None:
        """Remember the subscriber that a ``Track`` among ``writes`` names, if there is one."""
        for write in writes:
            if isinstance(write, Track) and write.subscriber != self._subscriber:
                self._subscriber = write.subscriber
                self._is_on = False
                self._refusal = None

    def connection_changed(self) -> None:
        """Note that the writer has a new connection."""
        self._is_on = False

    @property
    def is_due(self) -> bool:
        """Whether tracking must be turned on before the next write."""
        return self._subscriber is not None and not self._is_on and self._refusal is None

    def commands(self) -> list[Command]:
        """Return the commands that turn tracking on."""
        assert self._subscriber is not None
        prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
        # OFF first: the server refuses a second ON because the prefixes overlap those of the first.
        return [
            ("CLIENT", "TRACKING", "OFF"),
            ("CLIENT", "TRACKING", "ON", "REDIRECT", self._subscriber, "BCAST", *prefixes, "NOLOOP"),
        ]

    def refuse(self, reason: str) -> None:
        """Leave tracking off because of ``reason``, which every ``Track`` has as its result."""
        self._refusal = L2CommandError(reason)

    def take_replies(self, replies: Sequence[Any]) -> None:
        """Note from the replies to ``commands`` whether tracking is on."""
        reply = replies[-1]
        if isinstance(reply, ResponseError):
            # The subscription's connection has ended, which the listener is about to notice; or the server cannot
            # answer now. The next write tries again.
            if "does not exist" in str(reply) or is_not_now(reply):
                return
            self._refusal = map_error(reply, "CLIENT TRACKING") or L2CommandError(str(reply))
        else:
            self._is_on = True
            self._number += 1

    def result(self, info: Any) -> WriteResult:
        """Return the result of a ``Track`` from the reply to CLIENT TRACKINGINFO."""
        if self._refusal is not None:
            return self._refusal
        if isinstance(info, ResponseError):
            return self._number  # A user without permission to ask works without the answer.
        flags = info[1] if isinstance(info, list) and len(info) > 1 else ()
        if b"on" not in flags or b"broken_redirect" in flags:
            # Tracking has ended since. The next ``Track`` turns it on again, under another number.
            self._is_on = False
        return self._number
