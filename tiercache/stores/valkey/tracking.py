"""Server-assisted tracking: the server tells a subscription which keys anybody but this process has changed.

It is turned on on the connection of the writes (CLIENT TRACKING in broadcast mode with NOLOOP, so that they are not
echoed) and redirected to the subscription's connection. With either of them it ends, and nobody is told that it has: so
it is turned on anew with each, and asked after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from valkey.exceptions import ResponseError

from ...engine.level2.writes import Command, Track, Write, WriteResult
from ...errors import L2CommandError
from .errors import map_error

__all__ = ["Tracking"]


class Tracking:
    """Tracking on the connection of the writes.

    Args:
        prefixes: What the keys of interest begin with.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = prefixes
        self._subscriber: int | None = None
        self._is_on = False
        self._number = 0
        self._refusal: Exception | None = None

    def want(self, writes: Sequence[Write]) -> None:
        """Take down to whom the server is to tell, if ``writes`` say so."""
        for write in writes:
            if isinstance(write, Track) and write.subscriber != self._subscriber:
                self._subscriber = write.subscriber
                self._is_on = False
                self._refusal = None

    def connection_changed(self) -> None:
        """Note that the connection of the writes is a new one."""
        self._is_on = False

    @property
    def is_due(self) -> bool:
        """Whether it has to be turned on."""
        return self._subscriber is not None and not self._is_on and self._refusal is None

    def commands(self) -> list[Command]:
        """Return the commands that turn it on."""
        assert self._subscriber is not None
        prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
        # Off first: turned on a second time it complains of overlapping prefixes.
        return [
            ("CLIENT", "TRACKING", "OFF"),
            ("CLIENT", "TRACKING", "ON", "REDIRECT", self._subscriber, "BCAST", *prefixes, "NOLOOP"),
        ]

    def refuse(self, reason: str) -> None:
        """Do without, for ``reason``."""
        self._refusal = L2CommandError(reason)

    def answered(self, replies: Sequence[Any]) -> None:
        """Take down the replies to ``commands``."""
        refusal = replies[-1]
        if isinstance(refusal, ResponseError):
            if "does not exist" in str(refusal):
                return  # The subscriber has ended, and is about to notice.
            self._refusal = map_error(refusal, "CLIENT TRACKING") or L2CommandError(str(refusal))
        else:
            self._is_on = True
            self._number += 1

    def result(self, info: Any) -> WriteResult:
        """Return the result of a ``Track`` from the reply to CLIENT TRACKINGINFO."""
        if self._refusal is not None:
            return self._refusal
        if isinstance(info, ResponseError):
            return self._number  # Who may not ask goes without the answer.
        flags = info[1] if isinstance(info, list) and len(info) > 1 else ()
        if b"on" not in flags or b"broken_redirect" in flags:
            # It has ended since. The next question finds it on again, under another number.
            self._is_on = False
        return self._number
