"""Session services of ADK that the tests compare, and the form in which results are compared."""

from __future__ import annotations

from typing import Any

from google.adk.events import Event, EventActions
from google.adk.sessions import Session
from google.genai import types

__all__ = ["WHO", "event", "normal", "rich_event"]

WHO = {"app_name": "app", "user_id": "ann"}


def event(text: str = "Hi", at: float | None = None, **state: Any) -> Event:
    """Return an event with a text, at a time, that changes a state. ``app__a`` stands for the key ``app:a``."""
    delta = {key.replace("__", ":"): value for key, value in state.items()}
    content = types.Content(role="user", parts=[types.Part(text=text)])
    made = Event(author="user", invocation_id="i", content=content, actions=EventActions(state_delta=delta))
    if at is not None:
        made.timestamp = at
    return made


def rich_event() -> Event:
    """Return an event with parts of every kind, and with most fields."""
    parts = [
        types.Part(text="thinking", thought=True, thought_signature=b"\xff\x00"),
        types.Part(inline_data=types.Blob(data=bytes(range(256)), mime_type="image/png")),
        types.Part(file_data=types.FileData(file_uri="gs://a/b", mime_type="image/png")),
        types.Part(function_call=types.FunctionCall(id="c1", name="search", args={"q": ["é", 1.5, {"a": 2**60}]})),
        types.Part(function_response=types.FunctionResponse(id="c1", name="search", response={"found": [None]})),
    ]
    return Event(
        author="agent",
        invocation_id="i",
        branch="a.b",
        content=types.Content(role="model", parts=parts),
        actions=EventActions(state_delta={"none": None}, artifact_delta={"f": 1}, transfer_to_agent="b", escalate=True),
        long_running_tool_ids={"b", "a"},
        usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=1, candidates_token_count=2),
        finish_reason=types.FinishReason.STOP,
        error_code="SAFETY",
        error_message="refused",
        custom_metadata={"a": {"b": [1]}},
        turn_complete=True,
    )


def normal(result: Any) -> Any:
    """Return a result of a service without the ids and the times that differ between services."""
    if isinstance(result, Session):
        texts = [each.content.parts[0].text if each.content and each.content.parts else None for each in result.events]
        return (result.app_name, result.user_id, result.id, result.state, texts)
    if hasattr(result, "sessions"):
        return [normal(session) for session in result.sessions]
    return result
