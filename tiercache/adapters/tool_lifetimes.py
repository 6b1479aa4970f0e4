"""The argument ``tools`` of an adapter that caches the results of tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..errors import UsageError
from ..ttl import Ttl, check_ttl

__all__ = ["lifetimes_of"]


def lifetimes_of(tools: object, check_tool: Callable[[str], object]) -> dict[str, Ttl | None]:
    """Return the lifetime of each tool by its name; None where the adapter's own lifetime counts.

    Args:
        tools: Names of tools, or a mapping of names to lifetimes.
        check_tool: Raises UsageError for a text that is no name of a tool.

    Raises:
        UsageError: ``tools``, a name or a lifetime is wrong.
    """
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise UsageError(f"tools must be names of tools, not {type(tools).__name__}")
    lifetimes: dict[str, Ttl | None] = dict(tools) if isinstance(tools, Mapping) else dict.fromkeys(tools)
    for name, ttl in lifetimes.items():
        check_tool(name)
        if ttl is not None:
            check_ttl(ttl, f"the lifetime of {name!r}")
    return lifetimes
