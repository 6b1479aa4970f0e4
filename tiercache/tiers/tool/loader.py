"""The loader of a tool call: its type, and the arguments that it gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from ...engine.memory.loaders import accepts_arguments
from ...errors import UsageError
from ..values.json_types import Json

__all__ = ["T", "ToolLoader", "keywords_for"]

T = TypeVar("T", bound=Json)

ToolLoader: TypeAlias = Callable[..., Awaitable[T] | T] | Awaitable[T]


def keywords_for(loader: Callable[..., Any], args: Any) -> Mapping[str, Any]:
    """Return the keyword arguments for ``loader``: ``args``, or none if the loader takes no argument.

    Raises:
        UsageError: The loader takes arguments, and ``args`` are no mapping of keyword arguments.
    """
    if args is None or not accepts_arguments(loader):
        return {}
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise UsageError("args must be a mapping of keyword arguments, or the loader must take no argument")
    return args
