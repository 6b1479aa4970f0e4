"""TierCacheChatMessageHistory: whole messages in their order, several workers, the window, wrong messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("langchain")

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from tiercache import AgentCache, UsageError
from tiercache.adapters.langchain import TierCacheChatMessageHistory

MESSAGES: list[BaseMessage] = [
    SystemMessage("Be brief.", id="1"),
    HumanMessage([{"type": "text", "text": "Hi"}, {"type": "image", "url": "http://a/b"}], name="Ada"),
    AIMessage(
        "",
        tool_calls=[{"name": "search", "args": {"q": ["é", 1.5, None]}, "id": "c1"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"model_name": "gpt-4o", "nested": {"lc": 1}},
    ),
    ToolMessage("found", tool_call_id="c1", artifact={"a": [1]}, status="error"),
    RemoveMessage(id="1"),
]


async def test_history_returns_whole_messages_in_their_order(cache: AgentCache) -> None:
    history = TierCacheChatMessageHistory(cache, "thread-1")
    assert await history.aget_messages() == []
    await history.aadd_messages(MESSAGES[:2])
    await history.aadd_messages(MESSAGES[2:])
    await history.aadd_messages([])
    messages = await TierCacheChatMessageHistory(cache, "thread-1").aget_messages()
    assert messages == MESSAGES
    assert messages_to_dict(messages) == messages_to_dict(MESSAGES)
    assert await TierCacheChatMessageHistory(cache, "thread-2").aget_messages() == []


async def test_history_of_plain_code_works_within_a_running_loop(plain_cache: AgentCache) -> None:
    history = TierCacheChatMessageHistory(plain_cache, "thread-1")
    history.add_user_message("Hi")
    history.add_messages(MESSAGES)
    assert history.messages == [HumanMessage("Hi"), *MESSAGES]
    history.clear()
    assert history.messages == []


async def test_history_works_in_memory(memory: AgentCache) -> None:
    history = TierCacheChatMessageHistory(memory, "thread-1")
    await history.aadd_messages(MESSAGES)
    assert await history.aget_messages() == MESSAGES
    with pytest.raises(UsageError, match="memory"):
        _ = history.messages


async def test_additions_of_several_workers_lose_no_message(replicas: tuple[AgentCache, AgentCache]) -> None:
    histories = [TierCacheChatMessageHistory(cache, "thread-1") for cache in replicas]

    async def add(worker: int) -> None:
        for turn in range(10):
            question, answer = HumanMessage(f"{worker} {turn}"), AIMessage(f"{worker} {turn}")
            await histories[worker].aadd_messages([question, answer])
            # The addition has returned: a read of any worker has it.
            assert answer in await histories[1 - worker].aget_messages()

    await asyncio.gather(add(0), add(1))
    messages = await histories[0].aget_messages()
    assert len(messages) == 40
    # The messages of one addition stay side by side.
    assert all(messages[at].content == messages[at + 1].content for at in range(0, 40, 2))
    for worker in (0, 1):
        own = [message.content for message in messages[::2] if str(message.content).startswith(str(worker))]
        assert own == [f"{worker} {turn}" for turn in range(10)]


async def test_clear_of_a_history_leaves_the_other_fields(cache: AgentCache) -> None:
    await cache.session.set("thread-1", "step", "3")
    history, other = (TierCacheChatMessageHistory(cache, "thread-1", field=field) for field in ("a", "b"))
    await history.aadd_messages(MESSAGES)
    await other.aadd_messages(MESSAGES)
    await history.aclear()
    assert await history.aget_messages() == []
    assert await other.aget_messages() == MESSAGES
    assert await cache.session.get("thread-1", "step") == "3"
    assert await cache.session.destroy_thread("thread-1") == 2


async def test_window_of_a_history_is_its_ttl(cache: AgentCache, plain: valkey.Valkey) -> None:
    await TierCacheChatMessageHistory(cache, "thread-1", ttl=60).aadd_messages(MESSAGES)
    (key,) = [key for key in plain.keys("test:session:*") if b"messages" in key]
    assert 0 < plain.pttl(key) <= 60_000


class Opaque:
    """An object that JSON does not have."""


@pytest.mark.parametrize("value", [Opaque(), (1, 2), {1: 2}])
async def test_message_that_json_does_not_restore_is_refused(cache: AgentCache, value: Any) -> None:
    history = TierCacheChatMessageHistory(cache, "thread-1")
    with pytest.raises(UsageError, match="a message of type 'human' has content that JSON does not restore"):
        await history.aadd_messages([AIMessage("a"), HumanMessage("Hi", additional_kwargs={"value": value})])
    assert await history.aget_messages() == []


@pytest.mark.parametrize("stored", ["text", "{}", "5", "[5]", "[[5]]", '[[{"lc": 1}]]', '[{"a": 1}]'])
async def test_history_that_another_program_has_written_is_an_error(cache: AgentCache, stored: str) -> None:
    history = TierCacheChatMessageHistory(cache, "thread-1")
    await cache.session.set("thread-1", "langchain.messages", stored)
    with pytest.raises(
        UsageError, match=r"field 'langchain\.messages' of thread 'thread-1' h(olds no JSON list|as no messages)"
    ):
        await history.aget_messages()


async def test_history_restores_messages_alone(cache: AgentCache) -> None:
    history = TierCacheChatMessageHistory(cache, "thread-1")
    prompt = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "output", "Generation"]}
    await cache.session.set("thread-1", "langchain.messages", json.dumps([[{**prompt, "kwargs": {"text": "a"}}]]))
    with pytest.raises(UsageError, match="has no messages of LangChain"):
        await history.aget_messages()


def answering(cache: AgentCache) -> RunnableWithMessageHistory:
    """Return a chain that answers with the number of messages that it was given."""

    def answer(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(f"{len(messages)} messages")

    def history(session_id: str) -> TierCacheChatMessageHistory:
        return TierCacheChatMessageHistory(cache, session_id)

    return RunnableWithMessageHistory(RunnableLambda(answer), history)


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
async def test_history_works_with_a_runnable(cache: AgentCache) -> None:
    chain, config = answering(cache), {"configurable": {"session_id": "thread-1"}}
    answers = [(await chain.ainvoke([HumanMessage("Hi")], config)).content for _ in range(3)]  # type: ignore[arg-type]
    assert answers == ["1 messages", "3 messages", "5 messages"]


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
def test_history_works_with_a_runnable_of_plain_code(plain_cache: AgentCache) -> None:
    chain, config = answering(plain_cache), {"configurable": {"session_id": "thread-1"}}
    answers = [chain.invoke([HumanMessage("Hi")], config).content for _ in range(3)]  # type: ignore[arg-type]
    assert answers == ["1 messages", "3 messages", "5 messages"]


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
async def test_runnable_logs_that_an_addition_was_refused(cache: AgentCache, caplog: pytest.LogCaptureFixture) -> None:
    question = HumanMessage("Hi", additional_kwargs={"file": Opaque()})
    config: Any = {"configurable": {"session_id": "thread-1"}}
    assert (await answering(cache).ainvoke([question], config)).content == "1 messages"
    assert "content that JSON does not restore" in caplog.text
    assert await TierCacheChatMessageHistory(cache, "thread-1").aget_messages() == []


def test_history_refuses_wrong_arguments(plain_cache: AgentCache) -> None:
    for session_id, options in (("", {}), (5, {}), ("a", {"field": ""}), ("a", {"ttl": -1})):
        with pytest.raises(UsageError):
            TierCacheChatMessageHistory(plain_cache, session_id, **options)  # type: ignore[arg-type]
