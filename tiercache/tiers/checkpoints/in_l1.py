"""Checkpoints in L1: the content that this process has put or read.

The content of a checkpoint does not change. A read therefore asks Valkey only for the id of the checkpoint, the digest
of its record and the pending writes, and never serves a checkpoint that Valkey does not have.

Blobs are entries of their own, because checkpoints share them. A copy of an earlier value of a channel is dropped when
the next value is put, unless it is small: a chat of 100 messages would otherwise take 50 times its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from ...engine.engine import Engine
from ...engine.entries.entry import ENTRY_OVERHEAD_BYTES, Entry
from ...engine.entries.rules import TierRules
from ...engine.memory.fences import Fence
from ...engine.runtime.runtime import Runtime
from .checkpoint import Place, TypedBytes
from .codec import Blob
from .key import ThreadKeys

__all__ = ["CheckpointsInL1", "Content"]

# Bytes of the largest copy of an earlier value that L1 keeps.
_SMALL_BYTES: Final = 1024
# Bytes of a field of ``Content``, without its texts. Measured on CPython 3.11.
_FIELD_BYTES: Final = 180


class Content(Struct, frozen=True, gc=False):
    """The content of a checkpoint that does not change.

    Attributes:
        digest: The digest of the record.
        fields: The fields of the blobs, by channel.
        empty: Fields of which it is known that they have no blob: the channel has no value at that version.
    """

    digest: bytes
    parent: str | None
    checkpoint: TypedBytes
    metadata: TypedBytes
    fields: Mapping[str, bytes]
    empty: frozenset[bytes]


class CheckpointsInL1:
    """The contents and the blobs in the L1 of one face."""

    def __init__(self, engine: Engine, rules: TierRules) -> None:
        self._engine = engine
        self._rules = rules

    def open_fence(self, thread: ThreadKeys, runtime: Runtime) -> Fence:
        """Return a fence for a read or a put, which a change of the thread breaks. The caller must close it."""
        return runtime.fences.open(thread.index_key, (self._rules.group, thread.group))

    # Looking

    def latest(self, thread: ThreadKeys, ns: str) -> str | None:
        """Return the id of the latest checkpoint that this process has seen, or None."""
        value: str | None = self._get(_latest_key(thread, ns))
        return value

    def content(self, thread: ThreadKeys, place: Place) -> Content | None:
        """Return the content of a checkpoint, or None."""
        value: Content | None = self._get(_content_key(thread, place))
        return value

    def blob(self, thread: ThreadKeys, field: bytes) -> Blob | None:
        """Return the blob of a field, or None."""
        value: Blob | None = self._get(_blob_key(thread, field))
        return value

    def values(self, thread: ThreadKeys, content: Content) -> dict[str, TypedBytes] | None:
        """Return the values of the channels, or None unless L1 has all of them."""
        values: dict[str, TypedBytes] = {}
        for channel, field in content.fields.items():
            if field not in content.empty:
                blob = self.blob(thread, field)
                if blob is None:
                    return None
                values[channel] = blob.value
        return values

    def _get(self, key: str) -> Any:
        entry = self._engine.l1.get(key, self._engine.now())
        return None if entry is None else entry.value

    # Keeping

    def keep(
        self,
        thread: ThreadKeys,
        found: tuple[Place, Content, Mapping[bytes, Blob]],
        fence: Fence,
        runtime: Runtime,
        *,
        is_latest: bool,
    ) -> None:
        """Keep a content and blobs, unless the thread has been changed since ``fence`` was opened.

        Args:
            found: The place, the content, and blobs of it by field.
            is_latest: Whether the checkpoint was the latest of its namespace.
        """
        if not self._rules.l1 or not runtime.fences.allow(fence):
            return
        place, content, blobs = found
        for field, blob in blobs.items():
            self._put(fence, thread, _blob_key(thread, field), blob, len(blob.plain))
        texts = len(content.checkpoint.data) + len(content.metadata.data)
        size_bytes = texts + sum(_FIELD_BYTES + 2 * len(field) for field in content.fields.values())
        self._put(fence, thread, _content_key(thread, place), content, size_bytes)
        if is_latest:
            self._put(fence, thread, _latest_key(thread, place.ns), place.id, len(place.id))

    def drop_earlier(self, thread: ThreadKeys, before: Content, after: Content) -> None:
        """Drop the large blobs of ``before`` that ``after`` does not need."""
        for channel, field in before.fields.items():
            if after.fields.get(channel) != field:
                blob = self.blob(thread, field)
                if blob is not None and len(blob.plain) > _SMALL_BYTES:
                    self._engine.l1.drop(_blob_key(thread, field))

    def _put(self, fence: Fence, thread: ThreadKeys, key: str, value: object, size_bytes: int) -> None:
        groups = (self._rules.group, thread.group)
        size = ENTRY_OVERHEAD_BYTES + len(key) + size_bytes
        now = self._engine.now()
        self._engine.l1.put(key, Entry(value, math.inf, fence.began, math.inf, now, groups, size))


# The keys of L1 alone. No key in Valkey has a NUL behind the braces.


def _latest_key(thread: ThreadKeys, ns: str) -> str:
    return f"{thread.index_key}\0l\0{ns}"


def _content_key(thread: ThreadKeys, place: Place) -> str:
    return f"{thread.index_key}\0c\0{len(place.ns)}\0{place.ns}\0{place.id}"


def _blob_key(thread: ThreadKeys, field: bytes) -> str:
    return f"{thread.index_key}\0b\0{field.decode('latin-1')}"
