"""The request path of wrapped clients: odd responses, requests of other services, streams without readers."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
import valkey

from tests.adapters.http.callers import NewCaller, close, follower_of, live_streams, nothing_is_left
from tests.adapters.http.wrapped import CHAT, Caller, Client, both_flavours, http_library, raw_client
from tests.providers import Gate, ProviderServer, Script
from tests.support import MakeCache
from tiercache import AgentCache, LlmOptions
from tiercache.adapters.http.apis import APIS
from tiercache.adapters.http.apis.sse import events

WHOLE = {"id": "1", "model": "gpt-4o", "choices": [{"finish_reason": "stop", "message": {"content": "Hi"}}]}
MESSAGES = next(api for api in APIS if api.name == "messages")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("name", ["httpx", "httpx2"])
@both_flavours
async def test_header_of_the_provider_that_is_not_ascii_reaches_the_caller(
    cache: AgentCache, name: str, encoding: str, is_async: bool
) -> None:
    module = http_library(name)
    headers = [(b"content-type", b"application/json"), (b"x-region", "Zürich".encode(encoding))]
    transport = module.MockTransport(lambda _: module.Response(200, headers=headers, content=json.dumps(WHOLE)))
    async with Client(
        cache.wrap(raw_client(name, is_async=is_async, transport=transport)), is_async=is_async
    ) as client:
        first = await client.post("http://a/v1/chat/completions", json=dict(CHAT))
        assert first.headers["x-region"] == "Zürich"
        again = await client.post("http://a/v1/chat/completions", json=dict(CHAT))
    assert first.json() == again.json() == WHOLE


async def with_headers(caller: Caller, headers: list[Any]) -> Any:
    """Return the response to the least chat, sent with further headers."""
    return await caller.client.post("/v1/chat/completions", json=dict(CHAT), headers=headers)


@both_flavours
async def test_header_of_a_request_that_is_no_unicode_shares_no_answer(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    """The two values look alike where the first is read as UTF-8 and the second as Latin-1."""
    async with Caller(cache, provider, is_async=is_async) as caller:
        for value, sources in (("é".encode(), ["loader", "l1"]), ("é".encode("latin-1"), ["bypass", "bypass"])):
            for source in sources:
                response = await with_headers(caller, [(b"openai-beta", value)])
                assert response.extensions["tiercache"].source == source
    assert provider.call_count == 3


@both_flavours
async def test_values_of_a_header_that_comes_twice_all_count(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    async with Caller(cache, provider, is_async=is_async) as caller:
        for values, source in ((["a", "b"], "loader"), (["a"], "loader"), (["b"], "loader"), (["a, b"], "l1")):
            response = await with_headers(caller, [("OpenAI-Beta", value) for value in values])
            assert response.extensions["tiercache"].source == source
        refused = await with_headers(caller, [("X-Tiercache", "refresh"), ("X-Tiercache", "ttl=5")])
    assert refused.status_code == 400
    assert provider.call_count == 3


@both_flavours
async def test_only_cached_sends_no_request_that_bypasses_the_cache(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    async with Caller(cache, provider, is_async=is_async) as caller:
        response = await caller.ask("only_cached", store=True)
    assert provider.call_count == 0
    assert response.status_code == 504
    assert response.extensions["tiercache"].reason == "store"


@pytest.mark.parametrize("stream", [False, True])
@both_flavours
async def test_refresh_whose_answer_is_too_large_removes_the_older_answer(
    make_cache: MakeCache, provider: ProviderServer, plain: valkey.Valkey, is_async: bool, stream: bool
) -> None:
    cache = make_cache(name="test", llm=LlmOptions(max_value_bytes=10_000))
    provider.enqueue(Script(), Script.of_size(100_000, part_bytes=1_000), Script())
    async with Caller(cache, provider, is_async=is_async) as caller:
        assert await caller.source(stream=stream) == "loader"
        assert await caller.source("refresh", stream=stream) == "loader"
        assert await caller.source(stream=stream) == "loader"
    assert cache.local_stats().tiers["llm"].too_large == 1


@pytest.mark.parametrize("stream", [False, True])
@both_flavours
async def test_refresh_that_fails_at_length_keeps_the_older_answer(
    make_cache: MakeCache, provider: ProviderServer, plain: valkey.Valkey, is_async: bool, stream: bool
) -> None:
    cache = make_cache(name="test", llm=LlmOptions(max_value_bytes=10_000))
    large = {"size_bytes": 100_000, "part_bytes": 1_000, "omits_terminal": True}
    failed = Script.of_size(**large) if stream else Script(status=500, message="x" * 100_000)
    provider.enqueue(Script(), failed)
    async with Caller(cache, provider, is_async=is_async) as caller:
        assert await caller.source(stream=stream) == "loader"
        assert len((await caller.ask("refresh", stream=stream)).content) > 100_000
        assert await caller.source(stream=stream) == "l1"


def test_count_that_is_null_in_the_last_event_of_messages_keeps_the_first_count() -> None:
    first = {"model": "m", "usage": {"input_tokens": 100, "output_tokens": 1}}
    last = {"input_tokens": None, "output_tokens": 7}
    sent: list[dict[str, Any]] = [
        {"type": "message_start", "message": first},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last},
        {"type": "message_stop"},
    ]
    body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in sent)
    assert MESSAGES.read_events(events(body)).tokens == {"input": 100, "output": 7}


@both_flavours
@pytest.mark.parametrize("path", ["/forms/7/responses", "/api/v1/messages", "/search/embeddings"])
async def test_post_that_asks_no_model_is_sent_each_time(cache: AgentCache, is_async: bool, path: str) -> None:
    """An answer to a form, and a message to people: each POST adds one."""
    module, count, lock = http_library("httpx2"), 0, threading.Lock()
    all_sent = asyncio.Event()
    loop = asyncio.get_running_loop()

    def counted() -> None:
        nonlocal count
        with lock:
            count += 1
        if count == 3:
            loop.call_soon_threadsafe(all_sent.set)

    async def answer(_: Any) -> Any:
        counted()
        await asyncio.wait_for(all_sent.wait(), 10)
        return module.Response(200, json={"ok": True})

    def answer_plainly(_: Any) -> Any:
        counted()
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(all_sent.wait(), 10), loop).result()
        return module.Response(200, json={"ok": True})

    transport = module.MockTransport(answer if is_async else answer_plainly)
    async with Client(
        cache.wrap(raw_client("httpx2", is_async=is_async, transport=transport, timeout=None)), is_async=is_async
    ) as client:
        await asyncio.gather(*(client.post(f"http://a{path}", json={"text": "hello"}) for _ in range(3)))
    assert count == 3


@both_flavours
async def test_only_cached_sends_a_post_that_asks_no_model(cache: AgentCache, is_async: bool) -> None:
    module = http_library("httpx2")
    transport = module.MockTransport(lambda _: module.Response(200, json={"ok": True}))
    client = cache.wrap(raw_client("httpx2", is_async=is_async, transport=transport), mode="only_cached")
    async with Client(client, is_async=is_async) as caller:
        response = await caller.post("http://a/forms/7/responses", json={"text": "hello"})
    assert (response.status_code, response.extensions["tiercache"].source) == (200, "bypass")


async def test_stream_that_no_process_can_read_any_more_is_cancelled(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    """Its own reader has left, and Valkey refuses the parts for the other process."""
    caller, other, gate, never = new_caller(), new_caller(), Gate(2), Gate(4)
    provider.enqueue(Script(gates=(gate, never)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    await parts.read(1)
    await close(first)
    (key,) = live_streams(plain)
    plain.set(key, "no stream")
    gate.release()
    await other_parts.read_to_error()
    await close(context)
    try:
        # Before the read timeout of the client, which would end the request too.
        await provider.until(lambda: provider.hung_up, 15)
    finally:
        never.release()
    await nothing_is_left(provider, plain, caller.cache, other.cache)
