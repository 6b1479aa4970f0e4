"""Wrapped clients: what ``cache.wrap`` takes, and that a copy treats its requests as the original client does."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.adapters.http.wrapped import (
    CHAT,
    Client,
    both_flavours,
    client_class,
    http_library,
    raw_client,
    settled,
    wrapped,
)
from tests.providers import Gate, ProviderServer, Script
from tests.providers.sdks import anthropic_client, chat, openai_client
from tests.support import MakeCache, run_in_thread
from tiercache import AgentCache, UsageError

both_libraries = pytest.mark.parametrize("library", ["httpx", "httpx2"])


def raw(cache: AgentCache, library: str, *, is_async: bool, **options: Any) -> Client:
    """Return a wrapped client of an HTTP library."""
    return Client(cache.wrap(raw_client(library, is_async=is_async, **options)), is_async=is_async)


# What wrap takes


@pytest.mark.parametrize(
    "given", [None, "client", 1, object(), {"api_key": "k"}, asyncio.Queue], ids=lambda given: type(given).__name__
)
def test_client_of_another_kind_is_refused(given: Any) -> None:
    with pytest.raises(UsageError) as refused:
        AgentCache.in_memory().wrap(given)
    text = str(refused.value)
    for name in ("OpenAI", "AsyncOpenAI", "Anthropic", "AsyncAnthropic", "Azure", "AsyncClient", "httpx", "httpx2"):
        assert name in text
    assert (given.__name__ if inspect.isclass(given) else type(given).__name__) in text


def test_client_of_gemini_is_refused_with_the_way_to_wrap_it() -> None:
    genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
    with pytest.raises(UsageError, match=r"HttpOptions.*not google\.genai\.client\.Client"):
        AgentCache.in_memory().wrap(genai.Client(api_key="k"))


@both_libraries
def test_client_class_is_refused_by_its_name(library: str) -> None:
    kind = client_class(library, is_async=True)
    with pytest.raises(UsageError, match=rf"not the class {library}\.AsyncClient"):
        AgentCache.in_memory().wrap(kind)


async def test_part_of_an_sdk_client_is_refused(provider: ProviderServer) -> None:
    client = openai_client(provider, is_async=True)
    for part in (client.chat, client.chat.completions, client.with_raw_response, type(client)):
        with pytest.raises(UsageError, match="client must be"):
            AgentCache.in_memory().wrap(part)
    await client.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "often"}, "mode"),
        ({"ttl": -1}, "ttl"),
        ({"tags": "tag"}, "tags"),
        ({"tags": ("",)}, "tag"),
        ({"scope": ""}, "scope"),
        ({"scope": 7}, "scope"),
        ({"stateful": "yes"}, "stateful"),
        ({"store_when": True}, "store_when"),
    ],
    ids=str,
)
async def test_client_with_wrong_option_is_refused(provider: ProviderServer, options: Any, text: str) -> None:
    cache = AgentCache.in_memory()
    client = openai_client(provider, is_async=True)
    with pytest.raises(UsageError, match=text):
        cache.wrap(client, **options)
    if "store_when" not in options:
        with pytest.raises(UsageError, match=text):
            cache.calls(**options)
    await client.close()


async def test_client_that_its_sdk_cannot_copy_is_refused_with_another_way(
    cache: AgentCache, provider: ProviderServer
) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")

    class Gateway(openai.AsyncOpenAI):  # type: ignore[misc]
        def __init__(self, team: str, http_client: Any = None) -> None:
            super().__init__(api_key=team, base_url=provider.openai_url, http_client=http_client)

    client = Gateway("red")
    with pytest.raises(UsageError, match=r"Gateway cannot be copied.*http_client=cache\.wrap\(\.\.\.\)"):
        cache.wrap(client)
    await client.close()
    async with Client(Gateway("red", cache.wrap(openai.DefaultAsyncHttpxClient())), is_async=True) as other:
        assert await other.items(chat, False) == await other.items(chat, False)
    assert provider.call_count == 1


@both_flavours
async def test_client_and_its_copy_are_of_one_type(cache: AgentCache, provider: ProviderServer, is_async: bool) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    http_kind = openai.DefaultAsyncHttpxClient if is_async else openai.DefaultHttpxClient
    azure = openai.AsyncAzureOpenAI if is_async else openai.AzureOpenAI
    clients = [
        openai_client(provider, is_async=is_async),
        openai_client(provider, is_async=is_async).with_options(timeout=3),
        anthropic_client(provider, is_async=is_async),
        azure(azure_endpoint=provider.url, api_key="k", api_version="1"),
        raw_client("httpx", is_async=is_async),
        raw_client("httpx2", is_async=is_async),
        http_kind(),
    ]
    for client in clients:
        made = cache.wrap(client)
        assert type(made) is type(client)
        assert made is not client
        await Client(made, is_async=is_async).close()


@both_flavours
@both_libraries
async def test_copy_of_a_subclass_has_its_methods_and_state(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    base = client_class(library, is_async=is_async)
    sent: list[str] = []

    class Gateway(base):  # type: ignore[misc, valid-type]
        def __init__(self, team: str, **options: Any) -> None:
            super().__init__(base_url=provider.url, **options)
            self.team = team

        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            request = super().build_request(*args, **kwargs)
            request.headers["x-team"] = self.team
            return request

        def send(self, request: Any, **options: Any) -> Any:
            sent.append(request.headers["x-team"])
            return super().send(request, **options)

    async with Client(cache.wrap(Gateway("red")), is_async=is_async) as client:
        assert type(client.client) is Gateway
        assert client.client.team == "red"
        bodies = [(await client.post("/v1/chat/completions", json=CHAT)).json() for _ in range(3)]
    assert bodies[0] == bodies[1] == bodies[2]
    assert [call.headers["x-team"] for call in provider.calls] == ["red"]
    # The subclass sends what goes to the provider, and that alone.
    assert sent == ["red"]


@both_flavours
@both_libraries
async def test_end_of_a_copy_leaves_the_original_open(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    ended: list[str] = []

    class Closing(client_class(library, is_async=is_async)):  # type: ignore[misc]
        def __del__(self) -> None:
            ended.append("a client")

    original = Closing(base_url=provider.url)
    await Client(cache.wrap(original), is_async=is_async).post("/v1/chat/completions", json=CHAT)
    gc.collect()
    # The copy has gone. An end of it by the method of its class would close the original.
    assert ended == []
    assert (await Client(original, is_async=is_async).post("/v1/chat/completions", json=CHAT)).status_code == 200
    await Client(original, is_async=is_async).close()


@both_flavours
async def test_original_client_stays_usable_and_uncached(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    original = Client(openai_client(provider, is_async=is_async), is_async=is_async)
    await Client(cache.wrap(original.client), is_async=is_async).items(chat, False)
    # The copy has gone: the original must not end with it.
    await asyncio.sleep(0)
    for _ in range(2):
        await original.items(chat, False)
    assert provider.call_count == 3
    await original.close()


@both_flavours
async def test_close_of_a_copy_closes_the_original(cache: AgentCache, provider: ProviderServer, is_async: bool) -> None:
    original = openai_client(provider, is_async=is_async)
    client = Client(cache.wrap(original), is_async=is_async)
    await client.items(chat, False)
    assert provider.open_connection_count == 1
    await client.close()
    assert original.is_closed()
    await provider.until(lambda: provider.open_connection_count == 0)


@both_flavours
@both_libraries
async def test_close_of_a_copy_of_an_http_client_closes_the_original(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    original = raw_client(library, is_async=is_async, base_url=provider.url)
    client = Client(cache.wrap(original), is_async=is_async)
    await client.post("/v1/chat/completions", json=CHAT)
    await client.close()
    assert original.is_closed


# The responses


@both_flavours
@both_libraries
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_replayed_response_can_be_read_as_that_of_the_provider(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool, stream: bool
) -> None:
    request = {"json": {**CHAT, "stream": stream}}
    async with raw(cache, library, is_async=is_async, base_url=provider.url) as client:

        async def read() -> tuple[bytes, str, int]:
            def send(c: Any) -> Any:
                return c.send(c.build_request("POST", "/v1/chat/completions", **request), stream=True)

            response = await client.run(send)
            assert not response.is_stream_consumed
            if is_async:
                content = b"".join([chunk async for chunk in response.aiter_raw()])
            else:
                content = await asyncio.to_thread(lambda: b"".join(response.iter_raw()))
            assert response.elapsed.total_seconds() > 0
            await settled(cache, response.headers["x-tiercache-key"], is_async=is_async)
            return content, response.headers["x-tiercache"], response.num_bytes_downloaded

        content, _, size = await read()
        assert await read() == (content, "hit", size)
    assert provider.call_count == 1


# The settings of the original client


@both_flavours
@both_libraries
async def test_copy_has_the_settings_of_the_original(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    client = raw(
        cache,
        library,
        is_async=is_async,
        base_url=f"{provider.url}/v1/",
        params={"api-version": "7"},
        headers={"x-own": "own"},
        cookies={"session": "s"},
        auth=("user", "password"),
        default_encoding="latin-1",
    )
    async with client:
        answers = [await client.post("chat/completions", json=CHAT, headers={"x-more": "more"}) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert [answer.default_encoding for answer in answers] == ["latin-1"] * 2
    (call,) = provider.calls
    assert (call.path, call.query) == ("/v1/chat/completions", "api-version=7")
    assert (call.headers["x-own"], call.headers["x-more"], call.headers["cookie"]) == ("own", "more", "session=s")
    assert call.headers["authorization"].startswith("Basic ")


@both_flavours
@both_libraries
async def test_event_hooks_of_the_original_run_for_requests_to_the_provider_alone(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    seen: list[str] = []

    def on_request(request: Any) -> None:
        seen.append(request.content.decode()[:8])
        request.headers["x-hook"] = "hook"

    def on_response(response: Any) -> None:
        seen.append(f"{response.status_code}")

    async def on_request_async(request: Any) -> None:
        on_request(request)

    async def on_response_async(response: Any) -> None:
        on_response(response)

    hooks: dict[str, list[Any]] = {"request": [on_request], "response": [on_response]}
    if is_async:
        hooks = {"request": [on_request_async], "response": [on_response_async]}
    async with raw(cache, library, is_async=is_async, base_url=provider.url, event_hooks=hooks) as client:
        for headers in ({}, {}, {"x-tiercache": "refresh"}, {"x-tiercache": "bypass"}):
            await client.post("/v1/chat/completions", json=CHAT, headers=headers)
        await client.post("/v1/moderations", json=CHAT, headers={"x-tiercache": "refresh"})
    assert seen == ['{"model"', "200"] * 3 + ['{"model"', "404"]
    assert [request.headers["x-hook"] for request in provider.requests] == ["hook"] * 4


@both_flavours
@both_libraries
async def test_mounts_and_proxies_of_the_original_count(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    module = http_library(library)
    sent: list[str] = []

    def answer(request: Any) -> Any:
        sent.append(str(request.url))
        return module.Response(200, json={"choices": [{"finish_reason": "stop", "message": {"content": "mounted"}}]})

    mounts = {"all://mounted.example": module.MockTransport(answer)}
    async with raw(cache, library, is_async=is_async, mounts=mounts) as client:
        for _ in range(2):
            found = await client.post("http://mounted.example/v1/chat/completions", json=CHAT)
            assert found.json()["choices"][0]["message"]["content"] == "mounted"
    assert sent == ["http://mounted.example/v1/chat/completions"]
    # The server answers as a proxy: it takes the whole URL for the path.
    async with raw(cache, library, is_async=is_async, proxy=provider.url) as client:
        for _ in range(2):
            await client.post("http://behind.example/v1/chat/completions", json=CHAT)
    assert [call.path for call in provider.calls] == ["http://behind.example/v1/chat/completions"]


@both_flavours
@both_libraries
@pytest.mark.parametrize("place", ["client", "request"])
async def test_redirect_is_followed_by_the_original_and_by_the_request(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool, place: str
) -> None:
    moved = Script(status=307, headers=(("location", "/elsewhere/v1/chat/completions"),))
    provider.choose = lambda served: None if served.path.startswith("/elsewhere") else moved
    at_client = {"follow_redirects": True} if place == "client" else {}
    at_request = {} if place == "client" else {"follow_redirects": True}
    async with raw(cache, library, is_async=is_async, base_url=provider.url, **at_client) as client:
        answers = [await client.post("/v1/chat/completions", json=CHAT, **at_request) for _ in range(2)]
        last = await client.post("/v1/chat/completions", json=CHAT, follow_redirects=False)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    # A redirect is no answer that is stored; the answer behind it is.
    expected = {"/v1/chat/completions": 1 if place == "client" else 3, "/elsewhere/v1/chat/completions": 1}
    assert provider.calls_by_path == expected
    assert last.status_code == (200 if place == "client" else 307)


# Timeouts


@both_flavours
@both_libraries
@pytest.mark.parametrize("stream", [False, True], ids=["head", "part"])
async def test_follower_with_short_timeout_leaves_the_leader(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool, stream: bool
) -> None:
    gate = Gate(2 if stream else "head")
    provider.script = Script(gates=(gate,))
    body = {**CHAT, "stream": stream}
    errors = http_library(library)
    async with raw(cache, library, is_async=is_async, base_url=provider.url, timeout=60) as client:
        leader = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
        await provider.until(gate.held.is_set)
        with pytest.raises(errors.ReadTimeout):
            await client.post("/v1/chat/completions", json=body, timeout=errors.Timeout(60, connect=0.05, read=0.05))
        gate.release()
        answer = await leader
        assert answer.status_code == 200
        await settled(cache, answer.extensions["tiercache"].key, is_async=is_async)
        again = await client.post("/v1/chat/completions", json=body)
    assert again.content == answer.content
    assert again.extensions["tiercache"].hit
    assert provider.call_count == 1


@both_flavours
@both_libraries
async def test_timeout_of_a_call_counts_for_its_own_request(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    errors = http_library(library)
    gate = Gate("head")
    provider.script = Script(gates=(gate,))
    async with raw(cache, library, is_async=is_async, base_url=provider.url, timeout=60) as client:
        with pytest.raises(errors.ReadTimeout):
            await client.post("/v1/chat/completions", json=CHAT, timeout=0.05)
        await provider.until(lambda: provider.hung_up)
    async with raw(cache, library, is_async=is_async, base_url=provider.url, timeout=0.05) as client:
        with pytest.raises(errors.ReadTimeout):
            await client.post("/v1/chat/completions", json=CHAT)
        gate.release()
        assert (await client.post("/v1/chat/completions", json=CHAT, timeout=60)).status_code == 200
    assert provider.call_count == 3


@both_flavours
async def test_redirect_to_a_slow_answer_has_the_read_timeout_for_each_request(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    # The whole takes longer than the sum of the timeouts of one request.
    moved = Script(status=307, delay_head=0.4, headers=(("location", "/elsewhere/v1/chat/completions"),))
    provider.choose = lambda served: Script(delay_head=0.4) if served.path.startswith("/elsewhere") else moved
    options = {"base_url": provider.url, "follow_redirects": True, "timeout": raw_timeout(connect=0.1, read=0.6)}
    async with raw(cache, "httpx", is_async=is_async, **options) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


def raw_timeout(**seconds: float) -> Any:
    """Return timeouts of httpx."""
    return http_library("httpx").Timeout(60, **seconds)


# Requests that pass by the cache


@both_flavours
@both_libraries
async def test_request_of_no_model_api_passes_untouched(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    async with raw(cache, library, is_async=is_async, base_url=provider.url) as client:
        with cache.watch() as seen:
            for _ in range(2):
                models = await client.run(lambda c: c.get("/v1/models", headers={"x-tiercache": "no such option"}))
                assert models.json()["data"]
                assert not [name for name in models.headers if name.startswith("x-tiercache")]
                assert "tiercache" not in models.extensions
            head = await client.run(lambda c: c.head("/v1/chat/completions"))
            unknown = await client.post("/v1/moderations", json={"input": "a"})
            got = await client.run(lambda c: c.get("/v1/chat/completions"))
    assert (head.status_code, head.content, unknown.status_code, got.status_code) == (404, b"", 404, 404)
    assert len(provider.requests) == 5
    assert seen == []
    assert all("x-tiercache" not in request.headers for request in provider.requests)


@both_flavours
async def test_models_and_token_counts_of_sdks_pass(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    async with wrapped(cache, provider, "chat", is_async=is_async) as client:
        for _ in range(2):
            assert (await client.run(lambda c: c.models.list())).data[0].id == "gpt-4o"
    ask = {"model": "claude-sonnet-5-5", "messages": CHAT["messages"]}
    async with wrapped(cache, provider, "messages", is_async=is_async) as client:
        for _ in range(2):
            assert (await client.run(lambda c: c.messages.count_tokens(**ask))).input_tokens
    assert len(provider.requests) == 4


@both_flavours
@both_libraries
async def test_upload_is_not_read_into_memory(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    """A file goes to the provider in chunks: the transport must not read the body of a request that it passes on."""
    read: list[int] = []

    class File:
        """Has a gigabyte, and would be read whole by ``read()``."""

        left = 300_000

        def read(self, size: int = -1) -> bytes:
            read.append(size)
            count = self.left if size < 0 else min(size, self.left)
            self.left -= count
            return b"x" * count

        def seek(self, *_: int) -> int:
            return 0

    async with raw(cache, library, is_async=is_async, base_url=provider.url) as client:
        files = {"file": ("a.jsonl", File())}
        answer = await client.post("/v1/files", files=files, headers={"x-tiercache": "refresh"})
    assert answer.status_code == 404
    assert len(provider.requests[0].body) > 300_000
    assert read
    assert all(0 < size <= 300_000 for size in read)


@both_flavours
@both_libraries
async def test_body_of_an_iterator_is_read_for_a_model_api_alone(
    cache: AgentCache, provider: ProviderServer, library: str, is_async: bool
) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"model":"gpt-4o",'
        yield b'"messages":[{"role":"user","content":"Hello"}]}'

    async def later_parts() -> AsyncIterator[bytes]:
        for part in parts():
            yield part

    body = later_parts if is_async else parts
    async with raw(cache, library, is_async=is_async, base_url=provider.url) as client:
        answers = [await client.post("/v1/chat/completions", content=body()) for _ in range(2)]
        answers.append(await client.post("/v1/chat/completions", json=CHAT))
        await client.post("/v1/files", content=body(), headers={"x-tiercache": "refresh"})
    assert answers[0].status_code == 200
    assert answers[0].content == answers[1].content == answers[2].content
    assert [request.path for request in provider.requests] == ["/v1/chat/completions", "/v1/files"]
    assert all(request.params == CHAT for request in provider.requests)


# Several clients


@both_flavours
async def test_wrapped_client_can_be_wrapped(cache: AgentCache, provider: ProviderServer, is_async: bool) -> None:
    once = cache.wrap(openai_client(provider, is_async=is_async), tags=("inner",))
    async with Client(cache.wrap(once, tags=("outer",)), is_async=is_async) as client:
        for stream in (False, True):
            first = [await client.items(chat, stream) for _ in range(2)]
            assert first[0] == first[1]
        assert provider.call_count == 2
        await cache.invalidate_tag("outer")
        await client.items(chat, False)
    assert provider.call_count == 3


@both_flavours
async def test_client_wrapped_by_two_caches_asks_both(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    near, far = make_cache(name="near"), make_cache(name="far")
    async with Client(near.wrap(far.wrap(openai_client(provider, is_async=is_async))), is_async=is_async) as client:
        for stream in (False, True):
            first = await client.items(chat, stream)
            await near.llm.clear()
            with near.watch() as nearer, far.watch() as farther:
                assert await client.items(chat, stream) == first
                assert await client.items(chat, stream) == first
            assert [outcome.source for outcome in nearer] == ["loader", "l1"]
            assert [outcome.source for outcome in farther] == ["l1"]
    assert provider.call_count == 2


@both_flavours
async def test_caches_of_two_names_share_no_exchange(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    for name in ("a", "b"):
        cache = make_cache(name=name)
        async with wrapped(cache, provider, "chat", is_async=is_async) as client:
            for _ in range(2):
                await client.items(chat, False)
    assert provider.call_count == 2


@both_flavours
async def test_clients_of_both_libraries_share_a_flight_and_its_end(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    libraries = [http_library(name) for name in ("httpx", "httpx2")]
    for script, stream in [
        (Script(gates=(Gate("head"),)), False),
        (Script(gates=(Gate(2),)), True),
        (Script(gates=(Gate("head"),), dies_after=0), False),
        (Script(gates=(Gate(2),), dies_after=3), True),
    ]:
        await cache.llm.clear()
        provider.script = script
        provider.forget()
        gate = script.gates[0]
        body = {**CHAT, "stream": stream}
        clients = [raw(cache, library.__name__, is_async=is_async, base_url=provider.url) for library in libraries]
        calls = []
        for client in clients:
            calls.append(asyncio.ensure_future(client.post("/v1/chat/completions", json=body)))
            await provider.until(gate.held.is_set)
        await asyncio.sleep(0.05)
        gate.release()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        for library, end, client in zip(libraries, ends, clients, strict=True):
            if script.dies_after is None:
                assert isinstance(end, library.Response)
                assert end.content == ends[0].content
            else:
                assert isinstance(end, library.TransportError)
                assert not isinstance(end, library.TimeoutException)
            await client.close()
        assert provider.call_count == 1


async def test_asynchronous_client_in_another_loop_is_refused_with_the_reason(
    cache: AgentCache, provider: ProviderServer
) -> None:
    client = wrapped(cache, provider, "chat", is_async=True)
    await client.items(chat, False)

    async def call() -> None:
        openai = pytest.importorskip("openai", reason="openai is not installed")
        other = wrapped(cache, provider, "chat", is_async=True)
        with pytest.raises(openai.BadRequestError, match="event loop"):
            await other.items(chat, False, temperature=0.5)
        # L1 belongs to the other loop, too.
        with pytest.raises(openai.BadRequestError, match="event loop"):
            await other.items(chat, False)
        await other.close()

    run_in_thread(lambda: asyncio.run(call()))
    await client.close()
    assert provider.call_count == 1
