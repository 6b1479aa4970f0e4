"""Reading entries that anybody may have written: what they share, and the verdict on what is not of their shape."""

from __future__ import annotations

import json
import math
from typing import Generic, TypeVar

import msgspec

from ...engine.entries.policy import UndecodableError
from ..keys.canonical_json import compact_json

__all__ = ["WireEntry", "WireReader"]


class WireEntry(msgspec.Struct):
    """The fields that llm and tool entries share, under their names on the wire."""

    response: str
    storedAt: float  # noqa: N815
    cost: float | None = None


E_ = TypeVar("E_", bound=WireEntry)


class WireReader(Generic[E_]):
    """Decodes JSON objects of one shape.

    Args:
        shape: What they are; further fields are ignored.
        raw: Those fields of it that are ``msgspec.Raw``, and stay JSON.
    """

    def __init__(self, shape: type[E_], raw: tuple[str, ...] = ()) -> None:
        self._shape = shape
        self._raw = raw
        self._decoder = msgspec.json.Decoder(shape)

    def read(self, data: bytes) -> E_:
        """Return the entry in ``data``.

        Raises:
            UndecodableError: It is not JSON, not of the shape, or its cost is no amount of money.
        """
        try:
            entry = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            entry = self._read_as_json_does(data)
        if entry.cost is not None and not 0 <= entry.cost < math.inf:
            raise UndecodableError("a cost that is no amount of money")
        return entry

    def _read_as_json_does(self, data: bytes) -> E_:
        """Read what json takes and msgspec does not: NaN, infinities, lone surrogates in escapes."""
        try:
            fields = json.loads(data)
            raw = {name: msgspec.Raw(compact_json(fields.pop(name), name)) for name in self._raw if name in fields}
            entry = msgspec.convert(fields, self._shape)
        # AttributeError and TypeError: it is no object. ValueError: not JSON or not UTF-8.
        except (AttributeError, TypeError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise UndecodableError(str(error)) from error
        for name, value in raw.items():
            setattr(entry, name, value)
        return entry
