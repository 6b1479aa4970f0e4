"""The context of one public operation: the one place that records its duration, span and outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from ..hooks.calls import HookCalls
from .counters import OperationCounters
from .lookup import Lookup

__all__ = ["HasAttributes", "Operation", "OperationLog", "Span", "Tracer"]


class HasAttributes(Protocol):
    """The key of an operation, with the attributes of the operation's spans."""

    @property
    def attributes(self) -> dict[str, object]: ...


class Span(Protocol):
    """The span of one operation in a trace. No method raises."""

    def set(self, attributes: Mapping[str, object]) -> None:
        """Add ``attributes`` to the span."""
        ...

    def end(self, error: BaseException | None) -> None:
        """End the span: as failed with ``error``, or as successful if ``error`` is None."""
        ...


class Tracer(Protocol):
    """The maker of spans. No method raises."""

    def start(self, operation: str, attributes: Mapping[str, object]) -> Span | None:
        """Begin the span of an operation and return the span, or None if the tracer made no span."""
        ...

    def record(self, operation: str, attributes: Mapping[str, object]) -> None:
        """Make the span of an operation that has already ended."""
        ...


class OperationLog:
    """The operations of one cache, by name.

    A lookup that L1 answers is no operation here: the cache counts the hit and, with a tracer, records its span.
    """

    def __init__(self, now: Callable[[], float], hooks: HookCalls) -> None:
        self._now = now
        self._hooks = hooks
        self._by_name: dict[str, OperationCounters] = {}

    def operation(self, name: str, tracer: Tracer | None, attributes: Mapping[str, object]) -> Operation:
        """Return a new context for an operation such as ``llm.store``. Enter the context once."""
        if tracer is None:
            return Operation(name, self.counters(name), self._now, self._hooks)
        return _TracedOperation(name, self.counters(name), self._now, self._hooks, (tracer, attributes))

    def counters(self, name: str) -> OperationCounters:
        """Return the counters of the operation ``name``, for callers that need no span."""
        counters = self._by_name.get(name)
        if counters is None:
            counters = self._by_name[name] = OperationCounters()
        return counters

    def snapshot(self) -> dict[str, OperationCounters]:
        """Return a copy of all counters. Any thread may call this."""
        copies: dict[str, OperationCounters] = {}
        for name, counters in self._by_name.copy().items():
            copies[name] = OperationCounters()
            copies[name].add(counters)
        return copies


class Operation:
    """One operation in progress. Exceptions pass through; each counts as an error, except a cancellation."""

    __slots__ = ("_began", "_counters", "_hooks", "_name", "_now")

    def __init__(self, name: str, counters: OperationCounters, now: Callable[[], float], hooks: HookCalls) -> None:
        self._name = name
        self._counters = counters
        self._now = now
        self._hooks = hooks
        self._began = 0.0

    def set(self, name: str, value: object) -> None:
        """Set an attribute of the operation's span, if there is a span; telemetry/names.py lists the attributes."""

    def found(self, lookup: Lookup) -> None:
        """Set the outcome of a lookup in the span, if there is a span."""

    def __enter__(self) -> Self:
        self._began = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counters.count(self._now() - self._began, failed=isinstance(error, Exception))
        if isinstance(error, Exception):
            self._hooks.error(self._name, error)


class _TracedOperation(Operation):
    """An operation with a span, unless the tracer failed to make the span."""

    __slots__ = ("_attributes", "_span", "_tracer")

    def __init__(
        self,
        name: str,
        counters: OperationCounters,
        now: Callable[[], float],
        hooks: HookCalls,
        span: tuple[Tracer, Mapping[str, object]],
    ) -> None:
        super().__init__(name, counters, now, hooks)
        self._tracer, self._attributes = span
        self._span: Span | None = None

    def set(self, name: str, value: object) -> None:
        if self._span is not None:
            self._span.set({name: value})

    def found(self, lookup: Lookup) -> None:
        if self._span is not None:
            self._span.set({"hit": lookup.is_hit, "source": lookup.source, "coalesced": lookup.coalesced})

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
