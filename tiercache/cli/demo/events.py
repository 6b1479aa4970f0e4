"""The streamed answer of the endpoint: server-sent events with chat.completion.chunk objects.

Wire format: https://platform.openai.com/docs/api-reference/chat-streaming.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from .answers import Answer

_WORDS_PER_PART: Final = 20
LAST_EVENT: Final = b"data: [DONE]\n\n"


def event(chunk: dict[str, Any]) -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def parts_of(reply: Answer) -> list[dict[str, Any]]:
    """Return the deltas of an answer: a few words each, or a tool call and then its arguments."""
    if reply.tool_call is None:
        words = re.findall(r"\S+\s*", reply.text or "")
        texts = ["".join(words[i : i + _WORDS_PER_PART]) for i in range(0, len(words), _WORDS_PER_PART)]
        return [{"content": text} for text in texts]
    call, arguments = reply.tool_call, json.dumps(reply.tool_call.arguments)
    begin = {"index": 0, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": arguments}}
    return [{"tool_calls": [begin]}, {"tool_calls": [rest]}]


def chunks(params: dict[str, Any], reply: Answer, created: int) -> Iterator[dict[str, Any]]:
    """Yield the chat.completion.chunk objects of an answer: its role, each part, its end, and its usage if asked for.

    The usage comes last, with no choices.
    """
    usage = (params.get("stream_options") or {}).get("include_usage")

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**_frame(params, reply, created), "choices": [choice], **({"usage": None} if usage else {})}

    yield chunk({"role": "assistant", "content": None if reply.tool_call else "", "refusal": None})
    for delta in parts_of(reply):
        yield chunk(delta)
    yield chunk({}, "stop" if reply.tool_call is None else "tool_calls")
    if usage:
        yield {**_frame(params, reply, created), "choices": [], "usage": usage_of(reply)}


def usage_of(reply: Answer) -> dict[str, int]:
    """Return the token counts of an answer."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def _frame(params: dict[str, Any], reply: Answer, created: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.digest}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": params["model"],
        "system_fingerprint": "fp_tiercache_demo",
    }
