"""Gemini: ``POST /v1beta/models/{model}:generateContent`` and ``:streamGenerateContent``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.providers.apis.api import Api, Reply, RequestError, as_json, data_event, token

__all__ = ["Gemini", "GeminiArray"]

_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "refusal": "PROHIBITED_CONTENT"}
_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


class Gemini(Api):
    """Answers of Gemini, whole or as server-sent events. https://ai.google.dev/api/generate-content"""

    stream_type = "text/event-stream"

    def whole(self, reply: Reply) -> dict[str, Any]:
        parts = _calls(reply) or [{"text": reply.text}]
        return _answer(reply, token("", 22), parts, reply.finish(_FINISH))

    def stream(self, reply: Reply) -> Iterator[list[bytes]]:
        for answers in self.answers(reply):
            yield [data_event(answer).replace(b"\n", b"\r\n") for answer in answers]

    def answers(self, reply: Reply) -> Iterator[list[dict[str, Any]]]:
        """Yield the answers of each part of a stream, and that of its ending."""
        response_id = token("", 22)
        for part in _calls(reply) or ({"text": text} for text in reply.texts()):
            yield [_answer(reply, response_id, [part], None)]
        yield [_answer(reply, response_id, [{"text": ""}], reply.finish(_FINISH))]

    def error(self, status: int, message: str) -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": _STATUSES.get(status, "INTERNAL")}}

    def headers(self, reply: Reply | None) -> list[tuple[str, str]]:
        return [
            ("server-timing", "gfet4t7; dur=412"),
            ("vary", "Origin, X-Origin, Referer"),
            ("x-content-type-options", "nosniff"),
            ("set-cookie", f"NID={token('', 43)}; path=/; HttpOnly"),
        ]

    def wants_stream(self, path: str, params: Mapping[str, Any]) -> bool:
        return path.endswith(":streamGenerateContent")

    def model_of(self, path: str, params: Mapping[str, Any]) -> str:
        if not isinstance(params.get("contents"), list):
            raise RequestError("* GenerateContentRequest.contents: contents is not specified")
        return path.rpartition("/")[2].partition(":")[0]


class GeminiArray(Gemini):
    """A stream of Gemini without ``alt=sse``: one JSON array, whose answers arrive one by one."""

    stream_type = "application/json; charset=UTF-8"

    def stream(self, reply: Reply) -> Iterator[list[bytes]]:
        before = b"["
        for answers in self.answers(reply):
            is_ending = "finishReason" in answers[0]["candidates"][0]
            yield [before + as_json(answers[0]) + (b"\n]\n" if is_ending else b"\n")]
            before = b",\r\n"

    def error_event(self, message: str) -> bytes:
        return b",\r\n" + as_json(self.error(500, message)) + b"\n]\n"


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [{"functionCall": {"name": call.name, "args": call.arguments}} for call in reply.tool_calls]


def _answer(reply: Reply, response_id: str, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    usage: dict[str, Any] = {
        "promptTokenCount": reply.input_tokens,
        "totalTokenCount": reply.input_tokens + reply.output_tokens,
        "candidatesTokenCount": reply.output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.input_tokens}],
    }
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": reply.model,
        "responseId": response_id,
    }
