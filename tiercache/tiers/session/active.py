"""How many threads are in use: an estimate for a gauge, from what this process has seen."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["ActiveThreads"]

_MAX_COUNT: Final = 10_000
# How long a thread without an end counts as used after it was.
_IDLE: Final = 3600.0


class ActiveThreads:
    """The threads whose fields this process has read or written, until the last of these ends. Bounded.

    Beyond the bound the one that was used longest ago is forgotten.
    """

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}

    def seen(self, thread_id: str, now: float, expires_at: float) -> None:
        """Note that a field which ends at ``expires_at`` (inf: never) was used at ``now``."""
        end = now + _IDLE if expires_at == math.inf else expires_at
        end = max(end, self._ends.pop(thread_id, end))
        if len(self._ends) >= _MAX_COUNT:
            del self._ends[next(iter(self._ends))]
        self._ends[thread_id] = end

    def forget(self, thread_id: str) -> None:
        """Note that the thread is no more."""
        self._ends.pop(thread_id, None)

    def clear(self) -> None:
        """Note that no thread is left."""
        self._ends.clear()

    def count(self, now: float) -> int:
        """Return how many are in use. May be called from any thread."""
        return sum(end > now for end in tuple(self._ends.values()))
