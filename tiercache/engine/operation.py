"""The context of one public operation: its timing and outcome, taken down in one place."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from .counters import OperationCounters

__all__ = ["Operation", "OperationLog"]


class OperationLog:
    """The operations of one cache, by name. An L1 hit is none: it is only counted."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_name: dict[str, OperationCounters] = {}

    def operation(self, name: str) -> Operation:
        """Return the context of an operation such as ``llm.store``, to be entered once."""
        return Operation(self._by_name.setdefault(name, OperationCounters()), self._now)

    def snapshot(self) -> dict[str, OperationCounters]:
        """Return a copy of the counters so far."""
        return {
            name: OperationCounters(counters.calls, counters.errors, counters.seconds)
            for name, counters in self._by_name.items()
        }


class Operation:
    """One operation under way. What it raises passes through, and counts as an error if it is no cancellation."""

    __slots__ = ("_began", "_counters", "_now")

    def __init__(self, counters: OperationCounters, now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now
        self._began = 0.0

    def __enter__(self) -> Operation:
        self._began = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counters.calls += 1
        self._counters.seconds += self._now() - self._began
        if isinstance(error, Exception):
            self._counters.errors += 1
