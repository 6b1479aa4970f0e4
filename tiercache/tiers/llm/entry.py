"""An llm entry and its bytes in Valkey.

    {"response":str,"model":str,"storedAt":int_ms[,"tokens":{...}][,"cost":float]}
    {"response":str,"contentBlocks":[...],"model":str,"storedAt":int_ms[,"tokens":{...}][,"cost":float]}

in this order, written as ``compact_json`` writes. ``storedAt`` is the wall clock in milliseconds. ``tokens`` is the
caller's mapping, where there is one that is not empty. Readers accept further fields. A compressed one is
``tc:zstd:`` and base64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from ...engine.entries.policy import UndecodableError
from ..keys.canonical_json import compact_json, text_json
from ..values.compression import Compression
from ..values.wire import WireEntry, WireReader

__all__ = ["LlmCodec", "LlmEntry", "encode", "joined_text", "shared_model"]


class LlmEntry(msgspec.Struct, frozen=True, gc=False):
    """A decoded entry, immutable: lists and mappings stay JSON until a result is asked for them.

    Attributes:
        response: The answer's text.
        model: The model that gave it.
        stored_at_ms: Milliseconds since the epoch.
        cost: Dollars that the answer cost, None where no price was known.
        tokens: JSON object of token counts, or None.
        content_blocks: JSON array of content blocks, or None.
    """

    response: str
    model: str
    stored_at_ms: float
    cost: float | None = None
    tokens: bytes | None = None
    content_blocks: bytes | None = None


@lru_cache(maxsize=1024)
def shared_model(model: str) -> str:
    """Return ``model``, one str for all entries of a model."""
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
        UsageError: A part is not JSON.
    """
    blocks_json = None if content_blocks is None else compact_json(list(content_blocks), "content_blocks")
    tokens_json = compact_json(dict(tokens), "tokens") if tokens else None
    # What is kept is ours alone: plain text even where a str subclass came in. Its own __str__ may say something else.
    text, model = str.__str__(response), shared_model(str.__str__(model))
    data = b'{"response":%b%b%b,"model":%b,"storedAt":%d%b%b%b%b}' % (
        text_json(text, "response"),
        *_field(b"contentBlocks", blocks_json),
        _model_json(model),
        stored_at_ms,
        *_field(b"tokens", tokens_json),
        *_field(b"cost", None if cost is None else compact_json(cost, "cost")),
    )
    # A float takes less than a large int.
    return LlmEntry(text, model, float(stored_at_ms), cost, tokens_json, blocks_json), data


def _field(name: bytes, value: bytes | None) -> tuple[bytes, bytes]:
    return (b"", b"") if value is None else (b',"%b":' % name, value)


@lru_cache(maxsize=1024)
def _model_json(model: str) -> bytes:
    return compact_json(model, "model")


def joined_text(content_blocks: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the text blocks, joined."""
    return "".join(block.get("text", "") for block in content_blocks if block.get("type") == "text")


_NULL: Final = msgspec.Raw(b"null")
# So few bytes are not nested too deeply.
_SHALLOW_BYTES: Final = 500


class _Wire(WireEntry, kw_only=True):
    model: str
    # In a union with None a Raw would match null alone.
    tokens: msgspec.Raw = _NULL
    contentBlocks: msgspec.Raw = _NULL  # noqa: N815 - the name on the wire


_READER = WireReader(_Wire, raw=("tokens", "contentBlocks"))


class LlmCodec:
    """The engine's view of llm entries."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression

    def decode(self, data: bytes) -> LlmEntry:
        """Return the entry in ``data``; raise UndecodableError for anything else."""
        wire = _READER.read(self._compression.unpack(data))
        return LlmEntry(
            wire.response,
            shared_model(wire.model),
            wire.storedAt,
            wire.cost,
            _part(wire.tokens, b"{"),
            _part(wire.contentBlocks, b"["),
        )

    def pack(self, data: bytes) -> bytes:
        """Return what is written to Valkey for ``data``."""
        return self._compression.pack(data)

    def size_bytes(self, value: LlmEntry) -> int:
        """Return the memory that an entry takes."""
        size = sys.getsizeof(value.response) + sys.getsizeof(value.model) + sys.getsizeof(value)
        for part in (value.tokens, value.content_blocks):
            if part is not None:
                size += sys.getsizeof(part)
        return size

    def cost(self, value: LlmEntry) -> float | None:
        """Return the dollars that the answer cost."""
        return value.cost

    def stored_at(self, value: LlmEntry) -> float:
        """Return when the entry was stored, in seconds since the epoch."""
        return value.stored_at_ms / 1000


def _part(raw: msgspec.Raw, opening: bytes) -> bytes | None:
    if raw is _NULL:
        return None
    data = bytes(raw)
    if data == b"null":
        return None
    if not data.startswith(opening):
        raise UndecodableError("tokens or contentBlocks of the wrong type")
    # Looked at here, where a bad entry is a miss, and not when somebody asks a result for its blocks.
    if not _is_readable(data):
        raise UndecodableError("tokens or contentBlocks that cannot be read")
    return data


def _is_readable(data: bytes) -> bool:
    """Return whether ``json`` reads ``data``."""
    if len(data) <= _SHALLOW_BYTES:
        # What orjson reads json reads too, unless it is nested too deeply for the stack.
        try:
            orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
        else:
            return True
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
