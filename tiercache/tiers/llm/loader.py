"""The loaders of an answer: their types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from .result import LlmResponse

__all__ = ["LlmAnswer", "LlmLoader", "PlainLlmLoader"]

P = TypeVar("P", bound=Mapping[str, Any])

LlmAnswer: TypeAlias = str | LlmResponse
PlainLlmLoader: TypeAlias = Callable[[], LlmAnswer | Awaitable[LlmAnswer]]
LlmLoader: TypeAlias = PlainLlmLoader | Callable[[P], LlmAnswer | Awaitable[LlmAnswer]]
