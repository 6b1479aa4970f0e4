"""The form of llm, tool and kv entries in Valkey: the tags, then the entry, which may be compressed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from ...engine.entries.rules import Decoded, UndecodableError
from .compression import Compression
from .tags import HEADER_OPENINGS, join_tags, split_tags

__all__ = ["EntryCodec"]


class EntryCodec:
    """The form of one tier's entries in Valkey: a Codec. A tier adds how it reads an entry's own bytes."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression

    @abstractmethod
    def _read(self, data: bytes) -> Any:
        """Return the value in ``data``, an entry's bytes without tags and not compressed. Errors as for ``decode``."""

    def decode(self, data: bytes) -> Decoded:
        """Return the value in ``data``, and its tags. Errors as for ``Codec.decode``."""
        tags: tuple[str, ...] | None = ()
        # Most entries have no tags: each further Python call would cost a read from Valkey half a percent.
        if data.startswith(HEADER_OPENINGS):
            data, tags = split_tags(data)
        return Decoded(self._read(self._compression.unpack(data)), tags or ())

    def is_compressed(self, data: bytes) -> bool:
        """Return whether the entry in ``data`` is compressed as a whole."""
        try:
            return self._compression.is_packed(split_tags(data).data)
        except UndecodableError:
            return False

    def pack(self, data: bytes, tags: tuple[str, ...] = ()) -> bytes:
        """Return the bytes to write to Valkey for an entry's bytes and its tags."""
        packed = self._pack(data)
        return join_tags(packed, tags) if tags else packed

    def _pack(self, data: bytes) -> bytes:
        """Return the bytes to write for an entry's bytes, without its tags."""
        return self._compression.pack(data)

    def tags_of(self, data: bytes) -> tuple[str, ...] | None:
        """Return the tags of the entry in ``data``, or None for more tags than are listed. Errors as for ``decode``."""
        return split_tags(data).tags

    def add_tags(self, data: bytes, tags: tuple[str, ...]) -> bytes:
        """Return the entry in ``data`` with ``tags`` in addition to its own. Errors as for ``decode``."""
        rest, before = split_tags(data)
        return join_tags(rest, None if before is None else dict.fromkeys(before + tags))
