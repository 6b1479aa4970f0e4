"""Compressed entries: a tag, followed by one zstd frame of the entry's bytes. No entry begins with such a tag.

    tc:zstd:<base64 of the frame>    llm and tool
    z<frame>                         kv

The form of llm and tool is ASCII and not JSON: betterdb-agent-cache, which decodes every entry as UTF-8, treats it as
an entry that cannot be read. Every process that has the library reads both forms, also if its own options compress no
entry. A frame contains its checksum, so that a damaged frame is never decoded to another value.
"""

from __future__ import annotations

import binascii
import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Final

from ...engine.entries.rules import UndecodableError, UnreadableHereError
from ...errors import UsageError
from ...version import install_command

__all__ = ["Compression"]

_TEXT_TAG: Final = b"tc:zstd:"
_BYTES_TAG: Final = b"z"

# Takes up to a third less time than level 3, zstd's default, and writes up to a tenth more bytes.
_LEVEL: Final = 1
# The largest window of a frame that is read: RFC 8878, 3.1.1.1.2, asks every decoder to support it. Frames of this
# module need 512 KiB.
_WINDOW_LOG: Final = 23
# Valkey's proto-max-bulk-len: an entry that is not compressed cannot have more bytes either.
_MOST_BYTES: Final = 512 * 1024 * 1024


class Compression:
    """The compression of one tier's entries, and the limit on the size of entries that are read.

    Args:
        above: Entries of more bytes than this are compressed. None: no entry is compressed.
        max_bytes: Most bytes, not compressed, of an entry that is read. None: Valkey's own limit.
        as_text: Whether a compressed entry must be text.

    Raises:
        UsageError: ``above`` is given, and the library is not installed.
    """

    def __init__(self, *, above: int | None, max_bytes: int | None, as_text: bool) -> None:
        if above is not None and _library() is None:
            raise UsageError(f"TierOptions.compress_above needs an extra: {install_command('compress')}")
        self._above = above
        self._max_bytes = _MOST_BYTES if max_bytes is None else max_bytes
        self._as_text = as_text
        self._tag = _TEXT_TAG if as_text else _BYTES_TAG

    def pack(self, data: bytes) -> bytes:
        """Return the bytes to write for an entry: compressed if it is large and compression makes it smaller."""
        if self._above is None or len(data) <= self._above:
            return data
        library = _library()
        assert library is not None
        options = {
            library.CompressionParameter.compression_level: _LEVEL,
            library.CompressionParameter.checksum_flag: 1,
        }
        frame: bytes = library.compress(data, options=options)
        packed = self._tag + (binascii.b2a_base64(frame, newline=False) if self._as_text else frame)
        return packed if len(packed) < len(data) else data

    def unpack(self, data: bytes) -> bytes:
        """Return the bytes of the entry that was written as ``data``, compressed or not.

        Raises:
            UnreadableHereError: The entry has too many bytes, or is compressed and the library is not installed.
            UndecodableError: ``data`` has the tag, and is not followed by exactly one frame.
        """
        if len(data) > self._max_bytes:
            raise UnreadableHereError(f"the entry has {len(data)} bytes, and at most {self._max_bytes} are read")
        if not data.startswith(self._tag):
            return data
        library = _library()
        if library is None:
            raise UnreadableHereError("the entry is compressed, and the library is not installed")
        frame = data[len(self._tag) :]
        if self._as_text:
            try:
                frame = binascii.a2b_base64(frame)
            except binascii.Error as error:
                raise UndecodableError(str(error)) from error
        decompressor = library.ZstdDecompressor(options={library.DecompressionParameter.window_log_max: _WINDOW_LOG})
        try:
            # A small frame can decompress to any number of bytes: the decompressor stops at the first byte too many.
            entry: bytes = decompressor.decompress(frame, max_length=self._max_bytes + 1)
        except library.ZstdError as error:
            raise UndecodableError(str(error)) from error
        if len(entry) > self._max_bytes:
            raise UnreadableHereError(f"the entry has more than the {self._max_bytes} bytes that are read")
        if not decompressor.eof or decompressor.unused_data:
            raise UndecodableError("the frame is incomplete, or more bytes follow it")
        return entry


@cache
def _library() -> ModuleType | None:
    """Return Python's zstd module or its backport, or None if neither is installed. Imported at the first use."""
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        return None
