"""Sliding TTL: when a read must restart the window of a field in Valkey.

A read does so at most once in a quarter of the window. A field that is read all the time therefore costs four commands
a window, and a field that is no longer read lives for at least three quarters of its window after its last read.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["SlidingTtl"]

_MAX_COUNT: Final = 10_000
# Seconds after which a read asks for a renewal again, if the answer to the last renewal has not arrived.
_ANSWER_TIME: Final = 1.0


class SlidingTtl:
    """The known ends of fields, by key. Bounded: a field that is forgotten is renewed once more than needed."""

    def __init__(self) -> None:
        # Until this second a read renews nothing, and the earliest end that the field then has, unless another process
        # changed the field.
        self._known: dict[str, tuple[float, float]] = {}

    def is_due(self, key: str, expires_at: float, now: float) -> bool:
        """Return whether a read at ``now``, which found a field that ends at ``expires_at``, must renew the field."""
        known = self._known.get(key)
        return known is None or now >= known[0] or expires_at < known[1]

    def note(self, key: str, now: float, life: float) -> None:
        """Record that at ``now`` the field had ``life`` seconds left (inf: no end)."""
        # A field without an end needs no renewal. If a later read finds an end, another process has set that end.
        self._put(key, now + life / 4, math.inf if life == math.inf else now + life * 0.75)

    def note_request(self, key: str, now: float) -> None:
        """Record that at ``now`` a renewal of the field was queued. ``note`` or ``forget`` follows with the answer."""
        self._put(key, now + _ANSWER_TIME, -math.inf)

    def _put(self, key: str, due: float, end: float) -> None:
        self._known.pop(key, None)
        if len(self._known) >= _MAX_COUNT:
            del self._known[next(iter(self._known))]
        self._known[key] = (due, end)

    def forget(self, key: str) -> None:
        """Remove the record of the field."""
        self._known.pop(key, None)
