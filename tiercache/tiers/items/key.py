"""The keys of a store in Valkey.

    {name}:__tc:items:{<store>}               zset, scores 0: the namespaces that have items
    {name}:__tc:items:{<store>}:ends          zset: the namespaces all of whose items end, scored by the last end (ms)
    {name}:__tc:items:{<store>}:n:<namespace> hash: the items of one namespace

The braces around the name of the store are a hash tag, so that all keys of a store lie in one slot. A namespace is
written as its labels, each followed by NUL: the namespaces below another one begin with its text, and stand side by
side in the zset. NUL and the byte 1 in a label are written as ``01 02`` and ``01 01``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ...errors import UsageError
from ...text import check_size, check_text, shown

__all__ = ["Namespace", "NamespaceRange", "StoreKeys"]

Namespace = tuple[str, ...]

_STORE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ESCAPE: Final = "\1"
_END: Final = "\0"
# From left to right: the second byte of an escape may be the first byte of another one.
_ESCAPED: Final = re.compile("\1([\1\2])")


class NamespaceRange(NamedTuple):
    """The first and last text of the namespaces below another one, as ``ZRANGE BYLEX`` takes them."""

    first: bytes
    last: bytes


class StoreKeys:
    """Makes the keys of one store, and refuses wrong names.

    Attributes:
        index: The key of the zset of all namespaces.
        ends: The key of the zset of the namespaces that end.
        prefix: The prefix of the keys of hashes.

    Raises:
        UsageError: ``store`` is no name of a store.
    """

    def __init__(self, name: str, store: object) -> None:
        if not isinstance(store, str) or not _STORE_NAME.fullmatch(store):
            raise UsageError(f"the name of a store must be 1 to 128 of A-Z a-z 0-9 _ -, not {shown(store)}")
        self.index = f"{name}:__tc:items:{{{store}}}"
        self.ends = f"{self.index}:ends"
        self.prefix = f"{self.index}:n:"

    @staticmethod
    def text(namespace: Namespace) -> str:
        """Return the text of a namespace.

        Raises:
            UsageError: A label is no text, or the text is longer than 512 bytes.
        """
        labels = [check_text(label, "a label of the namespace") for label in namespace]
        text = "".join(label.replace(_ESCAPE, "\1\1").replace(_END, "\1\2") + _END for label in labels)
        check_size(text, "the namespace")
        return text

    @staticmethod
    def namespace(data: bytes) -> Namespace | None:
        """Return the namespace of a text, or None for bytes of other software."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        if text and not text.endswith(_END):
            return None
        return tuple(_ESCAPED.sub(_unescape, label) for label in text.split(_END)[:-1])

    def range_of(self, prefix: Namespace) -> NamespaceRange:
        """Return the range of the namespaces that begin with ``prefix``, itself included. Errors as for ``text``."""
        if not prefix:
            return NamespaceRange(b"-", b"+")
        text = self.text(prefix).encode()
        return NamespaceRange(b"[" + text, b"(" + text + b"\xff")  # No text of UTF-8 has the byte 255.

    @staticmethod
    def field(key: object) -> str:
        """Return the field of an item in the hash of its namespace.

        Raises:
            UsageError: ``key`` is no text, or is longer than 512 bytes.
        """
        text = check_text(key, "the key of an item")
        check_size(text, "the key of an item")
        return f"k{text}"


def _unescape(found: re.Match[str]) -> str:
    return _ESCAPE if found[1] == _ESCAPE else _END
