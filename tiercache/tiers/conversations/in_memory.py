"""Conversations of a cache without Valkey: dicts, not L1, because L1 evicts entries and no other copy exists.

After ``Engine.open`` no method awaits until its work is done, so that every call is one step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...engine.engine import Engine
from ...engine.entries.rules import TierRules
from ...identity import KeepsIdentity
from ...ttl import Ttl
from .key import ConversationKeys
from .store import Conversations, Entry, Record, check_write

__all__ = ["MemoryConversations"]


class _Place:
    """A record with the monotonic second at which it ends."""

    __slots__ = ("expires_at", "record")

    def __init__(self, record: Record, expires_at: float) -> None:
        self.record = record
        self.expires_at = expires_at


class MemoryConversations(KeepsIdentity, Conversations):
    """The store of conversations in dicts of this process."""

    def __init__(self, engine: Engine, rules: TierRules, keys: ConversationKeys) -> None:
        self._engine = engine
        self._rules = rules
        self._keys = keys
        self._places: dict[str, _Place] = {}
        self._entries: dict[str, Entry] = {}

    async def record(self, conversation_id: str, ttl: Ttl | None) -> bytes | None:
        self._keys.check(conversation_id, "conversation_id")
        await self._open()
        place = self._places.get(conversation_id)
        if place is None:
            return None
        place.expires_at = self._end(ttl)
        return place.record.data

    async def records(self, scope: str | None, limit: int | None) -> list[bytes]:
        if scope is not None:
            self._keys.check(scope, "scope")
        await self._open()
        records = [place.record for place in self._places.values()]
        found = [record for record in records if scope is None or record.scope == scope]
        found.sort(key=lambda record: record.updated_at, reverse=True)
        return [record.data for record in found[:limit]]

    async def write(self, record: Record, entries: Sequence[Entry], expected: str | None, ttl: Ttl | None) -> bool:
        check_write(self._rules, self._keys, record, entries)
        await self._open()
        stored = self._places.get(record.id)
        if (None if stored is None else stored.record.revision) != expected:
            return False
        if record.head is not None and record.head not in {*self._entries, *(entry.id for entry in entries)}:
            return False
        self._entries |= {entry.id: entry for entry in entries}
        self._places[record.id] = _Place(record, self._end(ttl))
        if stored is not None and not set(stored.record.tips) <= set(record.tips):
            self._drop_unreached()
        return True

    async def delete(self, conversation_id: str, expected: str) -> bool:
        self._keys.check(conversation_id, "conversation_id")
        await self._open()
        stored = self._places.get(conversation_id)
        if stored is None or stored.record.revision != expected:
            return False
        del self._places[conversation_id]
        self._drop_unreached()
        return True

    async def history(self, head: str, limit: int | None) -> list[Entry] | None:
        self._keys.check(head, "the id of an entry")
        await self._open()
        entries: list[Entry] = []
        name: str | None = head
        while name is not None and len(entries) != limit:
            entry = self._entries.get(name)
            if entry is None:
                return None
            entries.append(entry)
            name = entry.parent
        return entries[::-1]

    def _end(self, ttl: Ttl | None) -> float:
        seconds = self._rules.lifetime(ttl)
        return math.inf if seconds is None else self._engine.now() + seconds

    async def _open(self) -> None:
        """Open the cache, and remove the conversations that have ended."""
        await self._engine.open()
        now = self._engine.now()
        ended = [name for name, place in self._places.items() if place.expires_at <= now]
        for name in ended:
            del self._places[name]
        if ended:
            self._drop_unreached()

    def _drop_unreached(self) -> None:
        """Remove the entries that no record reaches."""
        reached: dict[str, Entry] = {}
        for place in self._places.values():
            for tip in place.record.tips:
                name: str | None = tip
                while name is not None and name not in reached and (entry := self._entries.get(name)) is not None:
                    reached[name] = entry
                    name = entry.parent
        self._entries = reached
