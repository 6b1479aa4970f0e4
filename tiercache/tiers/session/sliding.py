"""When a field's life in Valkey has to be renewed: on a read, and at most once in a quarter of its window.

A field that is read all the time so costs four commands a window. One that is no longer read lives on for three
quarters of its window at least.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["SlidingTtl"]

_MAX_COUNT: Final = 10_000
# Seconds after which a field is asked for again, should there be no answer.
_ANSWER_TIME: Final = 1.0


class SlidingTtl:
    """What this process knows of the lives of fields, by key. Bounded: what is forgotten is renewed once more."""

    def __init__(self) -> None:
        # Until when a read renews nothing, and the earliest end that the field then has unless somebody changed it.
        self._known: dict[str, tuple[float, float]] = {}

    def is_due(self, key: str, expires_at: float, now: float) -> bool:
        """Return whether a read at ``now``, which found a field that ends at ``expires_at``, has to renew it."""
        known = self._known.get(key)
        return known is None or now >= known[0] or expires_at < known[1]

    def note(self, key: str, now: float, life: float) -> None:
        """Note that at ``now`` the field had ``life`` seconds before it (inf: no end)."""
        # Where there is no end to renew, any end that is found later is somebody else's doing.
        self._put(key, now + life / 4, math.inf if life == math.inf else now + life * 0.75)

    def asked(self, key: str, now: float) -> None:
        """Note that at ``now`` the field was asked to be renewed. ``note`` or ``forget`` follows with the answer."""
        self._put(key, now + _ANSWER_TIME, -math.inf)

    def _put(self, key: str, due: float, end: float) -> None:
        self._known.pop(key, None)
        if len(self._known) >= _MAX_COUNT:
            del self._known[next(iter(self._known))]
        self._known[key] = (due, end)

    def forget(self, key: str) -> None:
        """Know nothing of the field."""
        self._known.pop(key, None)
