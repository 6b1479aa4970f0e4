"""TierCacheConversationStore with real agents, several processes, faults, and bytes of other software."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("pydantic_ai")

from pydantic_ai import Agent, BinaryContent, ImageUrl, RunContext, ToolReturn
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict, ConversationEntry, ConversationRecord
from pydantic_ai.exceptions import ApprovalRequired
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ThinkingPart, ToolCallPart, UserPromptPart
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import RunUsage

from tests.adapters.mortal_server import MortalServer
from tests.adapters.pydantic_ai.models import calling
from tests.support import MakeCache
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.pydantic_ai import TierCacheConversationStore


def asked(*texts: str) -> list[Any]:
    return [ModelRequest(parts=[UserPromptPart(text)]) for text in texts]


def texts(conversation: Conversation | None) -> list[Any]:
    assert conversation is not None
    return [part.content for message in conversation.messages for part in message.parts]  # type: ignore[union-attr]


async def test_agent_goes_on_where_another_process_ended(make_cache: MakeCache) -> None:
    def search(query: str) -> Any:
        """Search for a text."""
        return ToolReturn("found", content=[BinaryContent(b"\x00\xff", media_type="audio/wav")], metadata={"rows": 1})

    agent: Agent[Any, Any] = Agent(tools=[search])
    count, messages = 0, None
    for _ in range(3):
        async with make_cache(name="agents") as cache:
            store = TierCacheConversationStore(cache)
            conversation = await store.load("chat") or Conversation(conversation_id="chat")
            assert messages is None or conversation.messages == messages
            assert conversation.usage.requests == count
            prompt = ["Look", ImageUrl("https://example.org/a.png")]
            result = await agent.run(prompt, conversation=conversation, model=calling(("search", {"query": "a"})))
            await store.save(result)
            count, messages = result.conversation.usage.requests, result.all_messages()


async def test_every_kind_of_message_comes_back_as_it_was(cache: AgentCache) -> None:
    store = TierCacheConversationStore(cache)
    messages: list[Any] = [
        ModelRequest(parts=[UserPromptPart(["a", BinaryContent(b"\xff", media_type="audio/wav")])], run_id="r"),
        ModelResponse(
            parts=[ThinkingPart("hm", signature="s"), ToolCallPart("t", {"a": [1, 2.5]}, "id"), TextPart("b")],
            model_name="m",
            provider_details={"finish_reason": "stop"},
            finish_reason="stop",
        ),
    ]
    usage = RunUsage(requests=2, tool_calls=1, input_tokens=3, output_tokens=4, details={"reasoning_tokens": 1})
    await store.save(Conversation(conversation_id="c", messages=messages, usage=usage), scope="user:1")
    loaded = await store.load("c", scope="user:1")
    assert loaded is not None
    assert (loaded.messages, loaded.usage) == (messages, usage)
    assert await store.load("c", scope="user:2") is None


async def test_conversation_that_waits_for_an_approval_comes_back(cache: AgentCache) -> None:
    def delete(ctx: RunContext[None], path: str) -> str:
        """Delete a file."""
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"path": path})
        return "deleted"

    store = TierCacheConversationStore(cache)
    model = calling(("delete", {"path": "a"}))
    agent: Agent[Any, Any] = Agent(model, tools=[delete], output_type=[str, DeferredToolRequests])
    await store.save(await agent.run("Hi", conversation=Conversation(conversation_id="c")))
    loaded = await store.load("c")
    assert loaded is not None
    assert loaded.deferred_tool_requests is not None
    (call,) = loaded.deferred_tool_requests.approvals
    assert loaded.deferred_tool_requests.metadata == {call.tool_call_id: {"path": "a"}}
    answers = loaded.deferred_tool_requests.build_results(approve_all=True)
    done = await agent.run(conversation=loaded, deferred_tool_results=answers)
    assert done.output == "done"
    await store.save(done)
    again = await store.load("c")
    assert again is not None
    assert again.deferred_tool_requests is None


async def test_branch_and_fork_share_their_messages(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheConversationStore(cache)
    original = Conversation(conversation_id="c", messages=asked("1", "2", "3"))
    await store.save(original)
    fork = await store.fork("c", at=2, new_conversation_id="fork")
    fork.messages += asked("f")
    await store.save(fork)
    branched = await store.branch("c", at=1, expected_revision=original.revision)
    branched.messages += asked("b")
    await store.save(branched)
    assert [texts(await store.load(name)) for name in ("c", "fork")] == [["1", "b"], ["1", "2", "f"]]
    assert len(plain.keys("*:e:*")) == 5
    record = await store.read_record("c")
    assert record is not None
    back = await store.branch("c", from_entry=record.branches[0], expected_revision=record.revision)
    assert texts(back) == ["1", "2", "3"]
    await store.delete("c")
    assert texts(await store.load("fork")) == ["1", "2", "f"]
    assert len(plain.keys("*:e:*")) == 3


async def test_workers_that_load_again_after_a_conflict_lose_no_message(make_cache: MakeCache) -> None:
    conflicts = 0

    async def add(number: int) -> None:
        nonlocal conflicts
        store = TierCacheConversationStore(make_cache(name="agents"))
        for turn in range(5):
            while True:
                conversation = await store.load("chat") or Conversation(conversation_id="chat")
                conversation.messages += asked(f"{number}:{turn}")
                try:
                    await store.save(conversation)
                    break
                except ConversationConflict:
                    conflicts += 1

    await asyncio.gather(*map(add, range(4)))
    found = texts(await TierCacheConversationStore(make_cache(name="agents")).load("chat"))
    assert sorted(found) == sorted(f"{number}:{turn}" for number in range(4) for turn in range(5))
    assert conflicts > 0


async def test_older_copy_of_a_conversation_cannot_be_saved(make_cache: MakeCache) -> None:
    first, second = (TierCacheConversationStore(make_cache(name="agents")) for _ in range(2))
    await first.save(Conversation(conversation_id="c", messages=asked("1")))
    older = await first.load("c")
    newer = await second.load("c")
    assert older is not None
    assert newer is not None
    newer.messages += asked("2")
    await second.save(newer)
    older.messages += asked("x")
    with pytest.raises(ConversationConflict):
        await first.save(older)
    await second.delete("c")
    with pytest.raises(ConversationConflict):
        await first.save(newer)
    assert await first.load("c") is None


async def test_stores_of_one_name_share_their_conversations(memory: AgentCache) -> None:
    await TierCacheConversationStore(memory).save(Conversation(conversation_id="c", messages=asked("1")))
    assert texts(await TierCacheConversationStore(memory).load("c")) == ["1"]
    assert await TierCacheConversationStore(memory, store="other").load("c") is None


async def test_entry_that_the_store_does_not_have_is_a_key_error(cache: AgentCache) -> None:
    store = TierCacheConversationStore(cache)
    with pytest.raises(KeyError):
        await store.read_entry("none")
    with pytest.raises(KeyError):
        await store.read_history("none")
    assert await store.read_history(None) == []
    record = ConversationRecord(conversation_id="c", head_id="1", updated_at=datetime(2026, 1, 1, tzinfo=UTC))
    entry = ConversationEntry(id="1", parent_id=None, message=asked("1")[0])
    await store.write_record(record, new_entries=[entry], expected_revision=None)
    assert await store.read_entry("1") == entry
    assert await store.read_record("c") == record


async def test_message_without_json_is_refused_and_nothing_is_stored(cache: AgentCache) -> None:
    store = TierCacheConversationStore(cache)
    bad = ModelResponse(parts=[TextPart("a")], provider_details={"a": object()})
    with pytest.raises(UsageError, match="has no JSON"):
        await store.save(Conversation(conversation_id="c", messages=[*asked("1"), bad]))
    assert await store.list_conversations() == []


async def test_bytes_of_other_software_are_an_error(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheConversationStore(cache)
    await store.save(Conversation(conversation_id="c", messages=asked("1")))
    (entry,) = plain.keys("*:e:*")
    for data in (b"", b"[]", b"[1]", b"\xff"):
        plain.hset(entry, "data", data)
        with pytest.raises(UsageError, match="no conversation of Pydantic AI"):
            await store.load("c")
    (record,) = plain.keys("*:r:*")
    plain.hset(record, "data", b"{}")
    for call in (store.load("c"), store.list_conversations()):
        with pytest.raises(UsageError, match="no conversation of Pydantic AI"):
            await call


async def test_store_is_an_error_without_valkey(mortal_server: MortalServer) -> None:
    def search(query: str) -> str:
        """Search for a text."""
        mortal_server.kill()
        return "found"

    async with AgentCache.from_url(mortal_server.url, resilience=ResilienceOptions(drain_timeout=0.5)) as cache:
        store = TierCacheConversationStore(cache)
        await store.save(Conversation(conversation_id="chat", messages=asked("1")))
        conversation = await store.load("chat")
        agent: Agent[Any, Any] = Agent(calling(("search", {"query": "a"})), tools=[search])
        # The answer reaches the caller, and can be saved later.
        result = await agent.run("Hi", conversation=conversation)
        assert result.output == "done"
        for call in (
            store.save(result),
            store.load("chat"),
            store.list_conversations(),
            store.delete("chat"),
            store.fork("chat"),
            store.read_entry("1"),
        ):
            with pytest.raises(L2UnavailableError):
                await call


@pytest.mark.parametrize(
    ("options", "reason"), [({"ttl": -1}, "ttl"), ({"store": "a:b"}, "the name of a store"), ({"store": ""}, "name")]
)
def test_wrong_argument_is_refused(memory: AgentCache, options: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        TierCacheConversationStore(memory, **options)
    with pytest.raises(UsageError, match="cache must be an AgentCache"):
        TierCacheConversationStore(object())  # type: ignore[arg-type]


PROGRAM = """
import asyncio, sys
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from tests.adapters.pydantic_ai.models import calling
from tiercache import AgentCache
from tiercache.adapters.pydantic_ai import TierCacheConversationStore

cache = AgentCache.from_url(sys.argv[1], name="plain")
store = TierCacheConversationStore(cache)
agent = Agent(calling())

async def turn(prompt):
    conversation = await store.load("chat") or Conversation(conversation_id="chat")
    result = await agent.run(prompt, conversation=conversation)
    await store.save(result)
    return len(result.all_messages())

print(*[asyncio.run(turn("Hi")) for _ in range(2)])
"""


def test_plain_code_runs_turns_one_after_another(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == ("2 4\n", "")
