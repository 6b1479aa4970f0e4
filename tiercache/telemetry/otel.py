"""OpenTelemetry: a span for each public operation, if an SDK is configured.

This module needs only the API. Without an SDK there is no tracer, and the cache makes no span object at all, because an
unused span costs more than an answer from process memory. A failure here is logged once and never reaches the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import Token
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import Attributes

from ..log import CacheLog
from .names import ATTRIBUTE_PREFIX, SPAN_PREFIX

__all__ = ["OtelSpan", "OtelTracer", "Tracing"]

_NO_EXPIRY: Final = -1


class Tracing:
    """The tracing of one cache: finds the tracer, and catches the errors of the SDK.

    Args:
        name: The tracer's name.
        provider: The TracerProvider that makes the tracer; None means the global provider.
        log: The cache's log.
    """

    def __init__(self, name: str, provider: Any, log: CacheLog) -> None:
        self._name = name
        self._provider = provider
        self._log = log

    def find_tracer(self) -> OtelTracer | None:
        """Return a tracer, or None if no SDK is configured."""
        tracer = self.guard(self._find)
        return None if tracer is None else OtelTracer(tracer, self)

    def _find(self) -> trace.Tracer | None:
        provider = trace.get_tracer_provider() if self._provider is None else self._provider
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return None
        tracer: trace.Tracer = provider.get_tracer(self._name)
        # A disabled SDK (OTEL_SDK_DISABLED) returns this class.
        return None if isinstance(tracer, trace.NoOpTracer) else tracer

    def guard(self, function: Callable[..., Any], *args: object) -> Any:
        """Call ``function``; if it raises, return None and log the first error."""
        try:
            return function(*args)
        except Exception as error:
            # Providers, samplers and span processors are foreign code and may raise any error.
            self._log.warn_once("cannot make or end an OpenTelemetry span: %r", error)
            return None


class OtelTracer:
    """Makes the spans of one cache."""

    def __init__(self, tracer: trace.Tracer, tracing: Tracing) -> None:
        self._tracer = tracer
        self._tracing = tracing

    def start(self, operation: str, attributes: Mapping[str, object]) -> OtelSpan | None:
        """Start the span of ``operation`` and make it the current span; return None if that failed."""
        span = self._tracing.guard(self._start, operation, attributes)
        return None if span is None else OtelSpan(span, self._tracing)

    def record(self, operation: str, attributes: Mapping[str, object]) -> None:
        """Make the span of an operation that has already ended."""
        span = self._tracing.guard(self._start, operation, attributes)
        if span is not None:
            self._tracing.guard(span.end)

    def _start(self, operation: str, attributes: Mapping[str, object]) -> trace.Span:
        return self._tracer.start_span(SPAN_PREFIX + operation, attributes=_attributes(attributes))


class OtelSpan:
    """The span of one operation, current until ``end``: spans that the loader makes are its children."""

    __slots__ = ("_span", "_token", "_tracing")

    def __init__(self, span: trace.Span, tracing: Tracing) -> None:
        self._span = span
        self._tracing = tracing
        self._token: Token[context.Context] = context.attach(trace.set_span_in_context(span))

    def set(self, attributes: Mapping[str, object]) -> None:
        """Add attributes."""
        self._tracing.guard(self._set, attributes)

    def _set(self, attributes: Mapping[str, object]) -> None:
        self._span.set_attributes(_attributes(attributes) or {})

    def end(self, error: BaseException | None) -> None:
        """End the span and record ``error`` once if it is an Exception; a cancellation is no error."""
        context.detach(self._token)
        if isinstance(error, Exception):
            self._tracing.guard(self._fail, error)
        self._tracing.guard(self._span.end)

    def _fail(self, error: Exception) -> None:
        self._span.record_exception(error)
        self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def _attributes(attributes: Mapping[str, object]) -> Attributes:
    """Return attributes under their public names, without those that are None. A lifetime of None means no expiry."""
    named: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == "ttl":
            # Whole seconds, as in betterdb-agent-cache, because an attribute must have one type.
            value = math.ceil(value) if isinstance(value, int | float) else _NO_EXPIRY
        if value is not None:
            named[ATTRIBUTE_PREFIX + name] = value
    return named
