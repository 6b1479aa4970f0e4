"""The argument ``scope`` of an adapter that caches the results of tools: a name that keeps results apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UsageError

__all__ = ["check_scope", "scope_of"]


def check_scope(scope: object) -> None:
    """Refuse a scope that is neither None nor a function. Raises UsageError."""
    if scope is not None and not callable(scope):
        raise UsageError(f"scope must be a function of a context, not {type(scope).__name__}")


def scope_of(scope: Callable[[Any], str], context: object) -> str:
    """Return the name that ``scope`` returns for the context of a call. Raises UsageError for any other value."""
    name: object = scope(context)
    if not isinstance(name, str):
        raise UsageError(f"scope must return a str, not {type(name).__name__}")
    return name
