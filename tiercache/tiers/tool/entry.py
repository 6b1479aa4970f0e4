"""A tool entry and its bytes in Valkey.

    {"response":str,"toolName":str,"args":<as given>,"storedAt":int_ms[,"cost":number][,"json":true]}

in this order, written as ``compact_json`` writes; ``args`` keep the caller's key order. A result that is a str is
stored as it is, any other as compact JSON with ``"json":true`` at the end. Readers accept further fields. A compressed
one is ``tc:zstd:`` and base64.
"""

from __future__ import annotations

import json
import sys

import msgspec

from ...engine.entries.policy import UndecodableError
from ..keys.canonical_json import compact_json, text_json
from ..values.compression import Compression
from ..values.wire import WireEntry, WireReader

__all__ = ["ToolCodec", "ToolEntry", "encode_tool"]


class ToolEntry(msgspec.Struct, frozen=True, gc=False):
    """A decoded entry, immutable.

    Attributes:
        response: The stored text.
        stored_at_ms: Milliseconds since the epoch.
        cost: Dollars that the call cost, None where nobody said.
        is_json: Whether the text is the JSON of a value that was no str.
    """

    response: str
    stored_at_ms: float
    cost: float | None = None
    is_json: bool = False


def encode_tool(
    *, value: object, tool: str, args_json: bytes, stored_at_ms: int, cost: float | None
) -> tuple[ToolEntry, bytes]:
    """Return an entry and its bytes.

    Args:
        args_json: The args as compact JSON.

    Raises:
        UsageError: ``value`` is not JSON.
    """
    is_json = not isinstance(value, str)
    # Plain text even where a str subclass came in: what is kept is ours alone.
    response = compact_json(value, "response").decode() if is_json else str.__str__(value)
    parts = [b'{"response":', text_json(response, "response"), b',"toolName":', compact_json(tool, "tool")]
    parts += [b',"args":', args_json, b',"storedAt":', str(stored_at_ms).encode()]
    if cost is not None:
        parts += [b',"cost":', compact_json(cost, "cost")]
    parts.append(b',"json":true}' if is_json else b"}")
    return ToolEntry(response, float(stored_at_ms), cost, is_json), b"".join(parts)


class _Wire(WireEntry, kw_only=True):
    toolName: str  # noqa: N815 - the name on the wire
    json: bool = False


_READER = WireReader(_Wire)


class ToolCodec:
    """The engine's view of tool entries."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression

    def decode(self, data: bytes) -> ToolEntry:
        """Return the entry in ``data``; raise UndecodableError for anything else."""
        wire = _READER.read(self._compression.unpack(data))
        if wire.json:
            # Looked at here, where a bad entry is a miss, and not when somebody asks a result for its value.
            try:
                json.loads(wire.response)
            except (ValueError, RecursionError) as error:
                raise UndecodableError("a value that is not JSON") from error
        return ToolEntry(wire.response, wire.storedAt, wire.cost, wire.json)

    def pack(self, data: bytes) -> bytes:
        """Return what is written to Valkey for ``data``."""
        return self._compression.pack(data)

    def size_bytes(self, value: ToolEntry) -> int:
        """Return the memory that an entry takes."""
        return sys.getsizeof(value.response) + sys.getsizeof(value)

    def cost(self, value: ToolEntry) -> float | None:
        """Return the dollars that the answer cost."""
        return value.cost

    def stored_at(self, value: ToolEntry) -> float:
        """Return when the entry was stored, in seconds since the epoch."""
        return value.stored_at_ms / 1000
