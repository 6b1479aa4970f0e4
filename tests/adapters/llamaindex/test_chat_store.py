"""TierCacheChatStore: whole messages, memories of LlamaIndex, several workers, wrong messages, Valkey away."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("llama_index.core")

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    CitableBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import ChatMemoryBuffer, ChatSummaryMemoryBuffer
from llama_index.core.schema import ImageDocument
from llama_index.core.storage.chat_store import SimpleChatStore
from pydantic import BaseModel

from tests.adapters.mortal_server import MortalServer
from tests.support import MakeCache, until
from tiercache import NO_EXPIRY, AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.llamaindex import TierCacheChatStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

# The drain at the end does not wait for a server that is gone.
SOON = ResilienceOptions(drain_timeout=0.5)
MESSAGES = [
    ChatMessage("Be brief.", role="system"),
    ChatMessage(
        role="user",
        blocks=[
            TextBlock(text="é\x00 Look:"),
            ImageBlock(image=b"\x89PNG\r\n\x1a\n\xff", image_mimetype="image/png", detail="low"),
            ImageBlock(url="https://example.com/a.png"),
            AudioBlock(audio=b"RIFF\xff", format="wav"),
            DocumentBlock(data=b"%PDF-1.4\xff", title="a.pdf", document_mimetype="application/pdf"),
            CitableBlock(title="A", source="s", content=[TextBlock(text="quote")]),
        ],
    ),
    ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="Hm.", num_tokens=3, additional_information={"signature": "x"}),
            ToolCallBlock(tool_call_id="c1", tool_name="search", tool_kwargs={"q": ["é", 1.5, None]}),
        ],
        additional_kwargs={"refusal": None, "usage": {"total_tokens": 3}},
    ),
    ChatMessage("found", role="tool", additional_kwargs={"tool_call_id": "c1"}),
    ChatMessage(role="assistant", blocks=[]),
]
TEXTS = [ChatMessage(text, role=role) for text, role in (("a", "user"), ("b", "assistant"), ("c", "user"))]


@pytest.fixture(params=["valkey", "memory"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[TierCacheChatStore]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield TierCacheChatStore(cache)


@pytest.fixture(params=["valkey", "memory"])
def plain_store(request: pytest.FixtureRequest, url: str) -> Iterator[TierCacheChatStore]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    with cache.sync:
        yield TierCacheChatStore(cache)


# Whole messages


async def test_store_returns_whole_messages_in_their_order(store: TierCacheChatStore) -> None:
    for message in MESSAGES:
        await store.async_add_message("chat", message)
    assert await store.aget_messages("chat") == MESSAGES
    await store.aset_messages("chat", MESSAGES[::-1])
    assert await store.aget_messages("chat") == MESSAGES[::-1]
    assert await store.aget_messages("other") == []


async def test_images_of_the_old_argument_are_blocks_once(store: TierCacheChatStore) -> None:
    image = ImageDocument(image=b"\x89PNG\r\n\x1a\n")
    message = ChatMessage("Look", role="user", additional_kwargs={"images": [image], "a": 1})
    assert [type(block) for block in message.blocks] == [TextBlock, ImageBlock]
    await store.async_add_message("chat", message)
    (found,) = await store.aget_messages("chat")
    assert (found.blocks, found.additional_kwargs) == (message.blocks, {"a": 1})


class Call(BaseModel):
    """A call of a tool, as the SDK of a provider has it."""

    id: str


async def test_objects_of_an_sdk_come_back_as_their_json(store: TierCacheChatStore) -> None:
    message = ChatMessage("", role="assistant", additional_kwargs={"tool_calls": [Call(id="c1")]})
    await store.async_add_message("chat", message)
    (found,) = await store.aget_messages("chat")
    assert found.additional_kwargs == {"tool_calls": [{"id": "c1"}]}


@pytest.mark.parametrize("value", [object(), (1, 2), {1: 2}, float("nan")])
async def test_message_that_json_does_not_restore_is_refused(store: TierCacheChatStore, value: Any) -> None:
    wrong = ChatMessage("Hi", role="user", additional_kwargs={"value": value})
    for call in (store.async_add_message("chat", wrong), store.aset_messages("chat", [TEXTS[0], wrong])):
        with pytest.raises(
            UsageError, match="a message of role 'user' has content that JSON does not restore as it is"
        ):
            await call
    assert await store.aget_messages("chat") == []


# The methods of the store, with the results of LlamaIndex's store in memory


def operate(store: Any) -> list[Any]:
    store.set_messages("set", TEXTS[:2])
    results: list[Any] = []
    for message in TEXTS:
        store.add_message("chat", message)
    results += [store.delete_message("chat", 1), store.delete_message("chat", 2), store.delete_message("none", 0)]
    results += [list(store.get_messages("chat")), store.delete_last_message("chat"), store.delete_last_message("none")]
    results += [list(store.get_messages("chat")), sorted(store.get_keys())]
    results += [store.delete_messages("chat"), store.delete_messages("chat"), store.get_messages("chat")]
    results += [store.get_keys(), store.delete_last_message("set"), store.delete_last_message("set")]
    return [*results, list(store.get_messages("set")), store.get_keys(), store.delete_messages("set"), store.get_keys()]


def test_store_has_the_results_of_a_store_in_memory(plain_store: TierCacheChatStore) -> None:
    assert operate(plain_store) == operate(SimpleChatStore())


async def test_async_methods_have_the_results_of_the_plain_ones(store: TierCacheChatStore) -> None:
    await store.aset_messages("chat", TEXTS)
    assert await store.adelete_message("chat", 0) == TEXTS[0]
    assert await store.adelete_message("chat", 2) is None
    assert await store.adelete_message("chat", -3) is None
    assert await store.adelete_last_message("chat") == TEXTS[2]
    assert await store.aget_keys() == ["chat"]
    assert await store.adelete_messages("chat") == [TEXTS[1]]
    assert (await store.adelete_messages("chat"), await store.adelete_last_message("chat")) == (None, None)
    assert (await store.aget_keys(), await store.aget_messages("chat")) == ([], [])


async def test_plain_methods_work_within_a_running_loop(plain_cache: AgentCache) -> None:
    store = TierCacheChatStore(plain_cache)
    store.add_message("chat", TEXTS[0])
    await asyncio.to_thread(store.add_message, "chat", TEXTS[1])
    assert store.get_messages("chat") == TEXTS[:2]


async def test_keys_are_those_of_the_store_alone(cache: AgentCache) -> None:
    stores = [TierCacheChatStore(cache, store=name) for name in ("a", "b")]
    keys = ["", "x", "x:y", "é\x00", "user 42"]
    for key in keys:
        await stores[0].async_add_message(key, TEXTS[0])
    await cache.session.set("x", "llamaindex-chat", "text")
    assert await stores[0].aget_keys() == sorted(keys)
    assert await stores[1].aget_keys() == []


async def test_chat_ends_after_its_last_use(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheChatStore(cache, ttl="1h")
    await store.async_add_message("chat", TEXTS[0])
    (key,) = plain.keys("test:__tc:items:{llamaindex-chat}:n:*")
    assert 0 < plain.pttl(key) <= 3_600_000
    brief = TierCacheChatStore(cache, store="brief", ttl=0.05)
    await brief.aset_messages("chat", TEXTS)

    async def has_ended() -> bool:
        return await brief.aget_keys() == []

    await until(has_ended)
    assert (await brief.aget_messages("chat"), await brief.adelete_messages("chat")) == ([], None)


# Several workers


async def test_messages_of_several_workers_are_all_kept(make_cache: MakeCache) -> None:
    stores = [TierCacheChatStore(make_cache(name="test")) for _ in range(3)]

    async def add(worker: int) -> None:
        for turn in range(20):
            message = ChatMessage(f"{worker} {turn}", role="user")
            await stores[worker].async_add_message("chat", message)
            # The addition has returned: a read of any worker has it.
            assert message in await stores[(worker + 1) % 3].aget_messages("chat")

    await asyncio.gather(*(add(worker) for worker in range(3)))
    texts = [message.content or "" for message in await stores[0].aget_messages("chat")]
    for worker in range(3):
        assert [text for text in texts if text.startswith(f"{worker} ")] == [f"{worker} {turn}" for turn in range(20)]


@pytest.mark.parametrize("method", ["adelete_last_message", "adelete_message", "adelete_messages"])
async def test_each_message_is_removed_by_one_worker_while_others_add(make_cache: MakeCache, method: str) -> None:
    stores = [TierCacheChatStore(make_cache(name="test")) for _ in range(3)]
    removed: list[ChatMessage] = []

    async def add() -> None:
        for turn in range(30):
            await stores[0].async_add_message("chat", ChatMessage(str(turn), role="user"))

    async def remove(worker: int) -> None:
        for _ in range(15):
            arguments = (0,) if method == "adelete_message" else ()
            found = await getattr(stores[worker], method)("chat", *arguments)
            removed.extend(found if isinstance(found, list) else [found] if found else [])

    await asyncio.gather(add(), remove(1), remove(2))
    left = await stores[0].aget_messages("chat")
    assert sorted(int(message.content or "") for message in (*removed, *left)) == list(range(30))


# Wrong arguments, other software, copies


async def test_wrong_arguments_are_refused(store: TierCacheChatStore, memory: AgentCache) -> None:
    with pytest.raises(UsageError, match="a message must be a ChatMessage of LlamaIndex, not str"):
        await store.async_add_message("chat", "Hi")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="idx must be a whole number, not '1'"):
        await store.adelete_message("chat", "1")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a label of the namespace"):
        await store.aget_messages(1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cache must be an AgentCache, not dict"):
        TierCacheChatStore({})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the name of a store"):
        TierCacheChatStore(memory, store="")
    with pytest.raises(UsageError, match="ttl must be"):
        TierCacheChatStore(memory, ttl="soon")


@pytest.mark.parametrize(
    "text", ["{}", "5", "[5]", '[{"role": "nobody"}]', "text", '[{"blocks": [{"block_type": "x"}]}]']
)
async def test_chat_that_other_software_has_written_is_an_error_and_stays(
    cache: AgentCache, plain: valkey.Valkey, text: str
) -> None:
    store = TierCacheChatStore(cache)
    await store.async_add_message("chat", TEXTS[0])
    (key,) = plain.keys("test:__tc:items:{llamaindex-chat}:n:*")
    stored = f"1 0 0 1 {text}".encode()
    plain.hset(key, "kmessages", stored)
    for call in (store.aget_messages("chat"), store.adelete_messages("chat"), store.adelete_last_message("chat")):
        with pytest.raises(UsageError, match="chat 'chat' has other content than messages of LlamaIndex"):
            await call
    if not text.startswith("["):
        with pytest.raises(UsageError, match="chat 'chat' has other content"):
            await store.async_add_message("chat", TEXTS[0])
    assert plain.hget(key, "kmessages") == stored
    await store.aset_messages("chat", TEXTS)
    assert await store.aget_messages("chat") == TEXTS


async def test_serialized_store_has_its_name_and_lifetime_alone(memory: AgentCache) -> None:
    store = TierCacheChatStore(memory, store="chats", ttl="1m")
    expected = {"store": "chats", "ttl": 60.0, "class_name": "TierCacheChatStore"}
    assert store.to_dict() == store.model_dump() == expected
    again = TierCacheChatStore.from_dict(store.to_dict(), cache=memory)
    assert (again.store, again.ttl) == ("chats", 60.0)
    assert TierCacheChatStore(memory, ttl=NO_EXPIRY).ttl is None
    buffer = ChatMemoryBuffer.from_defaults(chat_store=store, tokenizer_fn=str.split)
    assert buffer.to_dict()["chat_store"] == expected


def test_copy_of_a_store_is_the_store_and_a_pickle_is_refused(plain_store: TierCacheChatStore) -> None:
    assert copy.deepcopy(plain_store) is copy.copy(plain_store) is plain_store
    buffer = ChatMemoryBuffer.from_defaults(chat_store=plain_store, tokenizer_fn=str.split)
    assert buffer.model_copy(deep=True).chat_store is plain_store
    with pytest.raises(TypeError, match="cannot pickle a TierCacheChatStore"):
        pickle.dumps(plain_store)


# Memories of LlamaIndex


def test_memory_of_a_chat_goes_on_in_another_process(plain_store: TierCacheChatStore) -> None:
    for turn in range(2):
        memory = ChatMemoryBuffer.from_defaults(
            chat_store=plain_store, chat_store_key="user-42", token_limit=1000, tokenizer_fn=str.split
        )
        engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=memory)
        engine.chat(f"question {turn}")
    messages = plain_store.get_messages("user-42")
    assert [message.role for message in messages] == [MessageRole.USER, MessageRole.ASSISTANT] * 2
    assert messages[2].content == "question 1"
    assert messages[0].content == "question 0"
    memory.reset()
    assert plain_store.get_messages("user-42") == []


async def test_memories_of_llamaindex_run_on_the_store(store: TierCacheChatStore) -> None:
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=store, chat_store_key="c", token_limit=100, tokenizer_fn=str.split
    )
    await buffer.aput(TEXTS[0])
    await buffer.aput(TEXTS[1])
    assert await buffer.aget_all() == TEXTS[:2]
    await buffer.aset(TEXTS)
    assert await buffer.aget_all() == TEXTS
    await buffer.areset()
    assert await store.aget_keys() == []


def test_summary_memory_keeps_its_messages_in_the_store(plain_store: TierCacheChatStore) -> None:
    memory = ChatSummaryMemoryBuffer.from_defaults(
        chat_history=TEXTS, chat_store=plain_store, chat_store_key="c", token_limit=100, tokenizer_fn=str.split
    )
    memory.put(TEXTS[0])
    assert plain_store.get_messages("c") == memory.get_all() == [*TEXTS, TEXTS[0]]


# Valkey away


async def test_store_raises_while_valkey_is_away(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        store = TierCacheChatStore(cache)
        await store.async_add_message("chat", TEXTS[0])
        mortal_server.kill()
        calls = [
            store.async_add_message("chat", TEXTS[0]),
            store.aset_messages("chat", TEXTS),
            store.aget_messages("chat"),
            store.adelete_messages("chat"),
            store.adelete_message("chat", 0),
            store.adelete_last_message("chat"),
            store.aget_keys(),
        ]
        for call in calls:
            with pytest.raises(L2UnavailableError):
                await call


def test_chat_raises_if_valkey_is_killed_during_its_answer(mortal_server: MortalServer) -> None:
    class Killing(MockLLM):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            mortal_server.kill()
            return super().chat(messages, **kwargs)

    cache = AgentCache.from_url(mortal_server.url, resilience=SOON)
    with cache.sync:
        memory = ChatMemoryBuffer.from_defaults(
            chat_store=TierCacheChatStore(cache), token_limit=1000, tokenizer_fn=str.split
        )
        with pytest.raises(L2UnavailableError):
            SimpleChatEngine.from_defaults(llm=Killing(), memory=memory).chat("Hi")
