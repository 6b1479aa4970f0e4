"""The clients of the SDKs, wrapped by a cache: how to make each client, and how to call it in either flavour."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import pytest

from tests.providers import ProviderServer
from tests.providers.sdks import anthropic_client, chat, embeddings, gemini, messages, openai_client, responses
from tests.support import collect_generators, until
from tiercache import AgentCache

__all__ = [
    "CALLS",
    "CHAT",
    "FLAVOURS",
    "Caller",
    "Client",
    "anthropic_or_openai",
    "both_flavours",
    "client_class",
    "dumped",
    "every_form",
    "http_library",
    "on_face",
    "raw_client",
    "settled",
    "wrapped",
]

Call: TypeAlias = Callable[..., Any]

CALLS: Final[Mapping[str, Call]] = {
    "chat": chat,
    "responses": responses,
    "embeddings": embeddings,
    "messages": messages,
    "gemini": gemini,
}
FORMS: Final = [(name, stream) for name in CALLS for stream in (False, True) if not (stream and name == "embeddings")]
FLAVOURS: Final = {"async": True, "plain": False}
# The body of the least chat.
CHAT: Final[Mapping[str, Any]] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}

every_form = pytest.mark.parametrize(
    ("api", "stream"), FORMS, ids=[f"{name}-{'stream' if stream else 'whole'}" for name, stream in FORMS]
)
both_flavours = pytest.mark.parametrize("is_async", FLAVOURS.values(), ids=FLAVOURS.keys())


class Client:
    """A client of an SDK or of an HTTP library. Plain clients are called in a thread of their own.

    Args:
        http: The HTTP client beneath, if ``client`` does not close it.

    Attributes:
        client: The client as it is.
    """

    def __init__(self, client: Any, *, is_async: bool, http: Any = None) -> None:
        self.client = client
        self._http = http
        self._is_async = is_async

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, call: Call) -> Any:
        """Return the result of ``call(client)``, awaited where the client is asynchronous."""
        if not self._is_async:
            return await asyncio.to_thread(call, self.client)
        called = call(self.client)
        return await called if inspect.isawaitable(called) else called

    async def post(self, url: str, **options: Any) -> Any:
        """Return the response of an HTTP client to a POST."""
        return await self.run(lambda client: client.post(url, **options))

    async def items(self, call: Call, stream: bool, **more: Any) -> list[Any]:
        """Return the objects of a call: the answer, or the items of its stream."""

        def in_thread(client: Any) -> list[Any]:
            called = call(client, stream, **more)
            return list(called) if isinstance(called, Iterator) else [called]

        if not self._is_async:
            return await asyncio.to_thread(in_thread, self.client)
        called = call(self.client, stream, **more)
        if inspect.isawaitable(called):
            called = await called
        return [item async for item in called] if isinstance(called, AsyncIterator) else [called]

    async def within(self, enter: Call, *methods: str) -> list[Any]:
        """Return the results of the methods of ``enter(client)``, a context; "items" are its items."""

        def in_thread() -> list[Any]:
            with enter(self.client) as entered:
                return [list(entered) if name == "items" else getattr(entered, name)() for name in methods]

        if not self._is_async:
            return await asyncio.to_thread(in_thread)
        results: list[Any] = []
        async with enter(self.client) as entered:
            for name in methods:
                if name == "items":
                    results.append([item async for item in entered])
                    continue
                result = getattr(entered, name)()
                results.append(await result if inspect.isawaitable(result) else result)
        return results

    async def close(self) -> None:
        """Close the client."""
        for client in filter(None, (self.client, self._http)):
            closed = client.aclose() if hasattr(client, "aclose") else client.close()
            if inspect.isawaitable(closed):
                await closed
        await collect_generators()


def wrapped(cache: AgentCache, provider: ProviderServer, api: str, *, is_async: bool, **options: Any) -> Client:
    """Return a wrapped client of the SDK that calls ``api``.

    Args:
        options: The options of ``cache.wrap``.
    """
    if api == "gemini":
        return _gemini(cache, provider, is_async=is_async, **options)
    make = anthropic_client if api == "messages" else openai_client
    return Client(cache.wrap(make(provider, is_async=is_async), **options), is_async=is_async)


def _gemini(cache: AgentCache, provider: ProviderServer, *, is_async: bool, **options: Any) -> Client:
    genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
    http = cache.wrap(raw_client("httpx", is_async=is_async), **options)
    given = {"httpx_async_client" if is_async else "httpx_client": http}
    made = genai.types.HttpOptions(base_url=provider.url, api_version="v1beta", **given)
    client = genai.Client(api_key="k", http_options=made)
    return Client(client.aio if is_async else client, is_async=is_async, http=http)


class Caller:
    """A wrapped HTTP client that asks one question, and the sources of its answers."""

    def __init__(self, cache: AgentCache, provider: ProviderServer, *, is_async: bool, **options: Any) -> None:
        self._cache = cache
        self._is_async = is_async
        made = raw_client("httpx2", is_async=is_async, base_url=provider.url, timeout=60)
        self.client = Client(cache.wrap(made, **options), is_async=is_async)

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def ask(self, header: str | None = None, *, stream: bool = False, **more: Any) -> Any:
        """Return the response to the question, once its load has ended."""
        headers = {} if header is None else {"x-tiercache": header}
        body = {**CHAT, **more, "stream": stream} if stream else {**CHAT, **more}
        response = await self.client.post("/v1/chat/completions", json=body, headers=headers)
        await settled(self._cache, response.extensions["tiercache"].key, is_async=self._is_async)
        return response

    async def source(self, header: str | None = None, **more: Any) -> str:
        """Return the source of the answer to the question."""
        return (await self.ask(header, **more)).extensions["tiercache"].source


def raw_client(library: str, *, is_async: bool, **options: Any) -> Any:
    """Return a client of ``httpx`` or ``httpx2``."""
    return client_class(library, is_async=is_async)(**options)


def client_class(library: str, *, is_async: bool) -> Any:
    """Return the class of the clients of ``httpx`` or ``httpx2``."""
    module = http_library(library)
    return module.AsyncClient if is_async else module.Client


def http_library(name: str) -> Any:
    """Return ``httpx`` or ``httpx2``; skip the test if it is not installed."""
    return pytest.importorskip(name, reason=f"{name} is not installed")


def dumped(items: list[Any]) -> list[Any]:
    """Return the fields of SDK objects, and the ids of their requests, without the response that brought them."""
    return [
        (item.model_dump(exclude={"sdk_http_response"}), item.model_extra, getattr(item, "_request_id", None))
        for item in items
    ]


def anthropic_or_openai(api: str) -> Any:
    """Return the module of the SDK that calls ``api``; skip the test if it is not installed."""
    name = "anthropic" if api == "messages" else "openai"
    return pytest.importorskip(name, reason=f"{name} is not installed")


async def on_face(cache: AgentCache, call: Call, *, is_async: bool) -> Any:
    """Return the result of ``call`` with the face of ``cache`` that a client uses: the cache, or ``cache.sync``."""
    if not is_async:
        return await asyncio.to_thread(call, cache.sync)
    return await call(cache)


async def settled(cache: AgentCache, key: str | None, *, is_async: bool) -> None:
    """Return once no load of ``key`` runs: a reader has the end of an answer before the answer is stored."""

    async def is_over() -> bool:
        explained = await on_face(cache, lambda face: face.llm.explain(key), is_async=is_async)
        return not explained.is_loading

    if key is not None:
        await until(is_over, 20)
