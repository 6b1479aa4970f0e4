"""An llm entry and its bytes in Valkey.

    {"response":str,"model":str,"storedAt":int_ms[,"tokens":{...}][,"cost":float]}
    {"response":str,"contentBlocks":[...],"model":str,"storedAt":int_ms[,"tokens":{...}][,"cost":float]}

in this order, as ``compact_json`` writes it. ``storedAt`` is the wall clock in milliseconds. ``tokens`` is the caller's
mapping; it is left out if it is empty or not given. Readers accept further fields. A compressed entry is ``tc:zstd:``
and base64.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ..keys.canonical_json import compact_json, text_json

__all__ = ["LlmEntry", "encode", "joined_text", "shared_model"]


class LlmEntry(msgspec.Struct, frozen=True, gc=False):
    """A decoded entry, immutable. Its token counts and blocks stay JSON until a caller reads them from a result.

    Attributes:
        response: The answer's text.
        model: The model that gave the answer.
        stored_at_ms: Time of the store, in milliseconds since the epoch.
        cost: Dollars that the answer cost, or None if no price was known.
        tokens: JSON object of token counts, or None. In an answer that no store takes: the loader's mapping.
        content_blocks: JSON array of content blocks, or None. In an answer that no store takes: the loader's blocks.
    """

    response: str
    model: str
    stored_at_ms: float
    cost: float | None = None
    tokens: bytes | Mapping[str, Any] | None = None
    content_blocks: bytes | list[Mapping[str, Any]] | None = None

    @property
    def size_bytes(self) -> int:
        """The memory that the entry takes."""
        size = sys.getsizeof(self.response) + sys.getsizeof(self.model) + sys.getsizeof(self)
        for part in (self.tokens, self.content_blocks):
            if part is not None:
                size += sys.getsizeof(part)
        return size

    @property
    def stored_at(self) -> float:
        """The time of the store, in seconds since the epoch."""
        return self.stored_at_ms / 1000


@lru_cache(maxsize=1024)
def shared_model(model: str) -> str:
    """Return ``model``: the same str object for all entries of a model."""
    return model


def encode(
    *,
    response: str,
    model: str,
    stored_at_ms: int,
    tokens: Mapping[str, Any] | None,
    cost: float | None,
    content_blocks: Sequence[Mapping[str, Any]] | None,
) -> tuple[LlmEntry, bytes]:
    """Return an entry and its bytes.

    Raises:
        UsageError: The response, the tokens or a block is not JSON.
    """
    blocks_json = None if content_blocks is None else compact_json(list(content_blocks), "content_blocks")
    tokens_json = compact_json(dict(tokens), "tokens") if tokens else None
    # The entry keeps plain text, and not an object of the caller's, whose __str__ may return other text.
    text, model = str.__str__(response), shared_model(str.__str__(model))
    data = b'{"response":%b%b%b,"model":%b,"storedAt":%d%b%b%b%b}' % (
        text_json(text, "response"),
        *_field(b"contentBlocks", blocks_json),
        _model_json(model),
        stored_at_ms,
        *_field(b"tokens", tokens_json),
        *_field(b"cost", None if cost is None else compact_json(cost, "cost")),
    )
    # A float takes less memory than a large int.
    return LlmEntry(text, model, float(stored_at_ms), cost, tokens_json, blocks_json), data


def _field(name: bytes, value: bytes | None) -> tuple[bytes, bytes]:
    return (b"", b"") if value is None else (b',"%b":' % name, value)


@lru_cache(maxsize=1024)
def _model_json(model: str) -> bytes:
    return compact_json(model, "model")


def joined_text(content_blocks: Sequence[Mapping[str, Any]]) -> str:
    """Return the joined text of the text blocks."""
    texts = (block.get("text") for block in content_blocks if block.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))
