"""A session value: the caller's text, raw in Valkey, without an envelope."""

from __future__ import annotations

import sys
from typing import NamedTuple

from ...engine.entries.lookup import Source
from ...engine.entries.policy import UndecodableError

__all__ = ["FieldValue", "SessionCodec"]


class FieldValue(NamedTuple):
    """What a field holds.

    Attributes:
        text: The value.
        expires_at: Monotonic second at which it ends, as far as is known here (inf: never).
        source: Where it was found.
        coalesced: It came from a load that another caller had started.
    """

    text: str
    expires_at: float
    source: Source
    coalesced: bool = False


class SessionCodec:
    """The engine's view of session values."""

    def decode(self, data: bytes) -> str:
        """Return the text in ``data``; raise UndecodableError for what is not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise UndecodableError(str(error)) from error

    def pack(self, data: bytes) -> bytes:
        """Return ``data``: others read them too."""
        return data

    def size_bytes(self, value: str) -> int:
        """Return the memory that a value takes."""
        return sys.getsizeof(value)

    def cost(self, value: str) -> float | None:
        """Return None: nobody paid for it."""
        return None

    def stored_at(self, value: str) -> float:
        """Return the epoch: raw text does not say when it was stored, and nobody asks."""
        return 0.0
