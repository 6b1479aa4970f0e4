"""Conversations: the place where the conversations of a store are, Valkey or process memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ...engine.entries.rules import TierRules
from ...ttl import Ttl
from .key import ConversationKeys

__all__ = ["Conversations", "Entry", "Record", "check_write"]


class Entry(Struct, frozen=True):
    """An entry of a log: one message, and the id of the entry before it, or None for the first."""

    id: str
    parent: str | None
    data: bytes


class Record(Struct, frozen=True):
    """The record of a conversation.

    Attributes:
        revision: The name of this state of the conversation.
        head: The id of the latest entry, or None without entries.
        branches: The ids of the latest entries of the histories that the conversation has left.
        scope: The owner of the conversation, or None.
        updated_at: Microseconds since the epoch.
        data: The bytes of the caller.
    """

    id: str
    revision: str
    head: str | None
    branches: tuple[str, ...]
    scope: str | None
    updated_at: int
    data: bytes

    @property
    def tips(self) -> list[str]:
        """The ids of the entries from which every entry of the conversation is reached."""
        return list(self.branches) if self.head is None else [self.head, *self.branches]


class Conversations(Protocol):
    """The store of conversations.

    A conversation and its entries live for a window after the last write or read of the record: the ``ttl`` of the
    call, else that of the session tier, else the cache's. An entry that no record reaches any more is removed in the
    same step.

    Raises:
        UsageError, WrongLoopError: As for ``Engine.open``; or a name is wrong, and nothing was done.
        L2UnavailableError: Valkey did not answer; a change may or may not have happened.
        L2CommandError: Valkey refused.
    """

    async def record(self, conversation_id: str, ttl: Ttl | None) -> bytes | None:
        """Return the data of a record, or None; restart the window of the conversation."""
        ...

    async def records(self, scope: str | None, limit: int | None) -> list[bytes]:
        """Return the data of all records, or of those of a scope, the latest save first; at most ``limit``."""
        ...

    async def write(self, record: Record, entries: Sequence[Entry], expected: str | None, ttl: Ttl | None) -> bool:
        """Store a record and new entries in one step, if the stored record has the revision ``expected``.

        Args:
            entries: Each after the entry that it points at.
            expected: The revision, or None if there must be no record.

        Returns:
            Whether they were stored. False also if no entry has the id of the head.
        """
        ...

    async def delete(self, conversation_id: str, expected: str) -> bool:
        """Delete a record with the revision ``expected``, and the entries that no other record reaches.

        Returns:
            Whether the record was deleted.
        """
        ...

    async def history(self, head: str, limit: int | None) -> list[Entry] | None:
        """Return the entries up to ``head``, the oldest first; at most the last ``limit``. None: one is missing."""
        ...


def check_write(rules: TierRules, keys: ConversationKeys, record: Record, entries: Sequence[Entry]) -> None:
    """Refuse ids and scopes that a key cannot contain, and data that is too large.

    Raises:
        UsageError: An id or the scope is no text or is too long, or data is too large.
    """
    rules.check_size(record.data, "the record")
    for entry in entries:
        rules.check_size(entry.data, "the message")
    keys.check(record.id, "conversation_id")
    keys.check(record.revision, "revision")
    if record.scope is not None:
        keys.check(record.scope, "scope")
    linked = [name for entry in entries for name in (entry.id, entry.parent) if name is not None]
    for name in (*record.tips, *linked):
        keys.check(name, "the id of an entry")
