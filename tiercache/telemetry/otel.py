"""OpenTelemetry: a span for each public operation, where an SDK is configured.

Only the API is needed. Without an SDK there is no tracer, and then the cache makes no span object at all: an unused one
costs more than an answer from process memory. What fails here is logged once and never reaches the caller.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextvars import Token
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import Attributes

from .names import ATTRIBUTE_PREFIX, SPAN_PREFIX

__all__ = ["OtelSpan", "OtelTracer", "Tracing"]

_LOGGER: Final = logging.getLogger("tiercache")
_NO_EXPIRY: Final = -1


class Tracing:
    """The tracing of one cache: finds its tracer, and keeps from the caller what goes wrong.

    Args:
        name: The tracer's name.
        provider: The TracerProvider to get it from; None: the global one.
    """

    def __init__(self, name: str, provider: Any) -> None:
        self._name = name
        self._provider = provider
        self._failure_logged = False

    def find_tracer(self) -> OtelTracer | None:
        """Return a tracer, or None where no SDK is configured."""
        tracer = self.guard(self._find)
        return None if tracer is None else OtelTracer(tracer, self)

    def _find(self) -> trace.Tracer | None:
        provider = trace.get_tracer_provider() if self._provider is None else self._provider
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return None
        tracer: trace.Tracer = provider.get_tracer(self._name)
        # An SDK that is switched off (OTEL_SDK_DISABLED) hands these out.
        return None if isinstance(tracer, trace.NoOpTracer) else tracer

    def guard(self, function: Callable[..., Any], *args: object) -> Any:
        """Call ``function``; return None, and log the first time, where it fails."""
        try:
            return function(*args)
        except Exception as error:
            # Providers, samplers and span processors are other people's code.
            if not self._failure_logged:
                self._failure_logged = True
                _LOGGER.warning("A span could not be made (said once): %r", error)
            return None


class OtelTracer:
    """Makes the spans of one cache."""

    def __init__(self, tracer: trace.Tracer, tracing: Tracing) -> None:
        self._tracer = tracer
        self._tracing = tracing

    def start(self, operation: str, attributes: Mapping[str, object]) -> OtelSpan | None:
        """Start the span of ``operation`` and make it the current one; None if that failed."""
        span = self._tracing.guard(self._start, operation, attributes)
        return None if span is None else OtelSpan(span, self._tracing)

    def record(self, operation: str, attributes: Mapping[str, object]) -> None:
        """Make the span of an operation that is over already."""
        span = self._tracing.guard(self._start, operation, attributes)
        if span is not None:
            self._tracing.guard(span.end)

    def _start(self, operation: str, attributes: Mapping[str, object]) -> trace.Span:
        return self._tracer.start_span(SPAN_PREFIX + operation, attributes=_attributes(attributes))


class OtelSpan:
    """One operation's span, current from the start to ``end``: spans that the loader makes are its children."""

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
        """End the span. An Exception is recorded, once; a cancellation is not an error."""
        context.detach(self._token)
        if isinstance(error, Exception):
            self._tracing.guard(self._fail, error)
        self._tracing.guard(self._span.end)

    def _fail(self, error: Exception) -> None:
        self._span.record_exception(error)
        self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def _attributes(attributes: Mapping[str, object]) -> Attributes:
    """Return attributes under their public names. None is left out, but for a lifetime: there it means no expiry."""
    named: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == "ttl":
            # Whole seconds, as betterdb-agent-cache has them: one attribute must not be of two types.
            value = math.ceil(value) if isinstance(value, int | float) else _NO_EXPIRY
        if value is not None:
            named[ATTRIBUTE_PREFIX + name] = value
    return named
