"""Paths to APIs, and the answers of the server that come from no model."""

from __future__ import annotations

from typing import Any

from tests.providers.apis.api import Api
from tests.providers.apis.chat import Chat
from tests.providers.apis.embeddings import Embeddings
from tests.providers.apis.gemini import Gemini, GeminiArray
from tests.providers.apis.messages import Messages, TokenCount
from tests.providers.apis.responses import Responses

__all__ = ["api_of", "listed_models"]

_BY_ENDING: dict[str, Api] = {
    "/chat/completions": Chat(),
    "/responses": Responses(),
    "/embeddings": Embeddings(),
    "/v1/messages": Messages(),
    "/v1/messages/count_tokens": TokenCount(),
    ":generateContent": Gemini(),
}
_GEMINI_EVENTS, _GEMINI_ARRAY = Gemini(), GeminiArray()
_MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-5-5")


def api_of(method: str, path: str, query: str) -> Api | None:
    """Return the API that answers a request, or None if no model answers it."""
    if method != "POST":
        return None
    if path.endswith(":streamGenerateContent"):
        return _GEMINI_EVENTS if "alt=sse" in query.split("&") else _GEMINI_ARRAY
    return next((api for ending, api in _BY_ENDING.items() if path.endswith(ending)), None)


def listed_models() -> dict[str, Any]:
    """Return the body of ``GET /v1/models``, in a form that the clients of OpenAI and of Anthropic read."""
    models = [
        {
            "id": name,
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "tests",
            "type": "model",
            "display_name": name,
            "created_at": "2025-01-01T00:00:00Z",
        }
        for name in _MODELS
    ]
    return {"object": "list", "data": models, "has_more": False, "first_id": _MODELS[0], "last_id": _MODELS[-1]}
