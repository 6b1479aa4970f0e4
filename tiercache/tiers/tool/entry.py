"""A tool entry and its bytes in Valkey.

    {"response":str,"toolName":str,"args":<as given>,"storedAt":int_ms[,"cost":number][,"json":true]}

in this order, as ``compact_json`` writes it; ``args`` keep the caller's key order. A result that is a str is stored as
it is, any other result as compact JSON with ``"json":true`` at the end. Readers accept further fields. A compressed
entry is ``tc:zstd:`` and base64.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from ...engine.entries.rules import UndecodableError
from ..keys.canonical_json import compact_json, text_json
from ..values.codec import EntryCodec
from ..values.sizes import memory_of
from ..values.wire import WireEntry, WireReader

__all__ = ["ToolCodec", "ToolEntry", "encode_tool", "shared_tool"]


class ToolEntry(msgspec.Struct, frozen=True, gc=False):
    """A decoded entry, immutable.

    Attributes:
        response: The stored text.
        stored_at_ms: Time of the store, in milliseconds since the epoch.
        cost: Dollars that the call cost, or None if the caller gave no cost.
        is_json: Whether the text is the JSON of a value that was not a str.
    """

    response: str
    stored_at_ms: float
    cost: float | None = None
    is_json: bool = False

    @property
    def size_bytes(self) -> int:
        """The memory that the entry takes."""
        return sys.getsizeof(self.response) + sys.getsizeof(self)

    def value(self) -> Any:
        """Return the value as the loader returned it, for one caller."""
        return json.loads(self.response) if self.is_json else self.response

    @property
    def stored_at(self) -> float:
        """The time of the store, in seconds since the epoch."""
        return self.stored_at_ms / 1000


class _SharedToolEntry(ToolEntry, frozen=True, gc=True):
    """An entry whose value every caller gets as it is."""

    decoded: Any = None
    decoded_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """The memory that the entry takes."""
        return sys.getsizeof(self.response) + self.decoded_bytes + sys.getsizeof(self)

    def value(self) -> Any:
        """Return the value, the same object for every caller."""
        return self.decoded


def shared_tool(entry: Any) -> Any:
    """Return the form of an entry in which every caller gets the same object."""
    if type(entry) is not ToolEntry or not entry.is_json:
        return entry
    value = entry.value()
    return _SharedToolEntry(entry.response, entry.stored_at_ms, entry.cost, True, value, memory_of(value))


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
    # The entry keeps plain text, and not an object of the caller's, whose __str__ may return other text.
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


class ToolCodec(EntryCodec):
    """The form of tool entries in Valkey."""

    def _read(self, data: bytes) -> ToolEntry:
        wire = _READER.read(data)
        if wire.json:
            # Checked here, where a bad entry becomes a miss: a result decodes the value only when a caller reads it.
            try:
                json.loads(wire.response)
            except (ValueError, RecursionError) as error:
                raise UndecodableError("the value is not JSON") from error
        return ToolEntry(wire.response, wire.storedAt, wire.cost, wire.json)
