"""The loaders of a kv value: their types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from ..values.json_types import KvValue

__all__ = ["KvLoader"]

T = TypeVar("T", bound=KvValue)

KvLoader: TypeAlias = Callable[[], Awaitable[T] | T] | Callable[[str], Awaitable[T] | T] | Awaitable[T]
