"""Messages of Anthropic: ``POST /v1/messages``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.providers.apis.api import Api, Reply, RequestError, as_json, halves, named_event, token

__all__ = ["Messages", "TokenCount"]

_FINISH = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicApi(Api):
    """An API of Anthropic: headers and errors. https://docs.anthropic.com/en/api/errors"""

    def error(self, status: int, message: str) -> dict[str, Any]:
        error = {"type": _ERRORS.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": token("req_01", 22)}

    def error_event(self, message: str) -> bytes:
        return named_event({"type": "error", "error": {"type": "overloaded_error", "message": message}})

    def headers(self, reply: Reply | None) -> list[tuple[str, str]]:
        left = 3_999 - (reply.number if reply is not None else 0)
        return [
            ("anthropic-organization-id", "2f9c1a6e-0000-4000-8000-7e57e57e57e5"),
            ("anthropic-ratelimit-requests-limit", "4000"),
            ("anthropic-ratelimit-requests-remaining", str(left)),
            ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:00Z"),
            ("request-id", token("req_01", 22)),
            ("set-cookie", f"_cfuvid={token('', 43)}; HttpOnly; SameSite=None; Secure; Path=/"),
            ("cf-ray", token("", 16).lower() + "-FRA"),
        ]

    def model_of(self, path: str, params: Mapping[str, Any]) -> str:
        if not isinstance(params.get("messages"), list):
            raise RequestError("messages: Field required")
        return super().model_of(path, params)


class Messages(AnthropicApi):
    """Messages. https://docs.anthropic.com/en/api/messages"""

    def whole(self, reply: Reply) -> dict[str, Any]:
        return _message(reply, _blocks(reply), _finish(reply), reply.output_tokens)

    def stream(self, reply: Reply) -> Iterator[list[bytes]]:
        message = _message(reply, [], None, 1)
        pending = [named_event({"type": "message_start", "message": message})]
        for index, block in enumerate(_blocks(reply)):
            is_call = block["type"] == "tool_use"
            empty = {**block, "input": {}} if is_call else {**block, "text": ""}
            pending.append(named_event({"type": "content_block_start", "index": index, "content_block": empty}))
            if index == 0:
                pending.append(named_event({"type": "ping"}))
            name = "partial_json" if is_call else "text"
            for text in halves(as_json(block["input"]).decode()) if is_call else reply.texts():
                delta = {"type": "input_json_delta" if is_call else "text_delta", name: text}
                yield [*pending, named_event({"type": "content_block_delta", "index": index, "delta": delta})]
                pending = []
            pending.append(named_event({"type": "content_block_stop", "index": index}))
        delta = {"stop_reason": _finish(reply), "stop_sequence": None}
        usage = {"output_tokens": reply.output_tokens}
        pending.append(named_event({"type": "message_delta", "delta": delta, "usage": usage}))
        yield [*pending, named_event({"type": "message_stop"})]


class TokenCount(AnthropicApi):
    """The count of the tokens of a message: ``POST /v1/messages/count_tokens``, which no cache answers."""

    def whole(self, reply: Reply) -> dict[str, Any]:
        return {"input_tokens": reply.input_tokens}

    def wants_stream(self, path: str, params: Mapping[str, Any]) -> bool:
        return False


def _finish(reply: Reply) -> str:
    return reply.finish(_FINISH, "tool_use")


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    if not reply.tool_calls:
        return [{"type": "text", "text": reply.text, "citations": None}]
    return [
        {"type": "tool_use", "id": token("toolu_01", 22), "name": call.name, "input": call.arguments}
        for call in reply.tool_calls
    ]


def _message(reply: Reply, blocks: list[dict[str, Any]], finish: str | None, output_tokens: int) -> dict[str, Any]:
    return {
        "id": token("msg_01", 22),
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": blocks,
        "stop_reason": finish,
        "stop_sequence": None,
        "usage": {
            "input_tokens": reply.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        },
    }
