"""The deadline of the exchange whose turn it is. It counts silence, and not the length of an answer.

The deadline moves with every byte that the connection receives. So a large reply over a slow link is received, and a
silent server is noticed after ``timeout`` seconds. There is one timer for a connection, and not one for each exchange:
when it fires, it compares the bytes that have moved.

::

    begin ──▶ the timer fires ──▶ 1 no exchange waits: the timer stops
                    ▲             2 bytes were received since: the deadline has moved ────────┐
                    │             3 the first look after the deadline: look again soon ───────┤
                    │             4 bytes of a large request were sent since ─────────────────┤
                    │             5 silence: ``on_silence``                                   │
                    │                                                                         ▼
                    └──────────────────── the timer is set again ◀──── 6 enough bytes? no: ``on_silence``

3. After the loop was blocked, the timer may run before the loop reads replies that are already here. And on a busy
   machine the other end was held up too. So the second look comes after as long as the loop was blocked, at most a
   whole deadline later.
4. While a slow link carries a large request, the server has nothing to answer. The unsent bytes are counted only here,
   and only for requests of more than ``LARGE_BYTES``: the network takes a smaller request at once.
6. A connection that passes a byte from time to time is never silent. So the bytes of an exchange must move at
   ``_LEAST_BYTES_PER_SECOND`` on average; the first ``_PATIENCE`` deadlines of the exchange do not count.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Final

__all__ = ["LARGE_BYTES", "Deadline"]

# A request above this size may take a while to be sent. A TCP connection sends about 14 KB without waiting (RFC 6928).
LARGE_BYTES: Final = 14_000
_SECOND_LOOK_SECONDS: Final = 0.001
_PATIENCE: Final = 4
_LEAST_BYTES_PER_SECOND: Final = 64 * 1024


class Deadline:
    """The deadline of one connection.

    Args:
        is_waiting: Returns whether an exchange waits for replies.
        on_silence: Called once when the exchange is late. Must not raise.
        unsent_bytes: Counts the bytes that are written and not yet received by the other end.
    """

    __slots__ = (
        "_at",
        "_began_at",
        "_context",
        "_is_waiting",
        "_loop",
        "_missed_at",
        "_moved_bytes",
        "_now",
        "_on_silence",
        "_timeout",
        "_timer",
        "_timer_at",
        "_unsent",
        "_unsent_bytes",
    )

    def __init__(
        self, is_waiting: Callable[[], bool], on_silence: Callable[[], object], unsent_bytes: Callable[[], int]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._is_waiting = is_waiting
        self._on_silence = on_silence
        self._unsent_bytes = unsent_bytes
        # The timer runs here: under steady load each timer sets the next one, and the context of the first caller would
        # live as long as the connection.
        self._context = Context()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        # The deadline, and the deadline of which the first look found nothing.
        self._at = self._missed_at = 0.0
        # The exchange in turn: its seconds without a byte, its beginning, the bytes that have moved since.
        self._timeout = 0.0
        self._began_at = 0.0
        self._moved_bytes = 0
        # The unsent bytes of large requests at the last look, 0 if no large request is being sent.
        self._unsent = 0

    def begin(self, timeout: float) -> None:
        """Begin the turn of an exchange: all earlier exchanges have their replies."""
        now = self._now()
        self._timeout = timeout
        self._began_at = now
        self._moved_bytes = 0
        self._at = at = now + timeout
        if self._unsent:
            self._unsent = self._unsent_bytes()
        # The timer is earlier than the deadline most of the time, because it was set for an exchange before this one.
        if self._timer_at > at:
            self._set_timer(at)

    def received(self, byte_count: int) -> None:
        """Note bytes that do not complete the exchange in turn."""
        self._moved_bytes += byte_count
        self._at = self._now() + self._timeout

    def sending(self, byte_count: int) -> None:
        """Note that a request of more than ``LARGE_BYTES`` is being sent, at its turn or before."""
        self._unsent += byte_count

    def stop(self) -> None:
        """Stop the timer for good."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Move the deadline, or report silence; see the cases above."""
        now = self._now()
        late_by = max(0.0, now - self._timer_at) if self._timer is not None else 0.0
        # The time in which the loop was blocked says nothing about the network.
        self._began_at += late_by
        self.stop()
        self._timer_at = math.inf
        if not self._is_waiting():  # Case 1.
            return
        if now >= self._at and not self._has_sent(now):
            if self._missed_at == self._at:  # Case 5.
                self._on_silence()
                return
            self._missed_at = self._at  # Case 3.
            self._set_timer(now + max(_SECOND_LOOK_SECONDS, min(late_by, self._timeout)))
        elif self._is_trickle(now):  # Case 6.
            self._on_silence()
        else:  # Cases 2 and 4.
            self._set_timer(self._at)

    def _is_trickle(self, now: float) -> bool:
        counted_seconds = now - self._began_at - _PATIENCE * self._timeout
        return self._moved_bytes < counted_seconds * _LEAST_BYTES_PER_SECOND

    def _has_sent(self, now: float) -> bool:
        """Return whether bytes of a large request were sent since the last look; move the deadline then."""
        if not self._unsent:
            return False
        unsent = self._unsent_bytes()
        if unsent >= self._unsent:
            return False
        self._moved_bytes += self._unsent - unsent
        self._unsent = unsent
        self._at = now + self._timeout
        return True

    def _set_timer(self, at: float) -> None:
        self.stop()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self.look, context=self._context)
