"""Active threads: an estimate for a gauge of the threads in use, from the reads and writes of this process."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["ActiveThreads"]

_MAX_COUNT: Final = 10_000
# Seconds for which a thread whose fields have no end counts as in use after its last use.
_IDLE: Final = 3600.0


class ActiveThreads:
    """The threads whose fields this process has read or written, until the last of these fields ends. Bounded.

    Beyond the bound the thread that was used longest ago is forgotten.
    """

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}

    def seen(self, thread_id: str, now: float, expires_at: float) -> None:
        """Record the use, at ``now``, of a field that ends at ``expires_at`` (inf: never)."""
        end = now + _IDLE if expires_at == math.inf else expires_at
        end = max(end, self._ends.pop(thread_id, end))
        if len(self._ends) >= _MAX_COUNT:
            del self._ends[next(iter(self._ends))]
        self._ends[thread_id] = end

    def forget(self, thread_id: str) -> None:
        """Remove a thread that was destroyed."""
        self._ends.pop(thread_id, None)

    def clear(self) -> None:
        """Remove all threads."""
        self._ends.clear()

    def count(self, now: float) -> int:
        """Return the number of threads in use. May be called from any operating system thread."""
        return sum(end > now for end in tuple(self._ends.values()))
