"""Reading of llm and tool entries: their shared fields, and the refusal of bytes of another shape.

Other software may have written the bytes.
"""

from __future__ import annotations

import json
from typing import Final, Generic, TypeVar

import msgspec

from ...engine.entries.rules import UndecodableError
from ..keys.canonical_json import compact_json

__all__ = ["MOST_DOLLARS", "WireEntry", "WireReader"]

# The highest cost of an entry. Each hit adds the cost to counters of 64 bits in Valkey, in millionths of a dollar.
MOST_DOLLARS: Final = 1_000_000


class WireEntry(msgspec.Struct):
    """The fields that llm and tool entries share, under their names in Valkey."""

    response: str
    storedAt: float  # noqa: N815
    cost: float | None = None


E_ = TypeVar("E_", bound=WireEntry)


class WireReader(Generic[E_]):
    """Decoder of JSON objects of one shape.

    Args:
        shape: The class of the decoded objects. Further fields of the JSON are ignored.
        raw: The names of the fields of ``shape`` that are ``msgspec.Raw``, and stay JSON.
        names: The names of the fields of ``shape`` that are parts of keys, and so must be Unicode.
    """

    def __init__(self, shape: type[E_], raw: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> None:
        self._shape = shape
        self._raw = raw
        self._names = names
        self._decoder = msgspec.json.Decoder(shape)

    def read(self, data: bytes) -> E_:
        """Return the entry in ``data``.

        Raises:
            UndecodableError: ``data`` is not JSON, not of the shape, or its cost is not from 0 to ``MOST_DOLLARS``.
        """
        try:
            entry = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            entry = self._read_as_json_does(data)
        if entry.cost is not None and not 0 <= entry.cost <= MOST_DOLLARS:
            raise UndecodableError(f"the cost {entry.cost} is not an amount of dollars from 0 to {MOST_DOLLARS}")
        return entry

    def _read_as_json_does(self, data: bytes) -> E_:
        """Return the entry in JSON that only ``json`` reads, not msgspec: NaN, infinities, escaped lone surrogates."""
        try:
            fields = json.loads(data)
            raw = {name: msgspec.Raw(compact_json(fields.pop(name), name)) for name in self._raw if name in fields}
            entry = msgspec.convert(fields, self._shape)
            for name in self._names:
                # ``json`` reads an escaped lone surrogate, which no key in Valkey can hold.
                getattr(entry, name).encode()
        # AttributeError and TypeError: not a JSON object. ValueError: not JSON, or not UTF-8.
        except (AttributeError, TypeError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise UndecodableError(str(error)) from error
        for name, value in raw.items():
            setattr(entry, name, value)
        return entry
