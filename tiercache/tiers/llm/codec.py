"""The form of llm entries in Valkey: answers, and exchanges of wrapped clients."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import orjson

from ...engine.entries.rules import UndecodableError, UnreadableHereError
from ..values.codec import EntryCodec
from ..values.tags import split_tags
from ..values.wire import WireEntry, WireReader
from .entry import LlmEntry, shared_model
from .exchange import Exchange, Http, compressed_exchange, read_exchange

__all__ = ["ExchangeCodec", "LlmCodec"]

_NULL: Final = msgspec.Raw(b"null")
# JSON of so few bytes is not nested too deeply for ``json``.
_SHALLOW_BYTES: Final = 500


class _Wire(WireEntry, kw_only=True):
    model: str
    # In a union with None, msgspec would let a Raw match nothing but null.
    tokens: msgspec.Raw = _NULL
    contentBlocks: msgspec.Raw = _NULL  # noqa: N815 - the name on the wire
    http: Http | None = None


_READER = WireReader(_Wire, raw=("tokens", "contentBlocks"), names=("model",))


class LlmCodec(EntryCodec):
    """The form of llm entries in Valkey. An entry with the field ``http`` is an Exchange, any other an LlmEntry."""

    def exchanges_only(self) -> ExchangeCodec:
        """Return a codec with the same options that reads exchanges alone."""
        return ExchangeCodec(self._compression)

    def model_of(self, data: bytes) -> str | None:
        """Return the model of the entry in ``data``, or None if the bytes are no llm entry.

        The model of a compressed exchange is read without its body.

        Raises:
            UnreadableHereError: This process cannot decode the bytes, and another process may be able to.
        """
        try:
            wire = _READER.read(self._compression.unpack(split_tags(data).data))
            _part(wire.tokens, b"{")
            _part(wire.contentBlocks, b"[")
            return wire.model
        except UnreadableHereError:
            raise
        except UndecodableError:
            return None

    def _read(self, data: bytes) -> Any:
        wire = _READER.read(data)
        # Written out here: a further Python call would cost a read 3 %.
        answer = LlmEntry(
            wire.response,
            shared_model(wire.model),
            wire.storedAt,
            wire.cost,
            _part(wire.tokens, b"{"),
            _part(wire.contentBlocks, b"["),
        )
        return answer if wire.http is None else read_exchange(answer, wire.http, self._compression)

    def _pack(self, data: bytes) -> bytes:
        packed = compressed_exchange(data, self._compression)
        return super()._pack(data) if packed is None else packed


class ExchangeCodec(LlmCodec):
    """The form of llm entries for a wrapped client, which cannot use an entry that is no exchange.

    Such an entry is undecodable here: a lookup takes it for a miss, and the next exchange replaces it.
    """

    def _read(self, data: bytes) -> Exchange:
        entry = super()._read(data)
        if not isinstance(entry, Exchange):
            raise UndecodableError("the entry is an answer without its exchange")
        return entry


def _part(raw: msgspec.Raw, opening: bytes) -> bytes | None:
    """Return the JSON of a part that begins with ``opening``, or None if the entry has no such part."""
    if raw is _NULL:
        return None
    data = bytes(raw)
    if data == b"null":
        return None
    if not data.startswith(opening):
        raise UndecodableError("tokens or contentBlocks are of the wrong type")
    # Checked here, where a bad entry becomes a miss: a result decodes the part only when a caller reads it.
    if not _is_readable(data):
        raise UndecodableError("tokens or contentBlocks are not JSON that can be read")
    return data


def _is_readable(data: bytes) -> bool:
    """Return whether ``json`` reads ``data``."""
    if len(data) <= _SHALLOW_BYTES:
        # json reads everything that orjson reads, unless it is nested too deeply for the call stack.
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
