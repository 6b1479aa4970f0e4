"""The context of one public operation: its timing, span and outcome, taken down in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from .counters import OperationCounters
from .lookup import Lookup

__all__ = ["Operation", "OperationLog", "Span", "Tracer"]


class Span(Protocol):
    """What traces show of one operation. No method raises."""

    def set(self, attributes: Mapping[str, object]) -> None:
        """Add attributes."""
        ...

    def end(self, error: BaseException | None) -> None:
        """Note the outcome: well, or by ``error``."""
        ...


class Tracer(Protocol):
    """Where spans are made. No method raises."""

    def start(self, operation: str, attributes: Mapping[str, object]) -> Span | None:
        """Begin the span of an operation; None for none."""
        ...

    def record(self, operation: str, attributes: Mapping[str, object]) -> None:
        """Make the span of an operation that is over already."""
        ...


class OperationLog:
    """The operations of one cache, by name. What L1 answers is none: it is only counted, and perhaps traced."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_name: dict[str, OperationCounters] = {}

    def operation(self, name: str, tracer: Tracer | None, attributes: Mapping[str, object]) -> Operation:
        """Return the context of an operation such as ``llm.store``, to be entered once."""
        if tracer is None:
            return Operation(self.counters(name), self._now)
        return _TracedOperation(name, self.counters(name), self._now, tracer, attributes)

    def counters(self, name: str) -> OperationCounters:
        """Return what to count the operation ``name`` with, for one that has no span."""
        counters = self._by_name.get(name)
        if counters is None:
            counters = self._by_name[name] = OperationCounters()
        return counters

    def snapshot(self) -> dict[str, OperationCounters]:
        """Return a copy of the counters so far. May be called from any thread."""
        copies: dict[str, OperationCounters] = {}
        for name, counters in tuple(self._by_name.items()):
            copies[name] = OperationCounters()
            copies[name].add(counters)
        return copies


class Operation:
    """One operation under way. What it raises passes through, and counts as an error if it is no cancellation."""

    __slots__ = ("_began", "_counters", "_now")

    def __init__(self, counters: OperationCounters, now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now
        self._began = 0.0

    def set(self, name: str, value: object) -> None:
        """Say something of the operation in its span, if it has one; telemetry/names.py lists what may be said."""

    def found(self, found: Lookup) -> None:
        """Say how a lookup ended."""

    def __enter__(self) -> Self:
        self._began = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counters.count(self._now() - self._began, failed=isinstance(error, Exception))


class _TracedOperation(Operation):
    """One with a span, unless the tracer has failed to make it."""

    __slots__ = ("_attributes", "_name", "_span", "_tracer")

    def __init__(
        self,
        name: str,
        counters: OperationCounters,
        now: Callable[[], float],
        tracer: Tracer,
        attributes: Mapping[str, object],
    ) -> None:
        super().__init__(counters, now)
        self._name = name
        self._tracer = tracer
        self._attributes = attributes
        self._span: Span | None = None

    def set(self, name: str, value: object) -> None:
        if self._span is not None:
            self._span.set({name: value})

    def found(self, found: Lookup) -> None:
        if self._span is not None:
            self._span.set({"hit": found.is_hit, "source": found.source, "coalesced": found.coalesced})

    def __enter__(self) -> Self:
        super().__enter__()
        self._span = self._tracer.start(self._name, self._attributes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._span is not None:
            self._span.end(error)
