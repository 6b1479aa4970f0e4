"""Requests to each API, and the responses of a provider to them: whole, and as streams."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, Final

from tiercache.adapters.http.apis import api_for
from tiercache.adapters.http.apis.api import Api
from tiercache.adapters.http.request_key import ModelRequest, RequestKey, RequestKeys
from tiercache.adapters.http.target import path_of

URLS: Final = {
    "chat": "https://api.openai.com/v1/chat/completions",
    "responses": "https://api.openai.com/v1/responses",
    "embeddings": "https://api.openai.com/v1/embeddings",
    "messages": "https://api.anthropic.com/v1/messages",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro:generateContent",
}
GEMINI_STREAM: Final = (
    "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"
)
# The least body of each API.
BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "m", "input": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


def api(name: str) -> Api:
    """Return an API by its name."""
    found = api_for("POST", path_of(URLS[name]))
    assert found is not None
    assert found.name == name
    return found


def encoded(body: object) -> bytes:
    """Return a body as an SDK writes it."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def request(
    name: str, body: object = None, *, url: str = "", headers: Mapping[str, str] | None = None, **options: Any
) -> ModelRequest:
    """Return a request to an API: with its least body, or with ``body``, JSON or bytes."""
    raw = body if isinstance(body, bytes) else encoded(BODIES[name] if body is None else body)
    return ModelRequest("POST", url or URLS[name], headers or {}, raw, **options)


def altered(made: ModelRequest, **fields: Any) -> ModelRequest:
    """Return a request with some fields changed."""
    return ModelRequest(**{name: getattr(made, name) for name in inspect.signature(ModelRequest).parameters} | fields)


def key_of(*arguments: Any, **options: Any) -> RequestKey:
    """Return the key of a request; the arguments are those of ``request``."""
    key = RequestKeys().of(request(*arguments, **options))
    assert key is not None
    return key


def sse(*events: tuple[str, object] | object, end: str = "\n") -> bytes:
    """Return a stream: of (name, data), or of data alone; data is JSON or a str as it is."""
    lines: list[str] = []
    for event in events:
        name, data = event if isinstance(event, tuple) else ("", event)
        if name:
            lines.append(f"event: {name}")
        lines += [f"data: {data if isinstance(data, str) else json.dumps(data, separators=(',', ':'))}", ""]
    return "".join(f"{line}{end}" for line in lines).encode("utf-8", "surrogatepass")


def chat_whole(finish: object = "stop", **message: Any) -> dict[str, Any]:
    """Return a chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m-2026",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi", **message}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def chat_events(finish: object = "stop", *, done: bool = True) -> list[Any]:
    """Return the events of a chat completion."""
    start = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m-2026"}
    deltas: list[tuple[dict[str, Any], object]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "H"}, None),
        ({"content": "i"}, None),
        ({}, finish),
    ]
    chunks: list[Any] = [
        {**start, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas
    ]
    chunks.append({**start, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    return [*chunks, "[DONE]"] if done else chunks


def response_whole(status: object = "completed", **fields: Any) -> dict[str, Any]:
    """Return an object of the Responses API."""
    return {
        "id": "resp_1",
        "object": "response",
        "model": "m-2026",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        **fields,
    }


def response_events(end: str = "completed", **fields: Any) -> list[Any]:
    """Return the events of the Responses API."""
    return [
        ("response.created", {"type": "response.created", "response": response_whole("in_progress", output=[])}),
        ("response.output_text.delta", {"type": "response.output_text.delta", "delta": "Hi"}),
        (f"response.{end}", {"type": f"response.{end}", "response": {**response_whole(end), **fields}}),
    ]


def message_whole(stop: object = "end_turn", **fields: Any) -> dict[str, Any]:
    """Return a message of Anthropic."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m-2026",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": stop,
        "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 9},
        **fields,
    }


def message_events(stop: object = "end_turn") -> list[Any]:
    """Return the events of a message of Anthropic."""
    start = message_whole(None, content=[], usage={"input_tokens": 3, "output_tokens": 1})
    return [
        (event["type"], event)
        for event in (
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "H"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "i"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 2}},
            {"type": "message_stop"},
        )
    ]


def gemini_whole(finish: object = "STOP", text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """Return a response of Gemini; ``finish`` None: a part of a stream, without an end."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1, "thoughtsTokenCount": 1},
        "modelVersion": "m-2026",
        **fields,
    }


def gemini_events(finish: object = "STOP") -> list[Any]:
    """Return the events of a stream of Gemini."""
    return [gemini_whole(None, "H"), gemini_whole(finish, "i")]


# A whole answer of each API, and the same answer as events.
WHOLE: Final[Mapping[str, Any]] = {
    "chat": chat_whole(),
    "responses": response_whole(),
    "embeddings": {
        "object": "list",
        "model": "m-2026",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1e-9]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    },
    "messages": message_whole(),
    "gemini": gemini_whole(),
}
EVENTS: Final[Mapping[str, list[Any]]] = {
    "chat": chat_events(),
    "responses": response_events(),
    "messages": message_events(),
    "gemini": gemini_events(),
}
