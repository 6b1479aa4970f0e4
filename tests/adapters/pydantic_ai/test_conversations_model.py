"""TierCacheConversationStore beside InMemoryConversationStore: the same operations have the same results."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.installed import needs

needs("pydantic_ai")

from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.usage import RunUsage

from tiercache import AgentCache
from tiercache.adapters.pydantic_ai import TierCacheConversationStore

TIME = datetime(2026, 1, 1, tzinfo=UTC)
IDS = st.sampled_from(["a", "b", "c:1"])
SCOPES = st.none() | st.sampled_from(["u", "v"])
NUMBERS = st.integers(0, 12)
LIMITS = st.none() | st.integers(-1, 4)
OPERATIONS = st.one_of(
    st.tuples(st.just("new"), IDS, st.integers(0, 3)),
    st.tuples(st.just("load"), IDS, LIMITS, SCOPES),
    st.tuples(st.just("extend"), NUMBERS, st.integers(1, 3)),
    st.tuples(st.just("rewrite"), NUMBERS, NUMBERS),
    st.tuples(st.just("save"), NUMBERS, SCOPES),
    st.tuples(st.just("save"), NUMBERS, st.none()),
    st.tuples(st.just("branch"), NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS, SCOPES),
    st.tuples(st.just("fork"), IDS, st.none() | NUMBERS, st.none() | NUMBERS, IDS, SCOPES),
    st.tuples(st.just("list"), SCOPES, LIMITS),
    st.tuples(st.just("entries"), IDS, LIMITS),
    st.tuples(st.just("delete"), IDS, SCOPES),
)


class Run:
    """One store, the conversations that a program holds, and numbers instead of the random ids of this store."""

    def __init__(self, store: ConversationStore) -> None:
        self.store = store
        self.held: list[Conversation] = []
        self.entries: list[str] = []
        self._revisions: list[str] = []
        self._count = 0

    async def do(self, name: str, *args: Any) -> Any:
        """Return the result of an operation, or the name of its error, without random ids."""
        try:
            return self._plain(await getattr(self, f"_{name}")(*args))
        except (UserError, ConversationConflict) as error:
            return type(error).__name__

    def _messages(self, count: int) -> list[Any]:
        self._count += count
        numbers = range(self._count - count, self._count)
        return [
            ModelRequest(parts=[UserPromptPart(f"q{number}", timestamp=TIME)], timestamp=TIME)
            if number % 2
            else ModelResponse(parts=[TextPart(f"a{number}")], model_name="m", timestamp=TIME)
            for number in numbers
        ]

    def _pick(self, number: int) -> Conversation:
        if not self.held:
            self.held.append(Conversation(conversation_id="a"))
        return self.held[number % len(self.held)]

    def _entry(self, number: int | None) -> str | None:
        if number is None:
            return None
        return self.entries[number] if number < len(self.entries) else "none"

    async def _new(self, conversation_id: str, count: int) -> None:
        usage = RunUsage(requests=count)
        self.held.append(Conversation(conversation_id=conversation_id, messages=self._messages(count), usage=usage))

    async def _load(self, conversation_id: str, limit: int | None, scope: str | None) -> Any:
        loaded = await self.store.load(conversation_id, limit=limit, scope=scope)
        if loaded is not None:
            self.held.append(loaded)
        return loaded

    async def _extend(self, number: int, count: int) -> None:
        self._pick(number).messages.extend(self._messages(count))

    async def _rewrite(self, number: int, place: int) -> None:
        held = self._pick(number)
        if held.messages:
            held.messages[place % len(held.messages)] = self._messages(1)[0]

    async def _save(self, number: int, scope: str | None) -> Any:
        saved = await self.store.save(self._pick(number), scope=scope)
        self.entries.extend(entry.id for entry in saved)
        return saved

    async def _branch(self, number: int, at: int | None, entry: int | None, scope: str | None) -> Any:
        held = self._pick(number)
        branched = await self.store.branch(
            held.conversation_id,
            at=at,
            from_entry=self._entry(entry),
            expected_revision=held.revision,
            scope=scope,
        )
        self.held.append(branched)
        return branched

    async def _fork(self, source: str, at: int | None, entry: int | None, new: str, scope: str | None) -> Any:
        forked = await self.store.fork(
            source, at=at, from_entry=self._entry(entry), new_conversation_id=new, scope=scope
        )
        self.held.append(forked)
        return forked

    async def _list(self, scope: str | None, limit: int | None) -> Any:
        return await self.store.list_conversations(scope=scope, limit=limit)

    async def _entries(self, conversation_id: str, limit: int | None) -> Any:
        return await self.store.load_entries(conversation_id, limit=limit)

    async def _delete(self, conversation_id: str, scope: str | None) -> None:
        await self.store.delete(conversation_id, scope=scope)

    def _plain(self, value: Any) -> Any:
        """Return ``value`` with numbers instead of ids and revisions, and without times."""
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if isinstance(value, ConversationEntry):
            return (self._number(value.id), self._number(value.parent_id), value.message)
        if isinstance(value, Conversation):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return {**fields, "revision": self._revision(value.revision), "messages": list(value.messages)}
        if isinstance(value, ConversationRecord):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return {
                **fields,
                "head_id": self._number(value.head_id),
                "forked_at": self._number(value.forked_at),
                "branches": [self._number(each) for each in value.branches],
                "revision": self._revision(value.revision),
                "updated_at": None,
            }
        return value

    def _number(self, entry_id: str | None) -> int | None:
        if entry_id is None:
            return None
        if entry_id not in self.entries:
            self.entries.append(entry_id)
        return self.entries.index(entry_id)

    def _revision(self, revision: str | None) -> int | None:
        if revision is None:
            return None
        if revision not in self._revisions:
            self._revisions.append(revision)
        return self._revisions.index(revision)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(operations=st.lists(OPERATIONS, max_size=30), is_in_memory=st.booleans())
def test_store_has_the_results_of_the_store_in_memory(
    url: str, plain: Any, operations: list[tuple[Any, ...]], is_in_memory: bool
) -> None:
    async def run() -> None:
        plain.flushall()
        cache = AgentCache.in_memory() if is_in_memory else AgentCache.from_url(url, name="test")
        async with cache:
            expected = Run(InMemoryConversationStore())
            found = Run(TierCacheConversationStore(cache))
            for name, *args in operations:
                assert await found.do(name, *copy.deepcopy(args)) == await expected.do(name, *args), name
            everything = [await each.do("list", None, None) for each in (found, expected)]
            assert everything[0] == everything[1]
            for conversation_id in ("a", "b", "c:1"):
                await found.store.delete(conversation_id)
            # Nothing is left of conversations that are deleted.
            assert plain.keys("test:__tc:conv:*") == []

    asyncio.run(run())
