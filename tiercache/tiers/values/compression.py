"""Compressed entries: one zstd frame in place of the bytes of an entry, behind a tag that no such bytes begin with.

    tc:zstd:<base64 of the frame>    llm and tool
    z<frame>                         kv

The first is ASCII and not JSON: betterdb-agent-cache, which reads all it finds as UTF-8, takes it for an entry that
cannot be read. Every process reads both forms, whatever its own options, if it has the library. Frames carry their
checksum, so that a damaged one is not taken for another value.
"""

from __future__ import annotations

import binascii
import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Final

from ...engine.entries.policy import UndecodableError, UnreadableHereError
from ...errors import UsageError

__all__ = ["Compression"]

_TEXT_TAG: Final = b"tc:zstd:"
_BYTES_TAG: Final = b"z"

# Up to a third less time than level 3, zstd's default, and up to a tenth more bytes.
_LEVEL: Final = 1
# Memory for looking back: what RFC 8878, 3.1.1.1.2, asks every decoder to support. Frames of this module need 512 KiB.
_WINDOW_LOG: Final = 23
# Valkey's proto-max-bulk-len: a plain entry has no more bytes either.
_MOST_BYTES: Final = 512 * 1024 * 1024


class Compression:
    """How a tier's entries are compressed, and how large they may be to be read.

    Args:
        above: Those of more bytes are compressed. None: none is.
        max_bytes: Most bytes, not compressed, of one that is read. None: any.
        as_text: Whether what is written has to be text.

    Raises:
        UsageError: ``above`` is given, and the library is not there.
    """

    def __init__(self, *, above: int | None, max_bytes: int | None, as_text: bool) -> None:
        if above is not None and _library() is None:
            raise UsageError('TierOptions.compress_above needs an extra: python -m pip install "tiercache[compress]"')
        self._above = above
        self._max_bytes = _MOST_BYTES if max_bytes is None else max_bytes
        self._as_text = as_text
        self._tag = _TEXT_TAG if as_text else _BYTES_TAG

    def pack(self, data: bytes) -> bytes:
        """Return what is written for an entry: compressed if it is large, and smaller then."""
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
        """Return the entry that was written as ``data``, which need not be compressed.

        Raises:
            UnreadableHereError: It has too many bytes, or the library is not there.
            UndecodableError: It is no whole frame.
        """
        if len(data) > self._max_bytes:
            raise UnreadableHereError(f"{len(data)} bytes, and {self._max_bytes} are allowed")
        if not data.startswith(self._tag):
            return data
        library = _library()
        if library is None:
            raise UnreadableHereError("compressed, and the library is not installed")
        frame = data[len(self._tag) :]
        if self._as_text:
            try:
                frame = binascii.a2b_base64(frame)
            except binascii.Error as error:
                raise UndecodableError(str(error)) from error
        decompressor = library.ZstdDecompressor(options={library.DecompressionParameter.window_log_max: _WINDOW_LOG})
        try:
            # A few bytes can stand for any number: it stops at the first that is too many.
            entry: bytes = decompressor.decompress(frame, max_length=self._max_bytes + 1)
        except library.ZstdError as error:
            raise UndecodableError(str(error)) from error
        if len(entry) > self._max_bytes:
            raise UnreadableHereError(f"more than the {self._max_bytes} bytes that are allowed")
        if not decompressor.eof or decompressor.unused_data:
            raise UndecodableError("no whole frame, or something behind it")
        return entry


@cache
def _library() -> ModuleType | None:
    """Return Python's own module or its backport, None where it is not installed. Imported when first needed."""
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        return None
