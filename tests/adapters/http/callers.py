"""Wrapped clients against the provider server, and the check that nothing is left of their calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, Final, TypeAlias

import pytest
import valkey

from tests.providers import ProviderServer
from tests.seams import followed_recordings, internals
from tests.support import collect_generators, until
from tiercache import AgentCache
from tiercache.engine.coherence.placeholders import is_placeholder

MODEL: Final = "gpt-4o"


def library() -> Any:
    """Return ``httpx2`` or ``httpx``, whichever is installed."""
    for name in ("httpx2", "httpx"):
        try:
            return import_module(name)
        except ImportError:
            continue
    pytest.skip("neither httpx2 nor httpx is installed")


class Caller:
    """A wrapped HTTP client of one cache, which asks for chats.

    Attributes:
        cache: The cache.
        client: The wrapped client.
    """

    def __init__(self, cache: AgentCache, client: Any) -> None:
        self.cache = cache
        self.client = client

    def stream(self, ask: str = "hello", **options: Any) -> Any:
        """Return the context of one streamed call, which yields the response."""
        headers = {"x-tiercache": options.pop("control")} if "control" in options else {}
        return self.client.stream("POST", "chat/completions", json=self.body(ask, stream=True), headers=headers)

    async def text(self, ask: str = "hello", **options: Any) -> str:
        """Stream one call to its end, and return its text."""
        async with self.stream(ask, **options) as response:
            return await text_of(response)

    async def whole(self, ask: str = "hello") -> Any:
        """Return the response to a call that is not streamed."""
        return await self.client.post("chat/completions", json=self.body(ask))

    @staticmethod
    def body(ask: str, **more: Any) -> dict[str, Any]:
        """Return the body of a request."""
        return {"model": MODEL, "messages": [{"role": "user", "content": ask}], **more}


# The fixture ``new_caller``.
NewCaller: TypeAlias = Callable[..., Any]


@asynccontextmanager
async def callers_of(provider: ProviderServer) -> AsyncIterator[Callable[..., Caller]]:
    """Yield a function that returns a caller for a cache; their clients are closed at the end."""
    async with AsyncExitStack() as stack:

        def new(cache: AgentCache, **options: Any) -> Caller:
            plain = library().AsyncClient(
                base_url=provider.openai_url + "/", timeout=30, limits=library().Limits(max_connections=None)
            )
            client = cache.wrap(plain, **options)
            stack.push_async_callback(client.aclose)
            return Caller(cache, client)

        yield new


class Parts:
    """The text of a streamed response as it arrives, and the error that ended it."""

    def __init__(self, response: Any) -> None:
        self._lines = response.aiter_lines()
        self.texts: list[str] = []
        self.error: Exception | None = None
        self.is_done = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)

    async def next(self) -> str | None:
        """Return the text of the next part, or None at the end."""
        async for line in self._lines:
            if line == "data: [DONE]":
                self.is_done = True
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                text = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
                if text:
                    self.texts.append(text)
                    return text
        return None

    async def read(self, count: int | None = None) -> Parts:
        """Read ``count`` parts, or all of them."""
        while count != 0 and await self.next() is not None:
            count = None if count is None else count - 1
        return self

    async def read_to_error(self) -> Parts:
        """Read all parts; keep the error that ends them."""
        try:
            await self.read()
        except Exception as error:
            self.error = error
        return self


async def text_of(response: Any) -> str:
    """Return the text of a streamed response, which must be complete."""
    parts = await Parts(response).read()
    assert parts.is_done
    return parts.text


async def outcome(caller: Caller, ask: str = "hello") -> tuple[str, Exception | None]:
    """Stream one call; return the text that arrived, and the error that ended it."""
    async with caller.stream(ask) as response:
        parts = await Parts(response).read_to_error()
    return parts.text, parts.error


async def follower_of(caller: Caller, **options: Any) -> tuple[Any, Any, Parts]:
    """Start a streamed call; return its context, its response and its parts."""
    context = caller.stream(**options)
    response = await context.__aenter__()
    return context, response, Parts(response)


async def close(*contexts: Any) -> None:
    """End streamed calls."""
    for context in contexts:
        await context.__aexit__(None, None, None)
    await collect_generators()


def placeholders(plain: valkey.Valkey) -> list[bytes]:
    """Return the keys on the server that hold a placeholder."""
    keys = [key for key in plain.scan_iter(count=1000) if plain.type(key) == b"string"]
    return [key for key in keys if is_placeholder(plain.get(key) or b"")]


def live_streams(plain: valkey.Valkey) -> list[bytes]:
    """Return the keys of live streams on the server."""
    return list(plain.scan_iter("*:__tc:live:*", count=1000))


def exchanges(plain: valkey.Valkey) -> list[bytes]:
    """Return the keys on the server that hold an exchange."""
    held = set(placeholders(plain))
    return [key for key in plain.scan_iter("*:llm:*", count=1000) if key not in held]


async def nothing_is_left(provider: ProviderServer, plain: valkey.Valkey | None, *caches: AgentCache) -> None:
    """Fail if a load, flight, fence, lease, task, follower or stream at the provider is left."""
    for cache in caches:
        found = internals(cache)
        await until(lambda found=found: found.registered == (0, 0, 0), 20)
        await until(lambda found=found: found.held_lease_count == 0, 20)
        await until(lambda found=found: found.lease_waiter_count == 0, 20)
    # Their outcomes, too: a connection that the client has closed is an end that the server must still notice.
    await provider.until(lambda: not provider.open_requests)
    await until(
        lambda: not [task for task in asyncio.all_tasks() if task.get_name() in ("tiercache-load", "tiercache-live")]
    )
    if plain is not None:
        await until(lambda: not placeholders(plain))
    await until(lambda: not followed_recordings(), 10)


def followed_bytes() -> int:
    """Return the most bytes that a followed recording has."""
    return max((recording.kept_bytes for recording in followed_recordings()), default=0)
