"""Stored entries, read for the indexes to which they belong."""

from __future__ import annotations

from collections.abc import Callable

from ..engine.entries.rules import UndecodableError
from .values.tags import HEAD_BYTES, split_tags

__all__ = ["StoredEntries"]


class StoredEntries:
    """Reads models and tags from stored bytes, for ``indexes.reindex``.

    Attributes:
        model_of: Returns the model in the bytes of an llm entry, or None if the bytes are no entry. Raises
            UnreadableHereError if only other processes can read the entry.
        head_bytes: Bytes at the beginning of an entry that certainly contain its tags.
    """

    def __init__(self, model_of: Callable[[bytes], str | None]) -> None:
        self.model_of = model_of
        self.head_bytes = HEAD_BYTES

    def tags_of(self, head: bytes) -> tuple[str, ...] | None:
        """Return the tags of an entry from its first bytes, or None if the entry has more tags than it lists."""
        try:
            return split_tags(head).tags
        except UndecodableError:
            return ()
