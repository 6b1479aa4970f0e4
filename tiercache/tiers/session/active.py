"""Active threads: a gauge of the threads in use, by the reads and writes of this process, or as Valkey counts them."""

from __future__ import annotations

import math
from contextlib import suppress
from operator import itemgetter
from typing import Final

__all__ = ["IDLE_SECONDS", "ActiveThreads"]

_MAX_COUNT: Final = 10_000
# Seconds for which a thread whose fields have no end counts as in use after its last use.
IDLE_SECONDS: Final = 3600.0
# Seconds for which a count of Valkey is taken. After that the estimate of this process counts.
_LONGEST_AGE: Final = 10.0
_second: Final = itemgetter(1)


class ActiveThreads:
    """The threads whose fields this process has read or written, until the last of these fields ends. Bounded.

    Beyond the bound the thread that was used longest ago is forgotten.

    Attributes:
        records_uses: Whether ``take_used`` is called once in a while.
    """

    def __init__(self) -> None:
        self.records_uses = False
        self._ends: dict[str, float] = {}
        self._used: dict[str, None] = {}
        self._is_cleared = False
        self._exact = (0, -math.inf)
        self._beside: ActiveThreads | None = None

    def pair(self, beside: ActiveThreads) -> None:
        """Count the threads of both faces of a cache, each thread once, from now on."""
        self._beside, beside._beside = beside, self

    def seen(self, thread_id: str, now: float, expires_at: float) -> None:
        """Record the use, at ``now``, of a field that ends at ``expires_at`` (inf: never)."""
        end = now + IDLE_SECONDS if expires_at == math.inf else expires_at
        end = max(end, self._ends.pop(thread_id, end))
        if len(self._ends) >= _MAX_COUNT:
            with suppress(RuntimeError):  # The other face may forget a thread at the same time.
                self._ends.pop(next(iter(self._ends)), None)
        self._ends[thread_id] = end
        if self.records_uses:
            self.changed(thread_id)

    def changed(self, thread_id: str) -> None:
        """Let ``take_used`` return the thread, whose end may have changed."""
        if self.records_uses and len(self._used) < _MAX_COUNT:
            self._used[thread_id] = None

    def take_used(self) -> tuple[str, ...]:
        """Return the threads that were used, changed or destroyed since the last call. Bounded."""
        used, self._used = tuple(self._used), {}
        return used

    def note_exact(self, count: int, now: float) -> None:
        """Record the number of threads in use in all processes, as Valkey has counted it."""
        self._exact = (count, now)

    def take_cleared(self) -> bool:
        """Return whether all threads were removed since the last call."""
        is_cleared, self._is_cleared = self._is_cleared, False
        return is_cleared

    def forget(self, thread_id: str) -> None:
        """Remove a thread that was destroyed."""
        self._ends.pop(thread_id, None)
        self.changed(thread_id)
        if self._beside is not None:
            self._beside._ends.pop(thread_id, None)

    def clear(self) -> None:
        """Remove all threads."""
        self._ends.clear()
        self._is_cleared = self.records_uses
        if self._beside is not None:
            self._beside._ends.clear()

    def count(self, now: float) -> int:
        """Return the number of threads in use. May be called from any operating system thread."""
        exact, counted_at = max(self._exact, self._exact if self._beside is None else self._beside._exact, key=_second)
        if now <= counted_at + _LONGEST_AGE:
            return exact
        ends = self._ends.copy()
        if self._beside is not None:
            for thread_id, end in self._beside._ends.copy().items():
                ends[thread_id] = max(end, ends.get(thread_id, end))
        return sum(end > now for end in ends.values())
