"""Chat completions: ``POST /v1/chat/completions``, and the deployments of Azure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.providers.apis.api import Reply, RequestError, as_json, data_event, halves, token
from tests.providers.apis.openai import OpenAiApi

__all__ = ["Chat"]

_FINISH = {"refusal": "stop"}


class Chat(OpenAiApi):
    """Chat completions. https://platform.openai.com/docs/api-reference/chat"""

    def whole(self, reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
        if reply.is_refusal:
            message |= {"content": None, "refusal": reply.text}
        if reply.tool_calls:
            message |= {"content": None, "tool_calls": [*_calls(reply)]}
        choice = {"message": message, "logprobs": None, "finish_reason": _finish(reply)}
        return {
            "id": token("chatcmpl-", 29),
            "object": "chat.completion",
            "created": reply.created,
            "model": reply.model,
            "choices": [{"index": index, **choice} for index in range(_count(reply))],
            "usage": _usage(reply),
            "service_tier": "default",
            "system_fingerprint": "fp_tests",
        }

    def stream(self, reply: Reply) -> Iterator[list[bytes]]:
        chunks = _Chunks(reply)
        pending = [chunks.event({"role": "assistant", "content": None if reply.tool_calls else "", "refusal": None})]
        for delta, is_part in _deltas(reply):
            pending.append(chunks.event(delta))
            if is_part:
                yield pending
                pending = []
        pending.append(chunks.event({}, _finish(reply)))
        if chunks.has_usage:
            pending.append(chunks.usage())
        yield [*pending, b"data: [DONE]\n\n"]

    def model_of(self, path: str, params: Mapping[str, Any]) -> str:
        if not isinstance(params.get("messages"), list):
            raise RequestError("Missing required parameter: 'messages'.")
        if "/deployments/" in path:
            return path.split("/deployments/")[1].split("/")[0]
        return super().model_of(path, params)


class _Chunks:
    """Makes the chunks of one stream, which share their id."""

    def __init__(self, reply: Reply) -> None:
        options = reply.params.get("stream_options") or {}
        self.has_usage = bool(options.get("include_usage"))
        self._reply = reply
        self._head: dict[str, Any] = {
            "id": token("chatcmpl-", 29),
            "object": "chat.completion.chunk",
            "created": reply.created,
            "model": reply.model,
            "service_tier": "default",
            "system_fingerprint": "fp_tests",
        }

    def event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """Return one chunk for each choice."""
        events = []
        for index in range(_count(self._reply)):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            usage = {"usage": None} if self.has_usage else {}
            events.append(data_event({**self._head, "choices": [choice], **usage}))
        return b"".join(events)

    def usage(self) -> bytes:
        """Return the chunk without choices that ``include_usage`` adds."""
        return data_event({**self._head, "choices": [], "usage": _usage(self._reply)})


def _count(reply: Reply) -> int:
    return int(reply.params.get("n") or 1)


def _finish(reply: Reply) -> str:
    return reply.finish(_FINISH, "tool_calls")


def _deltas(reply: Reply) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the changes of the message, and whether each ends a part."""
    if not reply.tool_calls:
        name = "refusal" if reply.is_refusal else "content"
        for text in reply.texts():
            yield {name: text}, True
    for index, call in enumerate(_calls(reply)):
        arguments = call["function"]["arguments"]
        call["function"]["arguments"] = ""
        yield {"tool_calls": [{"index": index, **call}]}, False
        for text in halves(arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": text}}]}, True


def _calls(reply: Reply) -> Iterator[dict[str, Any]]:
    for call in reply.tool_calls:
        function = {"name": call.name, "arguments": as_json(call.arguments).decode()}
        yield {"id": token("call_", 24), "type": "function", "function": function}


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
