"""TierCacheMemoryStore: LlamaIndex's Memory on it, the results of LlamaIndex's own store, several workers, faults."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

from tests.adapters.llamaindex.test_chat_store import MESSAGES, SOON, TEXTS
from tests.adapters.mortal_server import MortalServer
from tests.support import MakeCache, until
from tiercache import AgentCache, L2UnavailableError, UsageError
from tiercache.adapters.llamaindex import TierCacheMemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

# Earlier versions take no store but the one of SQLAlchemy.
with_memory = pytest.mark.skipif(
    Memory.model_fields["sql_store"].annotation is not AsyncDBChatStore, reason="this Memory takes no other store"
)
ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


@pytest.fixture(params=["valkey", "memory"])
def store(request: pytest.FixtureRequest, url: str) -> Iterator[TierCacheMemoryStore]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    with cache.sync:
        yield TierCacheMemoryStore(cache)


async def test_store_returns_whole_messages_in_their_order(store: TierCacheMemoryStore) -> None:
    await store.add_messages("s", MESSAGES[:2])
    for message in MESSAGES[2:]:
        await store.add_message("s", message)
    await store.add_messages("s", [])
    assert await store.get_messages("s") == MESSAGES
    assert await store.get_messages("s", limit=2, offset=1) == MESSAGES[1:3]
    assert await store.count_messages("s") == len(MESSAGES)


async def operate(store: Any) -> list[Any]:
    results: list[Any] = [await store.get_messages("s"), await store.archive_oldest_messages("s", 1)]
    await store.set_messages("s", TEXTS)
    await store.add_message("s", TEXTS[0], ARCHIVED)
    await store.add_messages("s", TEXTS)
    results += [await store.archive_oldest_messages("s", 2), await store.delete_oldest_messages("s", 1)]
    for status in (ACTIVE, ARCHIVED, None):
        results += [await store.get_messages("s", status), await store.count_messages("s", status)]
    results += [await store.get_messages("s", limit=2, offset=1), await store.get_messages("s", None, 1)]
    results += [await store.archive_oldest_messages("s", 0), await store.get_keys()]
    await store.delete_messages("s", ARCHIVED)
    results += [await store.get_messages("s", None), await store.delete_oldest_messages("s", 9)]
    results += [await store.get_messages("s", None), await store.get_keys(), await store.delete_message("s", 99)]
    await store.add_messages("t", TEXTS, ARCHIVED)
    await store.set_messages("t", TEXTS[:1])
    results += [await store.get_messages("t", None)]
    await store.delete_messages("t")
    return [*results, await store.get_keys(), await store.count_messages("t", None)]


async def test_store_has_the_results_of_llamaindexs_own(store: TierCacheMemoryStore) -> None:
    own = SQLAlchemyChatStore(table_name="messages", async_database_uri="sqlite+aiosqlite:///:memory:")
    expected = await operate(own)
    engine = attrgetter("_async_engine")(own)
    assert await operate(store) == expected
    assert engine is not None
    await engine.dispose()


async def test_message_is_deleted_by_its_place(store: TierCacheMemoryStore) -> None:
    await store.add_messages("s", TEXTS)
    assert await store.delete_message("s", 1) == TEXTS[1]
    assert await store.delete_message("s", 2) is None
    assert await store.get_messages("s") == [TEXTS[0], TEXTS[2]]


def memory_on(store: TierCacheMemoryStore, **options: Any) -> Memory:
    return Memory.from_defaults(session_id="user-42", chat_store=store, tokenizer_fn=str.split, **options)


@with_memory
async def test_memory_of_a_session_goes_on_in_another_process(store: TierCacheMemoryStore) -> None:
    for turn in range(3):
        await memory_on(store).aput_messages(
            [ChatMessage(f"question {turn}", role="user"), ChatMessage(f"answer {turn}", role="assistant")]
        )
    texts = [message.content for message in await memory_on(store).aget()]
    assert texts == [f"{word} {turn}" for turn in range(3) for word in ("question", "answer")]
    await memory_on(store).areset()
    assert await memory_on(store).aget() == []


@with_memory
def test_memory_of_plain_code_archives_the_messages_that_are_too_many(store: TierCacheMemoryStore) -> None:
    memory = memory_on(store, token_limit=40, token_flush_size=10, chat_history_token_ratio=0.5)
    for turn in range(20):
        memory.put(ChatMessage(f"this is question number {turn}", role="user"))
        memory.put(ChatMessage(f"this is answer number {turn}", role="assistant"))
    active, archived = (asyncio.run(store.get_messages("user-42", status)) for status in (ACTIVE, ARCHIVED))
    assert 0 < len(active) < 40
    # The oldest messages are archived, and no message is lost.
    assert [*archived, *active] == memory.get_all()
    assert len(memory.get_all()) == 40
    assert memory.get() == active


async def test_each_message_is_archived_by_one_worker_while_others_add(make_cache: MakeCache) -> None:
    stores = [TierCacheMemoryStore(make_cache(name="test")) for _ in range(3)]
    archived: list[ChatMessage] = []

    async def add() -> None:
        for turn in range(20):
            await stores[0].add_message("s", ChatMessage(str(turn), role="user"))

    async def archive(worker: int) -> None:
        for _ in range(10):
            archived.extend(await stores[worker].archive_oldest_messages("s", 1))

    await asyncio.gather(add(), archive(1), archive(2))
    texts = [message.content for message in await stores[0].get_messages("s", None)]
    assert texts == [str(turn) for turn in range(20)]
    assert len({message.content for message in archived}) == len(archived)
    assert [message.content for message in await stores[0].get_messages("s", ARCHIVED)] == texts[: len(archived)]


async def test_wrong_arguments_are_refused_and_nothing_is_stored(
    store: TierCacheMemoryStore, plain_memory: AgentCache
) -> None:
    with pytest.raises(UsageError, match="has content that JSON does not restore"):
        await store.add_messages("s", [TEXTS[0], ChatMessage("a", additional_kwargs={"a": object()})])
    assert await store.get_messages("s", None) == []
    await store.add_message("s", TEXTS[0])
    for call, message in (
        (store.delete_message("s", "1"), "idx must be a whole number"),  # type: ignore[arg-type]
        (store.archive_oldest_messages("s", -1), "n must be a whole number from 0"),
        (store.get_messages(1), "a label of the namespace"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=message):
            await call
    with pytest.raises(UsageError, match="cache must be an AgentCache, not dict"):
        TierCacheMemoryStore({})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ttl must be"):
        TierCacheMemoryStore(plain_memory, ttl=0)


@pytest.mark.parametrize("text", ["{}", "[5]", '[{"status": 1}]', '[{"status": "active"}]', '[{"message": {}}]'])
async def test_session_that_other_software_has_written_is_an_error_and_stays(
    plain_cache: AgentCache, plain: valkey.Valkey, text: str
) -> None:
    store = TierCacheMemoryStore(plain_cache)
    await store.add_message("s", TEXTS[0])
    (key,) = plain.keys("test:__tc:items:{llamaindex-memory}:n:*")
    stored = f"1 0 0 1 {text}".encode()
    plain.hset(key, "kmessages", stored)
    for call in (store.get_messages("s"), store.delete_oldest_messages("s", 1), store.delete_message("s", 0)):
        with pytest.raises(UsageError, match="chat 's' has other content than messages of LlamaIndex"):
            await call
    assert plain.hget(key, "kmessages") == stored
    await store.set_messages("s", TEXTS)
    assert await store.get_messages("s") == TEXTS


async def test_session_ends_after_its_last_use(plain_cache: AgentCache) -> None:
    store = TierCacheMemoryStore(plain_cache, ttl=0.05)
    await store.add_messages("s", TEXTS)

    async def has_ended() -> bool:
        return await store.get_keys() == []

    await until(has_ended)
    assert await store.get_messages("s") == []


@with_memory
def test_copy_of_a_store_is_the_store_and_a_pickle_is_refused(store: TierCacheMemoryStore) -> None:
    assert copy.deepcopy(store) is memory_on(store).model_copy(deep=True).sql_store is store
    assert store.model_dump() == {"store": "llamaindex-memory", "ttl": None}
    assert store.class_name() == "TierCacheMemoryStore"
    with pytest.raises(TypeError, match="cannot pickle a TierCacheMemoryStore"):
        pickle.dumps(store)


async def test_store_raises_while_valkey_is_away(mortal_server: MortalServer) -> None:
    cache = AgentCache.from_url(mortal_server.url, resilience=SOON)
    store = TierCacheMemoryStore(cache)
    await store.add_messages("s", TEXTS)
    mortal_server.kill()
    for call in (
        store.get_messages("s"),
        store.add_message("s", TEXTS[0]),
        store.set_messages("s", TEXTS),
        store.delete_messages("s", ACTIVE),
        store.archive_oldest_messages("s", 1),
        store.get_keys(),
    ):
        with pytest.raises(L2UnavailableError):
            await call
    await asyncio.to_thread(cache.sync.close)
