"""One call of a tool, and its result: of its own run, of another call, or from the cache."""

from __future__ import annotations

from typing import Any, Final

from ..extras import missing_extra
from .serialization import from_json, to_json

try:
    from langchain_core.messages import ToolMessage
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["NotStoredError", "ToolCall"]

_FIELD: Final = "langchain"


class NotStoredError(Exception):
    """The tool has run, and its result is not stored. Every call that waited for the run gets this error.

    Attributes:
        message: The result for the other calls, or None if each must run the tool itself.
    """

    def __init__(self, message: ToolMessage | None) -> None:
        super().__init__("the result of the tool is not stored")
        self.message = message


class ToolCall:
    """One call of a tool.

    Args:
        request: The request of LangChain's agent.

    Attributes:
        has_begun: Whether this call has run the tool.
    """

    def __init__(self, request: Any) -> None:
        self._call_id = request.tool_call["id"]
        self._own: Any = None
        self.has_begun = False

    def value_of(self, result: Any) -> dict[str, Any]:
        """Return the value to store for the result of this call's own run.

        Raises:
            NotStoredError: The result is a Command, an error, or a message that JSON does not restore.
        """
        self._own = result
        if not isinstance(result, ToolMessage):
            raise NotStoredError(None)
        message = _with_ids(result, "")
        data = to_json(message) if result.status == "success" else None
        if data is None:
            raise NotStoredError(message)
        return {_FIELD: data}

    def result_of(self, value: Any) -> Any:
        """Return the result of this call, or None if ``value``, which the cache has returned, is no message."""
        if self._own is not None:
            return self._own
        data = value.get(_FIELD) if isinstance(value, dict) else None
        message = from_json(data, ToolMessage)
        return None if message is None else _with_ids(message, self._call_id)

    def result_after(self, error: Exception) -> Any:
        """Return the result of this call after ``error``, or None if the call must run the tool itself.

        Raises:
            Exception: ``error``, if the call's own run has raised it.
        """
        if self._own is not None:
            return self._own
        if self.has_begun:
            raise error
        if isinstance(error, NotStoredError) and error.message is not None:
            return _with_ids(error.message, self._call_id)
        # The interrupt or the Command of another call belongs to that call; Valkey may have refused an answer.
        return None


def _with_ids(message: ToolMessage, call_id: str | None) -> ToolMessage:
    """Return a copy of ``message`` for another call. LangGraph gives each message of a state an id of its own."""
    return message.model_copy(update={"tool_call_id": call_id, "id": None})
