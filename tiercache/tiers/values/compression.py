"""Compressed entries: a tag, followed by one zstd frame of the entry's bytes. No entry begins with such a tag.

    tc:zstd:<base64 of the frame>    llm and tool
    z<frame>                         kv

The form of llm and tool is ASCII and not JSON: betterdb-agent-cache, which decodes every entry as UTF-8, treats it as
an entry that cannot be read. Every process that has the library reads both forms, also if its own options compress no
entry. A frame contains its checksum, so that a damaged frame is never decoded to another value.

``tiers/llm/exchange.py`` puts frames inside the JSON of an entry instead.
"""

from __future__ import annotations

import binascii
import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from ...engine.entries.rules import UndecodableError, UnreadableHereError
from ...errors import UsageError
from ...log import CacheLog
from ...version import install_command

__all__ = ["Compression"]

_TEXT_TAG: Final = b"tc:zstd:"
_BYTES_TAG: Final = b"z"

# Takes up to a third less time than level 3, zstd's default, and writes up to a tenth more bytes.
_LEVEL: Final = 1
# The largest window of a frame that is read: RFC 8878, 3.1.1.1.2, asks every decoder to support it. Frames
# without a prefix need 512 KiB.
_WINDOW_LOG: Final = 23
# The window that the level chooses by itself.
_SMALL_WINDOW_LOG: Final = 19
# Valkey's proto-max-bulk-len: an entry that is not compressed cannot have more bytes either.
_MOST_BYTES: Final = 512 * 1024 * 1024

_MISSING: Final = "compressed entries in Valkey are misses here (counted as undecodable), because zstd is missing: %s"


class Compression:
    """The compression of one tier's entries, and the limit on the size of entries that are read.

    Args:
        above: Entries of more bytes than this are compressed. None: no entry is compressed.
        max_bytes: Most bytes, not compressed, of an entry that is read. None: Valkey's own limit.
        as_text: Whether a compressed entry must be text.
        log: The cache's log, or None: nothing is logged.

    Raises:
        UsageError: ``above`` is given, and the library is not installed.
    """

    def __init__(self, *, above: int | None, max_bytes: int | None, as_text: bool, log: CacheLog | None = None) -> None:
        if above is not None and _library() is None:
            raise UsageError(f"TierOptions.compress_above needs an extra: {install_command('compress')}")
        self._above = above
        self._max_bytes = _MOST_BYTES if max_bytes is None else max_bytes
        self._as_text = as_text
        self._log = log
        self._tag = _TEXT_TAG if as_text else _BYTES_TAG

    @property
    def is_available(self) -> bool:
        """Whether the library is installed, so that ``frame`` and ``content`` work."""
        return _library() is not None

    def is_large(self, data: bytes, *, default: int | None = None) -> bool:
        """Return whether an entry has more bytes than the threshold, and the library is installed.

        Args:
            default: The threshold if the tier has none of its own. None: then no entry is large.
        """
        above = default if self._above is None else self._above
        return above is not None and len(data) > above and _library() is not None

    def pack(self, data: bytes) -> bytes:
        """Return the bytes to write for an entry: compressed if it is large and compression makes it smaller."""
        if not self.is_large(data):
            return data
        frame = self.frame(data)
        packed = self._tag + (binascii.b2a_base64(frame, newline=False) if self._as_text else frame)
        return packed if len(packed) < len(data) else data

    def is_packed(self, data: bytes) -> bool:
        """Return whether ``data`` have the form of a compressed entry."""
        return data.startswith(self._tag)

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
        frame = data[len(self._tag) :]
        if self._as_text:
            try:
                frame = binascii.a2b_base64(frame)
            except binascii.Error as error:
                raise UndecodableError(str(error)) from error
        return self.content(frame)

    def frame(self, content: bytes, *, prefix: bytes = b"") -> bytes:
        """Return a frame of ``content``, with a checksum. The library must be installed.

        Args:
            prefix: Bytes that the reader of the frame has too, and that ``content`` repeats: 8 bytes or more, or none.
        """
        library = _library()
        assert library is not None
        options = {
            library.CompressionParameter.compression_level: _LEVEL,
            library.CompressionParameter.checksum_flag: 1,
        }
        size = len(prefix) + len(content)
        if prefix and size > 1 << _SMALL_WINDOW_LOG:
            # A window of the usual size would not reach back to the beginning of the prefix.
            options[library.CompressionParameter.window_log] = min(size.bit_length(), _WINDOW_LOG)
            # The tables of the level are too small to find a repetition from there.
            options[library.CompressionParameter.enable_long_distance_matching] = 1
        frame: bytes = library.compress(content, options=options, zstd_dict=_dictionary(library, prefix))
        return frame

    def content(self, frame: bytes, *, prefix: bytes = b"") -> bytes:
        """Return the content of a frame.

        Args:
            prefix: The prefix with which the frame was made. Counts towards the bytes that are read.

        Raises:
            UnreadableHereError: The content has too many bytes, or the library is not installed.
            UndecodableError: ``frame`` is not exactly one frame, or was made with another prefix.
        """
        library = _library()
        if library is None:
            if self._log is not None:
                self._log.warn_once(_MISSING, _install_commands())
            raise UnreadableHereError("the entry is compressed, and the library is not installed")
        most = self._max_bytes - len(prefix)
        options = {library.DecompressionParameter.window_log_max: _WINDOW_LOG}
        try:
            decompressor = library.ZstdDecompressor(zstd_dict=_dictionary(library, prefix), options=options)
            # A small frame can decompress to any number of bytes: the decompressor stops at the first byte too many.
            content: bytes = decompressor.decompress(frame, max_length=most + 1)
        # ValueError: the prefix is too short.
        except (library.ZstdError, ValueError) as error:
            raise UndecodableError(str(error)) from error
        if len(content) > most:
            raise UnreadableHereError(f"the entry has more than the {self._max_bytes} bytes that are read")
        if not decompressor.eof or decompressor.unused_data:
            raise UndecodableError("the frame is incomplete, or more bytes follow it")
        return content


def _dictionary(library: ModuleType, prefix: bytes) -> Any:
    return library.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None


@cache
def _install_commands() -> str:
    return f"{install_command('compress')}; the extras openai, anthropic and google bring zstd too"


@cache
def _library() -> ModuleType | None:
    """Return Python's zstd module or its backport, or None if neither is installed. Imported at the first use."""
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        return None
