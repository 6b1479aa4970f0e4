"""Responses: ``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tests.providers.apis.api import Reply, as_json, halves, named_event, token
from tests.providers.apis.openai import OpenAiApi

__all__ = ["Responses"]

# Parameters that a response repeats, with the values of requests that do not name them.
_REPEATED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Responses(OpenAiApi):
    """Responses. https://platform.openai.com/docs/api-reference/responses"""

    def whole(self, reply: Reply) -> dict[str, Any]:
        return _response(reply, token("resp_", 48), _status(reply), _items(reply))

    def stream(self, reply: Reply) -> Iterator[list[bytes]]:
        events = _Events()
        response_id = token("resp_", 48)
        items = _items(reply)
        begun = _response(reply, response_id, "in_progress", [])
        pending = [events.make(f"response.{name}", response=begun) for name in ("created", "in_progress")]
        for index, item in enumerate(items):
            place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
            if item["type"] == "message":
                place["content_index"] = 0
            pending += _begin(events, reply, place, item)
            kind, extra = _kind(item)
            for text in _texts(reply, item):
                yield [*pending, events.make(f"{kind}.delta", **place, delta=text, **extra)]
                pending = []
            pending += _end(events, place, item)
        status = _status(reply)
        yield [*pending, events.make(f"response.{status}", response=_response(reply, response_id, status, items))]

    def error_event(self, message: str) -> bytes:
        return _Events().make("error", code="server_error", message=message, param=None)


class _Events:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._number = 0

    def make(self, kind: str, **fields: Any) -> bytes:
        """Return the next event."""
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return named_event(event)


def _items(reply: Reply) -> list[dict[str, Any]]:
    """Return the output of a finished response: the calls of tools, or one message."""
    if reply.tool_calls:
        return [
            {
                "id": token("fc_", 48),
                "type": "function_call",
                "status": "completed",
                "arguments": as_json(call.arguments).decode(),
                "call_id": token("call_", 24),
                "name": call.name,
            }
            for call in reply.tool_calls
        ]
    status = "completed" if _status(reply) == "completed" else "incomplete"
    message = {"id": token("msg_", 48), "type": "message", "status": status, "role": "assistant"}
    return [{**message, "content": [_content(reply, reply.text)]}]


def _content(reply: Reply, text: str) -> dict[str, Any]:
    if reply.is_refusal:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _kind(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the events with the text of ``item``, and their further fields."""
    if item["type"] == "function_call":
        return "response.function_call_arguments", {}
    if item["content"][0]["type"] == "refusal":
        return "response.refusal", {}
    return "response.output_text", {"logprobs": []}


def _texts(reply: Reply, item: dict[str, Any]) -> Iterable[str]:
    return halves(item["arguments"]) if item["type"] == "function_call" else reply.texts()


def _begin(events: _Events, reply: Reply, place: dict[str, Any], item: dict[str, Any]) -> list[bytes]:
    """Return the events before the text of ``item``."""
    is_call = item["type"] == "function_call"
    empty = {**item, "status": "in_progress", **({"arguments": ""} if is_call else {"content": []})}
    added = events.make("response.output_item.added", output_index=place["output_index"], item=empty)
    if is_call:
        return [added]
    return [added, events.make("response.content_part.added", **place, part=_content(reply, ""))]


def _end(events: _Events, place: dict[str, Any], item: dict[str, Any]) -> list[bytes]:
    """Return the events after the text of ``item``."""
    kind, extra = _kind(item)
    if item["type"] == "function_call":
        done = [events.make(f"{kind}.done", **place, name=item["name"], arguments=item["arguments"])]
    else:
        part = item["content"][0]
        text = {"refusal": part["refusal"]} if kind == "response.refusal" else {"text": part["text"]}
        done = [events.make(f"{kind}.done", **place, **text, **extra)]
        done.append(events.make("response.content_part.done", **place, part=part))
    return [*done, events.make("response.output_item.done", output_index=place["output_index"], item=item)]


def _status(reply: Reply) -> str:
    if reply.script.finish == "failed":
        return "failed"
    return "incomplete" if reply.script.finish in _INCOMPLETE else "completed"


def _response(reply: Reply, response_id: str, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    reason = _INCOMPLETE.get(reply.script.finish) if status == "incomplete" else None
    return {
        "id": response_id,
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "completed_at": reply.created if status == "completed" else None,
        "error": {"code": "server_error", "message": reply.script.message} if status == "failed" else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": reply.model,
        "output": items,
        **{name: reply.params.get(name, default) for name, default in _REPEATED.items()},
        "usage": None if status == "in_progress" else _usage(reply),
    }


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }
