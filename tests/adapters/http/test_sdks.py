"""The clients of the SDKs, wrapped: a call that is repeated costs nothing, and brings equal objects."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest

from tests.adapters.http.wrapped import (
    CALLS,
    Client,
    both_flavours,
    dumped,
    every_form,
    http_library,
    raw_client,
    settled,
    wrapped,
)
from tests.providers import Gate, ProviderServer, Script
from tests.providers.sdks import ASK, WEATHER, chat, messages, responses
from tests.support import MakeCache
from tiercache import AgentCache

RAW: Final = ("with_raw_response", "with_streaming_response")


@every_form
@both_flavours
async def test_exchange_of_an_sdk_is_replayed_from_both_levels(
    make_cache: MakeCache, provider: ProviderServer, api: str, stream: bool, is_async: bool
) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    sources: list[str] = []

    async def items(client: Client, by: AgentCache) -> list[Any]:
        with by.watch() as seen:
            found = dumped(await client.items(CALLS[api], stream))
        await settled(by, seen[0].key, is_async=is_async)
        sources.extend(outcome.source for outcome in seen)
        return found

    async with (
        wrapped(cache, provider, api, is_async=is_async) as client,
        wrapped(other, provider, api, is_async=is_async) as second,
    ):
        first = await items(client, cache)
        await cache.flush_writes()
        assert await items(client, cache) == first
        cache.clear_l1()
        assert await items(client, cache) == first
        assert await items(second, other) == first
        assert await items(second, other) == first
    assert sources == ["loader", "l1", "l2", "l2", "l1"]
    assert provider.call_count == 1


@every_form
@both_flavours
async def test_flight_of_an_exchange_serves_identical_concurrent_calls(
    cache: AgentCache, provider: ProviderServer, api: str, stream: bool, is_async: bool
) -> None:
    gate = Gate("head")
    provider.script = Script(gates=(gate,))
    async with wrapped(cache, provider, api, is_async=is_async) as client:
        with cache.watch() as seen:
            calls = [asyncio.ensure_future(client.items(CALLS[api], stream)) for _ in range(50)]
            await provider.until(gate.held.is_set)
            gate.release()
            answers = [dumped(items) for items in await asyncio.gather(*calls)]
    assert all(answer == answers[0] for answer in answers)
    assert provider.call_count == 1
    assert [outcome.source for outcome in seen].count("loader") == 1
    counted = cache.local_stats().tiers["llm"]
    assert counted.misses + counted.l1_hits == 50


@every_form
@both_flavours
@pytest.mark.parametrize(
    "script",
    [
        Script(chunk_bytes=1, part_count=2),
        Script(gzip=True, chunk_bytes=1, part_count=2),
        Script(parts=("Zürich ", "東京 \u2028", "🙂 \\u0000 \x00")),
        Script(tool_calls=(WEATHER, WEATHER)),
    ],
    ids=["bytes", "gzip", "unicode", "tools"],
)
async def test_exchange_of_any_form_of_answer_is_replayed(
    cache: AgentCache, provider: ProviderServer, api: str, stream: bool, is_async: bool, script: Script
) -> None:
    provider.script = script
    async with wrapped(cache, provider, api, is_async=is_async) as client:
        first = dumped(await client.items(CALLS[api], stream))
        await cache.flush_writes()
        assert dumped(await client.items(CALLS[api], stream)) == first
        cache.clear_l1()
        assert dumped(await client.items(CALLS[api], stream)) == first
    if script.tool_calls and api != "embeddings":
        assert "weather" in repr(first)
    assert provider.call_count == 1


@both_flavours
async def test_exchange_of_azure_is_replayed_for_its_deployment_and_version(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    make = openai.AsyncAzureOpenAI if is_async else openai.AzureOpenAI
    answers = []
    for version in ("2025-01-01", "2025-01-01", "2025-06-01"):
        made = make(azure_endpoint=provider.url, api_key="k", api_version=version)
        async with Client(cache.wrap(made), is_async=is_async) as client:
            for stream in (False, True):
                for _ in range(2):
                    answers.append(dumped(await client.items(chat, stream)))
            assert type(client.client) is make
    assert provider.calls_by_path == {"/openai/deployments/gpt-4o/chat/completions": 4}
    whole, streamed = answers[0], answers[2]
    assert answers[:8] == [whole, whole, streamed, streamed] * 2
    assert answers[8] == answers[9] != whole
    assert answers[10] == answers[11] != streamed


@both_flavours
async def test_copy_of_a_wrapped_client_is_wrapped(cache: AgentCache, provider: ProviderServer, is_async: bool) -> None:
    async with wrapped(cache, provider, "chat", is_async=is_async) as client:
        first = dumped(await client.items(chat, False))
        for options in ({"timeout": 5}, {"max_retries": 0}, {"api_key": "another"}, {"default_headers": {"a": "b"}}):
            copy = Client(client.client.with_options(**options), is_async=is_async)
            assert dumped(await copy.items(chat, False)) == first
        assert provider.call_count == 1
        copy = Client(client.client.with_options(organization="another"), is_async=is_async)
        assert dumped(await copy.items(chat, False)) != first
    assert provider.call_count == 2


@both_flavours
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_exchange_has_raw_response_of_an_sdk(
    cache: AgentCache, provider: ProviderServer, stream: bool, is_async: bool
) -> None:
    async with wrapped(cache, provider, "chat", is_async=is_async) as client:

        def raw(client: Any) -> Any:
            return client.chat.completions.with_raw_response.create(**ASK, stream=stream)

        def streaming(client: Any) -> Any:
            return client.chat.completions.with_streaming_response.create(**ASK, stream=stream)

        first = await client.run(raw)
        (text,) = await client.within(streaming, "text" if not stream else "read")
        again = await client.run(raw)
        if not stream:
            assert first.parse() == again.parse()
            assert first.text == again.text == text
        assert first.http_response.extensions["tiercache"].source == "loader"
        assert again.http_response.extensions["tiercache"].hit
        assert first.request_id == again.request_id
        kept = ("content-type", "x-request-id", "openai-organization", "openai-version", "openai-processing-ms")
        for name in kept:
            assert first.headers[name] == again.headers[name]
        # The rate limits and cookies of an earlier request say nothing of a later one.
        assert {"x-ratelimit-remaining-requests", "set-cookie"} <= first.headers.keys()
        assert not {"x-ratelimit-remaining-requests", "set-cookie", "content-encoding"} & again.headers.keys()
    assert provider.call_count == 1


@both_flavours
@pytest.mark.parametrize("method", ["chat", "responses"])
async def test_exchange_of_a_structured_output_is_parsed_again(
    cache: AgentCache, provider: ProviderServer, is_async: bool, method: str
) -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    place = pydantic.create_model("Place", city=(str, ...))
    provider.script = Script(parts=('{"city":', ' "Bern"}'))
    ask = {"model": "gpt-4o", "input": "Hello"} if method == "responses" else ASK

    def parse(client: Any) -> Any:
        if method == "responses":
            return client.responses.parse(**ask, text_format=place)
        return client.chat.completions.parse(**ask, response_format=place)

    def stream(client: Any) -> Any:
        if method == "responses":
            return client.responses.stream(**ask, text_format=place)
        return client.chat.completions.stream(**ask, response_format=place)

    end = "get_final_response" if method == "responses" else "get_final_completion"
    async with wrapped(cache, provider, method, is_async=is_async) as client:
        wholes = [await client.run(parse) for _ in range(2)]
        streams = [await client.within(stream, "items", end) for _ in range(2)]
    assert provider.call_count == 2
    assert wholes[0] == wholes[1]
    assert [repr(event) for event in streams[0][0]] == [repr(event) for event in streams[1][0]]
    for answer in (*wholes, *(final for _, final in streams)):
        parsed = answer.output_parsed if method == "responses" else answer.choices[0].message.parsed
        assert parsed == place(city="Bern")
    assert streams[0][1] == streams[1][1]


@both_flavours
async def test_exchange_is_replayed_by_the_stream_helper_of_anthropic(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    def stream(client: Any) -> Any:
        return client.messages.stream(**ASK, max_tokens=9)

    async with wrapped(cache, provider, "messages", is_async=is_async) as client:
        with cache.watch() as seen:
            first, again = [await client.within(stream, "items", "get_final_message") for _ in range(2)]
            # The helper and ``create`` send the same request.
            items = await client.items(messages, True)
    assert [outcome.source for outcome in seen] == ["loader", "l1", "l1"]
    assert provider.call_count == 1
    assert first[1] == again[1]
    assert first[1].content[0].text == "Answer 1: part 1 part 2 part 3 part 4"
    assert [repr(event) for event in first[0]] == [repr(event) for event in again[0]]
    assert items[0].message.id == first[1].id


@both_flavours
async def test_exchange_keeps_fields_that_the_sdk_does_not_know(cache: AgentCache, is_async: bool) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    module = http_library(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
    calls: list[bytes] = []
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "new": [{"deep": 1.50}],
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi", "mood": "good"}}
        ],
    }

    def answer(request: Any) -> Any:
        calls.append(request.read())
        return module.Response(200, headers={"x-new": "n"}, content=json.dumps(body, indent=3).encode())

    http = raw_client(module.__name__, is_async=is_async, transport=module.MockTransport(answer))
    make = openai.AsyncOpenAI if is_async else openai.OpenAI
    async with Client(cache.wrap(make(api_key="k", http_client=http)), is_async=is_async) as client:
        answers = [(await client.items(chat, False))[0] for _ in range(2)]
    assert len(calls) == 1
    for each in answers:
        assert each.new == [{"deep": 1.50}]
        assert each.choices[0].message.mood == "good"
    assert answers[0] == answers[1]


@both_flavours
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_stream_and_whole_answer_have_two_exchanges(
    cache: AgentCache, provider: ProviderServer, api: str, is_async: bool
) -> None:
    async with wrapped(cache, provider, api, is_async=is_async) as client:
        for _ in range(2):
            for stream in (False, True):
                await client.items({"chat": chat, "responses": responses}[api], stream)
    assert [call.is_stream for call in provider.calls] == [False, True]
