"""prepare_params of LlamaIndex's own ChatMessage objects."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from tests.adapters.installed import needs

needs("llama_index")

from llama_index.core.base.llms import types
from llama_index.core.llms import ChatMessage, DocumentBlock, ImageBlock, MessageRole, TextBlock
from llama_index.core.tools import FunctionTool

from tiercache import AgentCache
from tiercache.adapters.llamaindex import prepare_params
from tiercache.adapters.normalizer import compose_normalizer, hash_base64

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def add_text(a: str, b: str) -> str:
    """Add."""
    return a + b


def tool(function: Any) -> FunctionTool:
    return FunctionTool.from_defaults(function, name="add", description="Add.")


async def key_of(*messages: Any, **options: Any) -> str:
    return str(AgentCache.in_memory().llm.key(await prepare_params(messages, model="m", **options)))


async def test_chat_message_has_the_key_of_a_dict() -> None:
    assert await key_of(ChatMessage("hi")) == await key_of({"role": "user", "content": "hi"})
    assert await key_of(ChatMessage("a", role="system")) == await key_of({"role": "system", "content": "a"})


async def test_chat_messages_that_differ_share_no_key() -> None:
    assistant = MessageRole.ASSISTANT
    chats = [
        ChatMessage("hi"),
        ChatMessage("hi", role=assistant),
        ChatMessage("hi", role="developer"),
        ChatMessage("hi", additional_kwargs={"name": "ann"}),
        ChatMessage(role="tool", content="a", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role="tool", content="a", additional_kwargs={"tool_call_id": "2"}),
        ChatMessage(blocks=[TextBlock(text="hi"), ImageBlock(image=PNG)]),
        ChatMessage(blocks=[TextBlock(text="hi"), ImageBlock(image=PNG + b"1")]),
        ChatMessage(blocks=[TextBlock(text="hi"), ImageBlock(image=PNG, detail="low")]),
        ChatMessage(blocks=[ImageBlock(url="https://a.example/1.png")]),
        ChatMessage(blocks=[ImageBlock(url="https://a.example/2.png")]),
        ChatMessage(blocks=[DocumentBlock(data=b"%PDF-1", document_mimetype="application/pdf")]),
        ChatMessage(blocks=[DocumentBlock(data=b"%PDF-1", document_mimetype="application/pdf", title="a")]),
    ]
    if hasattr(types, "ToolCallBlock"):  # llama-index-core 0.14.0 has none.
        for args in ({"a": 1}, {"a": 2}):
            block = types.ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs=args)
            chats.append(ChatMessage(role=assistant, blocks=[block]))
            thought = types.ThinkingBlock(content=str(args))
            chats.append(ChatMessage(role=assistant, blocks=[thought, TextBlock(text="hi")]))
    for one, other in combinations([await key_of(chat) for chat in chats], 2):
        assert one != other


async def test_chat_message_hashes_its_image_by_the_normalizer() -> None:
    by_hash = compose_normalizer({"base64": hash_base64})
    message = ChatMessage(blocks=[ImageBlock(image=PNG)])
    prepared = await prepare_params([message], model="m", normalizer=by_hash)
    assert prepared["messages"][0]["content"][0]["ref"].startswith("sha256:")


async def test_chat_message_with_a_path_bypasses_the_cache(tmp_path: Path) -> None:
    # The same path may hold another picture at the next call.
    path = tmp_path / "screen.png"
    path.write_bytes(PNG)
    message = ChatMessage(blocks=[ImageBlock(path=path)])
    assert (await prepare_params([message], model="m")).bypass == "a file of this machine"
    assert await key_of(message) != await key_of(message)
    assert (await prepare_params([message], model="m", stateful=True)).mode == "use"


async def test_chat_tools_that_differ_in_their_schema_share_no_key() -> None:
    assert await key_of(ChatMessage("hi"), tools=[tool(add)]) != await key_of(ChatMessage("hi"), tools=[tool(add_text)])
    assert await key_of(ChatMessage("hi"), tools=[tool(add)]) == await key_of(ChatMessage("hi"), tools=[tool(add)])
