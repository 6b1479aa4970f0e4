"""The clients of model providers, for tests: how to make each client, to call it, and to read its answers."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.providers import ProviderServer, ToolCall
from tests.support import collect_generators

ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
WEATHER = ToolCall(name="weather", arguments={"city": "Zürich", "days": 3})


def openai_client(server: ProviderServer, *, is_async: bool) -> Any:
    """Return a client of OpenAI."""
    openai = pytest.importorskip("openai", reason="openai is not installed")
    make = openai.AsyncOpenAI if is_async else openai.OpenAI
    return make(base_url=server.openai_url, api_key="k", max_retries=2)


def anthropic_client(server: ProviderServer, *, is_async: bool) -> Any:
    """Return a client of Anthropic."""
    anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")
    make = anthropic.AsyncAnthropic if is_async else anthropic.Anthropic
    return make(base_url=server.url, api_key="k", max_retries=2)


def gemini_client(server: ProviderServer, *, is_async: bool) -> Any:
    """Return a client of Gemini."""
    genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
    client = genai.Client(api_key="k", http_options={"base_url": server.url, "api_version": "v1beta"})
    return client.aio if is_async else client


def chat(client: Any, stream: bool, **more: Any) -> Any:
    """Call chat completions."""
    return client.chat.completions.create(**ASK, stream=stream, **more)


def responses(client: Any, stream: bool, **more: Any) -> Any:
    """Call responses."""
    return client.responses.create(model="gpt-4o", input="Hello", stream=stream, **more)


def messages(client: Any, stream: bool, **more: Any) -> Any:
    """Call messages."""
    return client.messages.create(**ASK, max_tokens=9, stream=stream, **more)


def embeddings(client: Any, stream: bool, **more: Any) -> Any:
    """Call embeddings, which have no streams."""
    return client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=4, **more)


def gemini(client: Any, stream: bool, **more: Any) -> Any:
    """Call Gemini."""
    models = client.models
    call = models.generate_content_stream if stream else models.generate_content
    return call(model="gemini-3.8-flash", contents="Hello", **more)


def text_of_chat(items: list[Any]) -> str:
    """Return the text of an answer, or of the chunks of a stream."""
    choices = [choice for item in items for choice in item.choices]
    return "".join((getattr(choice, "message", None) or choice.delta).content or "" for choice in choices)


def text_of_responses(items: list[Any]) -> str:
    """Return the text of a response, or of the events of a stream."""
    if hasattr(items[0], "output_text"):
        return items[0].output_text
    text = "".join(item.delta for item in items if item.type == "response.output_text.delta")
    assert text == items[-1].response.output_text
    assert [item.sequence_number for item in items] == list(range(len(items)))
    return text


def text_of_messages(items: list[Any]) -> str:
    """Return the text of a message, or of the events of a stream."""
    if hasattr(items[0], "content"):
        return items[0].content[0].text
    return "".join(item.delta.text for item in items if item.type == "content_block_delta")


def text_of_gemini(items: list[Any]) -> str:
    """Return the text of the answers."""
    return "".join(item.text or "" for item in items)


APIS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[[list[Any]], str]]] = {
    "chat": (openai_client, chat, text_of_chat),
    "responses": (openai_client, responses, text_of_responses),
    "messages": (anthropic_client, messages, text_of_messages),
    "gemini": (gemini_client, gemini, text_of_gemini),
}


async def items_of(called: Any) -> list[Any]:
    """Return the objects of a call: the answer, or the items of its stream."""
    if inspect.isawaitable(called):
        called = await called
    if isinstance(called, AsyncIterator):
        return [item async for item in called]
    return list(called) if isinstance(called, Iterator) else [called]


async def close(client: Any) -> None:
    """Close a client of any kind."""
    closed = client.aclose() if hasattr(client, "aclose") else client.close()
    if inspect.isawaitable(closed):
        await closed
    await collect_generators()
