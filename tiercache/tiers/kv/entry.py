"""A kv entry and its bytes in Valkey: one byte that says what follows, and the value.

    j<compact JSON>    s<UTF-8 text>    b<bytes>    z<zstd frame>

A str is stored as ``s`` and bytes as ``b``, everything else as ``j``; ``z`` is one of these, compressed.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

import msgspec

from ...engine.entries.policy import UndecodableError
from ...errors import UsageError
from ..keys.canonical_json import compact_json
from ..values.compression import Compression

__all__ = ["KvCodec", "KvEntry", "encode_kv"]

_JSON: Final = b"j"
_TEXT: Final = b"s"
_BYTES: Final = b"b"

_SCALARS: Final = (type(None), bool, int, float)


class KvEntry(msgspec.Struct, frozen=True):
    """A value in process memory, immutable.

    Attributes:
        kept: The value; of a list or a dict its JSON, so that everybody gets one of his own.
        is_json: Whether it is kept as JSON.
        stored_at: Seconds since the epoch; minus infinity where it was read from Valkey, whose bytes do not say.
    """

    kept: Any
    is_json: bool = False
    stored_at: float = -math.inf

    def value(self) -> Any:
        """Return the value, the caller's own."""
        return _parse(self.kept) if self.is_json else self.kept


def encode_kv(value: object, name: str, stored_at: float) -> tuple[KvEntry, bytes]:
    """Return an entry and its bytes.

    Args:
        name: What to call the value in an error.

    Raises:
        UsageError: It is neither JSON, nor str, nor bytes.
    """
    if isinstance(value, str):
        # Plain text even where a subclass came in: what is kept is ours alone. The same for bytes and numbers.
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


class KvCodec:
    """The engine's view of kv entries."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression

    def decode(self, data: bytes) -> KvEntry:
        """Return the entry in ``data``; raise UndecodableError for anything else."""
        data = self._compression.unpack(data)
        codec, payload = data[:1], data[1:]
        if codec == _BYTES:
            return KvEntry(payload)
        try:
            if codec == _TEXT:
                return KvEntry(payload.decode())
            if codec == _JSON:
                value = _parse(payload)
                return KvEntry(payload, is_json=True) if isinstance(value, list | dict) else KvEntry(value)
        except (ValueError, RecursionError) as error:
            raise UndecodableError(str(error)) from error
        raise UndecodableError(f"an unknown codec, {codec!r}")

    def pack(self, data: bytes) -> bytes:
        """Return what is written to Valkey for ``data``."""
        return self._compression.pack(data)

    def size_bytes(self, value: KvEntry) -> int:
        """Return the memory that an entry takes."""
        return sys.getsizeof(value.kept) + sys.getsizeof(value)

    def cost(self, value: KvEntry) -> float | None:
        """Return None: nobody says what a kv value cost."""
        return None

    def stored_at(self, value: KvEntry) -> float:
        """Return when the entry was stored, in seconds since the epoch."""
        return value.stored_at
