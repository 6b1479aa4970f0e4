"""A conversation store of Pydantic AI in Valkey."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...tiers.conversations.store import Entry, Record
from ...ttl import Ttl, check_ttl
from ..caches import check_cache
from ..extras import missing_extra

try:
    from pydantic import TypeAdapter
    from pydantic_ai.conversation_store import (
        ConversationConflict,
        ConversationEntry,
        ConversationRecord,
        ConversationStore,
    )
    from pydantic_ai.messages import ModelMessagesTypeAdapter
except ImportError as error:
    raise missing_extra("pydantic-ai", error) from error

__all__ = ["TierCacheConversationStore"]

_RECORDS: Final[TypeAdapter[ConversationRecord]] = TypeAdapter(ConversationRecord)
_MICROSECONDS: Final = 1_000_000


class TierCacheConversationStore(ConversationStore):
    """A store of the conversations of Pydantic AI's agents: load, save, branch, fork, list, delete.

    Conversations are state: they exist nowhere else. Each read asks Valkey, and has every save that has returned in any
    process. A save stores its messages and the record in one step, or raises ``ConversationConflict`` and stores
    nothing. A delete removes the messages that no other conversation shares.

    Messages are stored as the JSON of Pydantic AI's own ``ModelMessagesTypeAdapter``.

    Args:
        cache: The cache.
        store: The name of the store: 1 to 128 of ``A-Z a-z 0-9 _ -``. Stores of one name on one cache share their
            conversations, and have the same ``ttl``.
        ttl: Window of a conversation: each load and each save restarts it. None takes that of the session tier, then
            the cache's.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have been made.
        L2CommandError: Valkey refused.
        WrongLoopError: The cache belongs to another event loop.
        UsageError: An argument is wrong, a message or a record has no JSON, the cache is closed or has no such face, or
            the bytes in Valkey are no conversation.
    """

    def __init__(self, cache: AgentCache, *, store: str = "pydantic-ai", ttl: Ttl | None = None) -> None:
        if ttl is not None:
            check_ttl(ttl)
        self._conversations = check_cache(cache)._parts.conversations(store)
        self._ttl = ttl

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation, or None. Restarts the window of the conversation."""
        data = await self._conversations.record(conversation_id, self._ttl)
        return None if data is None else _record(data)

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """Return the records of all conversations, or of those of a scope, the latest save first."""
        return [_record(data) for data in await self._conversations.records(scope, limit)]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and new entries in one step. Raises ConversationConflict as Pydantic AI describes it."""
        entries = [Entry(entry.id, entry.parent_id, _message_json(entry)) for entry in new_entries]
        if not await self._conversations.write(_stored(record), entries, expected_revision, self._ttl):
            raise ConversationConflict(record.conversation_id)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation and the entries that no other one shares. Raises ConversationConflict."""
        if not await self._conversations.delete(conversation_id, expected_revision):
            raise ConversationConflict(conversation_id)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry. Raises KeyError if the store does not have it."""
        (entry,) = await self.read_history(entry_id, limit=1)
        return entry

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries up to ``head_id``, or the last ``limit`` of them. Raises KeyError if one is missing."""
        if head_id is None:
            return []
        entries = await self._conversations.history(head_id, limit)
        if entries is None:
            raise KeyError(head_id)
        return [_entry(entry) for entry in entries]


def _stored(record: ConversationRecord) -> Record:
    try:
        data = _RECORDS.dump_json(record)
    # An object of the application, in the metadata of a deferred call, may raise any exception.
    except Exception as error:
        raise UsageError(f"the record of conversation {record.conversation_id!r} has no JSON: {error}") from error
    at = record.updated_at if record.updated_at.tzinfo is not None else record.updated_at.replace(tzinfo=UTC)
    return Record(
        id=record.conversation_id,
        revision=record.revision,
        head=record.head_id,
        branches=tuple(record.branches),
        scope=record.scope,
        updated_at=round(at.timestamp() * _MICROSECONDS),
        data=data,
    )


def _record(data: bytes) -> ConversationRecord:
    record: ConversationRecord = _restored(lambda: _RECORDS.validate_json(data))
    return record


def _message_json(entry: ConversationEntry) -> bytes:
    try:
        data: bytes = ModelMessagesTypeAdapter.dump_json([entry.message])
    except Exception as error:
        raise UsageError(f"the message of entry {entry.id!r} has no JSON: {error}") from error
    return data


def _entry(entry: Entry) -> ConversationEntry:
    message = _restored(lambda: ModelMessagesTypeAdapter.validate_json(entry.data)[0])
    return ConversationEntry(id=entry.id, parent_id=entry.parent, message=message)


def _restored(restore: Any) -> Any:
    # Any program can write into Valkey, and another version of Pydantic AI may have other fields.
    try:
        return restore()
    except (ValueError, IndexError) as error:
        raise UsageError(f"the store holds bytes that are no conversation of Pydantic AI: {error}") from error
