"""The parameters of a tool: whether LangChain fills any of them from elsewhere than the arguments of the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["ToolParameters"]

# Parameters that LangChain fills, and that do not change the result.
_HARMLESS: Final = frozenset({"callbacks", "run_manager"})
_MANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Most tools to remember. An agent has a few tools; a program may make tools for each run.
_MOST_TOOLS: Final = 256


class ToolParameters:
    """Remembers for each tool whether it has hidden parameters."""

    def __init__(self) -> None:
        # By the identity of the tool, which has no hash; the tool beside the answer keeps the identity.
        self._known: dict[int, tuple[Any, bool]] = {}

    def are_hidden(self, tool: Any) -> bool:
        """Return whether the tool takes parameters that the model does not see: its result may depend on them."""
        known = self._known.get(id(tool))
        if known is None:
            if len(self._known) >= _MOST_TOOLS:
                self._known = {}
            known = self._known[id(tool)] = tool, _has_hidden(tool)
        return known[1]


def _has_hidden(tool: Any) -> bool:
    function = getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool._run
    try:
        parameters = inspect.signature(function).parameters.values()
        seen = {*_seen_by_model(tool.tool_call_schema), *_HARMLESS}
    # A function may have no signature, and a tool of the caller's own may raise any exception.
    except Exception:
        return True
    return any(parameter.name not in seen for parameter in parameters if parameter.kind not in _MANY)


def _seen_by_model(schema: Any) -> Iterable[str]:
    """Return the names of the arguments in the schema of a tool: JSON, or a class of pydantic 2 or 1."""
    fields: Iterable[str]
    if isinstance(schema, dict):
        fields = schema.get("properties", {})
    else:
        fields = getattr(schema, "model_fields", None) or getattr(schema, "__fields__", {})
    return fields
