"""Active threads: an estimate for a gauge of the threads in use, from the reads and writes of this process."""

from __future__ import annotations

import math
from contextlib import suppress
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
        self._beside: ActiveThreads | None = None

    def pair(self, beside: ActiveThreads) -> None:
        """Count the threads of both faces of a cache, each thread once, from now on."""
        self._beside, beside._beside = beside, self

    def seen(self, thread_id: str, now: float, expires_at: float) -> None:
        """Record the use, at ``now``, of a field that ends at ``expires_at`` (inf: never)."""
        end = now + _IDLE if expires_at == math.inf else expires_at
        end = max(end, self._ends.pop(thread_id, end))
        if len(self._ends) >= _MAX_COUNT:
            with suppress(RuntimeError):  # The other face may forget a thread at the same time.
                self._ends.pop(next(iter(self._ends)), None)
        self._ends[thread_id] = end

    def forget(self, thread_id: str) -> None:
        """Remove a thread that was destroyed."""
        self._ends.pop(thread_id, None)
        if self._beside is not None:
            self._beside._ends.pop(thread_id, None)

    def clear(self) -> None:
        """Remove all threads."""
        self._ends.clear()
        if self._beside is not None:
            self._beside._ends.clear()

    def count(self, now: float) -> int:
        """Return the number of threads in use. May be called from any operating system thread."""
        ends = self._ends.copy()
        if self._beside is not None:
            for thread_id, end in self._beside._ends.copy().items():
                ends[thread_id] = max(end, ends.get(thread_id, end))
        return sum(end > now for end in ends.values())
