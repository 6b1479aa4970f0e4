"""A kv entry and its bytes in Valkey: one byte for the kind of the value, and the value.

    j<compact JSON>    s<UTF-8 text>    b<bytes>    z<zstd frame>

A str is stored as ``s``, bytes as ``b``, every other value as ``j``. ``z`` is one of these three, compressed. The tags
of an entry stand before this byte (``tiers/values/tags.py``).
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

import msgspec

from ...engine.entries.rules import UndecodableError
from ...errors import UsageError
from ..keys.canonical_json import compact_json
from ..values.codec import EntryCodec
from ..values.sizes import memory_of

__all__ = ["KvCodec", "KvEntry", "encode_kv", "shared_kv"]

_JSON: Final = b"j"
_TEXT: Final = b"s"
_BYTES: Final = b"b"

_SCALARS: Final = (type(None), bool, int, float)


class KvEntry(msgspec.Struct, frozen=True, gc=False):
    """A value in process memory, immutable.

    Attributes:
        kept: The value, or the JSON of a list or a dict: every caller gets an object of its own.
        is_json: Whether ``kept`` is JSON.
        stored_at: Time of the store in seconds since the epoch; minus infinity for an entry that was read from Valkey,
            whose bytes do not contain the time.
    """

    kept: Any
    is_json: bool = False
    stored_at: float = -math.inf

    @property
    def size_bytes(self) -> int:
        """The memory that the entry takes."""
        return sys.getsizeof(self.kept) + sys.getsizeof(self)

    @property
    def cost(self) -> None:
        """None: kv values have no cost."""
        return None

    def value(self) -> Any:
        """Return the value, for one caller: a list or a dict is a new object."""
        return _parse(self.kept) if self.is_json else self.kept


class _SharedKvEntry(KvEntry, frozen=True, gc=True):
    """A list or a dict that every caller gets as it is: ``kept`` is the object itself."""

    kept_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """The memory that the entry takes."""
        return self.kept_bytes + sys.getsizeof(self)


def shared_kv(entry: Any) -> Any:
    """Return the form of an entry in which every caller gets the same object."""
    if type(entry) is not KvEntry or not entry.is_json:
        return entry
    value = _parse(entry.kept)
    return _SharedKvEntry(value, stored_at=entry.stored_at, kept_bytes=memory_of(value))


def encode_kv(value: object, name: str, stored_at: float) -> tuple[KvEntry, bytes]:
    """Return an entry and its bytes.

    Args:
        name: The name of the value in an error.

    Raises:
        UsageError: ``value`` is neither JSON, nor str, nor bytes.
    """
    if isinstance(value, str):
        # The entry keeps plain text, and not an object of the caller's, whose __str__ may return other text. For
        # the same reason bytes are copied, and a number of a subclass is kept as JSON.
        text = str.__str__(value)
        try:
            data = _TEXT + text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{name} has text that is not Unicode (a lone surrogate): {error}") from error
        return KvEntry(text, stored_at=stored_at), data
    if isinstance(value, bytes):
        data = b"".join((_BYTES, value))
        return KvEntry(data[1:], stored_at=stored_at), data
    payload = compact_json(value, name)
    if type(value) in _SCALARS:
        return KvEntry(value, stored_at=stored_at), _JSON + payload
    return KvEntry(payload, is_json=True, stored_at=stored_at), _JSON + payload


def _parse(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(payload)  # NaN, infinities, and floats that overflow to them.


class KvCodec(EntryCodec):
    """The form of kv entries in Valkey."""

    def _read(self, data: bytes) -> KvEntry:
        kind, payload = data[:1], data[1:]
        if kind == _BYTES:
            return KvEntry(payload)
        try:
            if kind == _TEXT:
                return KvEntry(payload.decode())
            if kind == _JSON:
                value = _parse(payload)
                return KvEntry(payload, is_json=True) if isinstance(value, list | dict) else KvEntry(value)
        except (ValueError, RecursionError) as error:
            raise UndecodableError(str(error)) from error
        raise UndecodableError(f"the first byte is {kind!r}, and it must be j, s, b or z")
