"""A session value: the caller's text, raw in Valkey, without an envelope."""

from __future__ import annotations

import sys
from typing import NamedTuple

from msgspec import Struct

from ...engine.entries.lookup import Source
from ...engine.entries.rules import Decoded, UndecodableError

__all__ = ["FieldValue", "SessionCodec", "SessionValue"]


class FieldValue(NamedTuple):
    """The value of a field, and where it was found.

    Attributes:
        text: The value.
        expires_at: Monotonic second at which the value expires, as far as this process knows (inf: never).
        source: Where the value was found.
        coalesced: Whether the value came from a load that another caller had started.
    """

    text: str
    expires_at: float
    source: Source
    coalesced: bool = False


class SessionValue(Struct, frozen=True, gc=False):
    """The text of a field in process memory, immutable."""

    text: str

    @property
    def size_bytes(self) -> int:
        """The memory that the value takes."""
        return sys.getsizeof(self.text) + sys.getsizeof(self)

    @property
    def cost(self) -> None:
        """None: session values have no cost."""
        return None

    @property
    def stored_at(self) -> float:
        """The epoch: raw text does not contain the time of its store, and sessions return no age."""
        return 0.0


class SessionCodec:
    """The form of session values in Valkey."""

    def decode(self, data: bytes) -> Decoded:
        """Return the text in ``data``. A session value has no tags.

        Raises:
            UndecodableError: ``data`` is not UTF-8.
        """
        try:
            return Decoded(SessionValue(data.decode()), ())
        except UnicodeDecodeError as error:
            raise UndecodableError(str(error)) from error

    def pack(self, data: bytes, tags: tuple[str, ...] = ()) -> bytes:
        """Return ``data`` unchanged: other software reads session values too."""
        return data

    def tags_of(self, data: bytes) -> tuple[str, ...]:
        """Return no tags: a session value has none."""
        return ()

    def add_tags(self, data: bytes, tags: tuple[str, ...]) -> bytes:
        """Return ``data`` unchanged: a session value has no tags."""
        return data
