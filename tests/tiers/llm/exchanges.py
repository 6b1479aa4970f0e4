"""Exchanges of wrapped clients that the tests store and read."""

from __future__ import annotations

import json
from typing import Any

from tiercache.tiers.llm.codec import LlmCodec
from tiercache.tiers.llm.entry import encode
from tiercache.tiers.llm.exchange import Exchange, encode_exchange
from tiercache.tiers.values.compression import Compression

HEADERS = (("content-type", "text/event-stream; charset=utf-8"), ("x-request-id", "req_1"))
SHORT = "Four.\n\tIt is a square: 2² \U0001f44d"
LONG = "".join(f'Sentence {number} says "something" of its own, é and \U0001f44d.\n' for number in range(40))


def chat_body(text: str) -> bytes:
    """Return the body of a whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "choices": [choice]}).encode()


def stream_body(text: str) -> bytes:
    """Return the body of a streamed chat completion: one event for each word."""
    events = []
    for word in text.split(" "):
        choice = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": [choice]}
        events.append(f"data: {json.dumps(chunk)}\n\n")
    return "".join([*events, "data: [DONE]\n\n"]).encode()


def exchange_of(
    text: str = SHORT, body: bytes | None = None, *, headers: tuple[tuple[str, str], ...] = HEADERS, **answer: Any
) -> tuple[Exchange, bytes]:
    """Return an exchange and its bytes, not compressed.

    Args:
        text: The text of the answer.
        body: None: a stream of ``text``.
        answer: Other parts of the answer than those of these tests.
    """
    parts = {"model": "gpt-4o", "stored_at_ms": 1_700_000_000_000, "tokens": {"input": 3, "output": 4}, "cost": 0.5}
    entry, data = encode(response=text, content_blocks=None, **parts | answer)
    body = stream_body(text) if body is None else body
    return encode_exchange(entry, data, status=200, headers=headers, body=body)


def codec(above: int | None = None, max_bytes: int | None = None) -> LlmCodec:
    """Return the codec of a tier with these options."""
    return LlmCodec(Compression(above=above, max_bytes=max_bytes, as_text=True))
