"""A slow link: the moments at which the bytes of one direction pass a link of limited speed.

TCP sends the first bytes in rounds: one window of bytes, and the next window when the first acknowledgement of this one
is back. The first window has ten packets (RFC 6928), and each window is twice as long as the one before (slow start,
RFC 5681), until the windows fill the link. After a pause the connection starts again with the first window.

Where connections share a link, their pieces take turns, in the order in which the connections ask for the link.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

__all__ = ["Schedule", "SlowLink"]

_FIRST_WINDOW_BYTES: Final = 14_600
# Seconds of the link's speed that one piece carries.
_PIECE_SECONDS: Final = 0.01
# Seconds without a byte, beyond a round trip, after which a connection starts slowly again.
_PAUSE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class SlowLink:
    """A link.

    Attributes:
        bytes_per_second: The speed in each direction of each connection.
        round_trip: Seconds that a byte and its answer are on their way.
        free_at: If all connections share the speed: the moment from which the link is free, by direction. Else None.
    """

    bytes_per_second: float
    round_trip: float
    free_at: defaultdict[str, float] | None = None

    @property
    def delay(self) -> float:
        """Seconds on the way in one direction."""
        return self.round_trip / 2

    @property
    def room_bytes(self) -> int:
        """Bytes that are on the way at once; as on a real link, the sender keeps the rest."""
        return int(self.bytes_per_second * self.delay) + _FIRST_WINDOW_BYTES


class Schedule:
    """The schedule of one direction of one connection. Times are those of the event loop.

    Args:
        direction: The direction, for a link that connections share.
    """

    def __init__(self, direction: str = "") -> None:
        self._direction = direction
        # The piece that has been given its time on a shared link: the link, the bytes, the moment of the last one.
        self._booked: tuple[SlowLink, int, float] | None = None
        # The moment from which the link is free, and the round in progress: its beginning, its window, its bytes left.
        self._free_at = self._round_began_at = 0.0
        self._window_bytes = 0
        self._left_bytes = 0

    def next_piece(self, link: SlowLink, now: float, size: int) -> tuple[int, float]:
        """Return how many of ``size`` bytes that are ready at ``now`` pass next, and when the last of them has passed.

        The caller must call ``passed`` with them, or ask again.
        """
        if self._booked is not None and self._booked[0] is link:
            return self._booked[1:]
        # The round may have been begun by an earlier question, for a moment that is still to come.
        start = max(now, self._free_at, self._round_began_at)
        if start > self._free_at + link.round_trip + _PAUSE_SECONDS:
            self._window_bytes = self._left_bytes = 0
        if not self._left_bytes:
            start = self._next_round(link, start)
        most = max(1, int(link.bytes_per_second * _PIECE_SECONDS))
        piece = min(size, self._left_bytes, most)
        if link.free_at is None:
            return piece, start + piece / link.bytes_per_second
        at = max(start, link.free_at[self._direction]) + piece / link.bytes_per_second
        link.free_at[self._direction] = at
        self._booked = link, piece, at
        return piece, at

    def passed(self, piece: int, at: float) -> None:
        """Note that ``piece`` bytes have passed, the last of them at ``at``."""
        self._booked = None
        self._left_bytes -= piece
        self._free_at = at

    def _next_round(self, link: SlowLink, start: float) -> float:
        """Begin a round; return the moment at which its first byte may start."""
        if self._window_bytes:
            start = max(start, self._round_began_at + link.round_trip)
            # A longer window than the link carries in a round trip changes nothing.
            if self._window_bytes < link.bytes_per_second * link.round_trip:
                self._window_bytes *= 2
        else:
            self._window_bytes = _FIRST_WINDOW_BYTES
        self._round_began_at = start
        self._left_bytes = self._window_bytes
        return start
