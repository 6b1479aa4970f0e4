"""Conversations in Valkey: each operation is one script, or one command.

Nothing is kept in L1: a read always sees the latest change of every process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ...engine.engine import Engine
from ...engine.entries.rules import TierRules
from ...engine.level2.queued_write import ignore_outcome
from ...engine.level2.writes import Command
from ...engine.operations.state import StateCommands
from ...identity import KeepsIdentity
from ...ttl import Ttl, to_milliseconds
from .key import ConversationKeys
from .scripts import conversations_script
from .store import Conversations, Entry, Record, check_write

__all__ = ["ValkeyConversations"]

_ALL: Final = -1


class ValkeyConversations(KeepsIdentity, Conversations):
    """The store of conversations in Valkey."""

    def __init__(self, engine: Engine, rules: TierRules, keys: ConversationKeys) -> None:
        self._engine = engine
        self._rules = rules
        self._state = StateCommands(engine)
        self._keys = keys

    async def record(self, conversation_id: str, ttl: Ttl | None) -> bytes | None:
        window = self._window(ttl)
        self._keys.check(conversation_id, "conversation_id")
        with self._engine.operation("conversations.record"):
            data = await self._state.ask(("HGET", self._keys.record(conversation_id), "data"))
        if data is not None and window:
            self._state.renew(self._script("renew", conversation_id, window), ignore_outcome)
        return None if data is None else bytes(data)

    async def records(self, scope: str | None, limit: int | None) -> list[bytes]:
        if scope is not None:
            self._keys.check(scope, "scope")
        listed = self._keys.listed(scope)
        with self._engine.operation("conversations.records"):
            (reply,) = await self._state.run_all([self._script("records", listed, _ALL if limit is None else limit)])
        return list(map(bytes, reply))

    async def write(self, record: Record, entries: Sequence[Entry], expected: str | None, ttl: Ttl | None) -> bool:
        check_write(self._rules, self._keys, record, entries)
        args: list[str | int | bytes] = [
            record.id,
            _optional(expected),
            record.revision,
            _optional(record.head),
            json.dumps(record.tips),
            _optional(record.scope),
            record.updated_at,
            self._window(ttl),
            record.data,
        ]
        for entry in entries:
            args += [entry.id, _optional(entry.parent), entry.data]
        with self._engine.operation("conversations.write", bytes=sum(len(entry.data) for entry in entries)):
            return await self._change(self._script("write", *args))

    async def delete(self, conversation_id: str, expected: str) -> bool:
        self._keys.check(conversation_id, "conversation_id")
        with self._engine.operation("conversations.delete"):
            return await self._change(self._script("delete", conversation_id, expected))

    async def history(self, head: str, limit: int | None) -> list[Entry] | None:
        self._keys.check(head, "the id of an entry")
        with self._engine.operation("conversations.history"):
            reply = await self._state.ask(self._script("history", head, _ALL if limit is None else limit))
        if reply is None:
            return None
        parts = list(zip(reply[::3], reply[1::3], reply[2::3], strict=True))
        return [Entry(name.decode(), _from_optional(parent), bytes(data)) for name, parent, data in reversed(parts)]

    async def _change(self, command: Command) -> bool:
        (reply,) = await self._state.run_all([command])
        return bool(reply == 1)

    def _window(self, ttl: Ttl | None) -> int:
        """Return the window in milliseconds, or 0 for no end."""
        seconds = self._rules.lifetime(ttl)
        return 0 if seconds is None else to_milliseconds(seconds)

    def _script(self, name: str, *args: str | int | bytes) -> Command:
        return ("EVAL", conversations_script(name), 1, self._keys.all, self._keys.prefix, *args)


def _optional(text: str | None) -> str:
    return "-" if text is None else f"+{text}"


def _from_optional(data: Any) -> str | None:
    return data[1:].decode() if data[:1] == b"+" else None
