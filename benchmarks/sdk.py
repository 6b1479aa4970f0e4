"""OpenAI's SDK as the works of wrapped clients use it: clients, calls, and what they return."""

from collections.abc import AsyncIterator
from typing import Any

from benchmarks.provider import EVENTS, answer

_MODEL = "gpt-4o"
_SYSTEM = "You are the assistant of a shop, and answer in one paragraph."
_PATIENCE = 60.0


def question(number: int, *, stream: bool = False) -> dict[str, Any]:
    """Return the arguments of a call, a new object each time. Different numbers are different questions."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": f"Where is my order {number}?"}]
    return {"model": _MODEL, "messages": messages, **({"stream": True} if stream else {})}


def mock_client(*, plain: bool) -> Any:
    """Return a client whose answers are ready bytes: no call leaves the process, so that the SDK's own cost is left."""
    import httpx2
    import openai

    def respond(request: Any) -> Any:
        kind, body = answer(stream=b'"stream":true' in request.content)
        return httpx2.Response(200, headers={"content-type": kind}, content=body)

    transport = httpx2.MockTransport(respond)
    if plain:
        return openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=transport))
    return openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))


def client_of(url: str) -> Any:
    """Return an asynchronous client of the provider at ``url``."""
    import httpx2
    import openai

    http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=_PATIENCE)
    return openai.AsyncOpenAI(api_key="none", base_url=url, http_client=http, max_retries=0)


async def parts_of(client: Any, number: int) -> AsyncIterator[str]:
    """Yield the parts of a streamed answer as they arrive."""
    async for event in await client.chat.completions.create(**question(number, stream=True)):
        yield event.choices[0].delta.content or ""


async def text_of(client: Any, number: int, *, stream: bool) -> str:
    """Return the text of an answer."""
    if stream:
        return "".join([part async for part in parts_of(client, number)])
    completion = await client.chat.completions.create(**question(number))
    return completion.choices[0].message.content or ""


def plain_text_of(client: Any, number: int, *, stream: bool) -> str:
    """Return the text of an answer that a plain client gets."""
    found = client.chat.completions.create(**question(number, stream=stream))
    if stream:
        return "".join(event.choices[0].delta.content or "" for event in found)
    return found.choices[0].message.content or ""


async def source_of(client: Any, number: int, *, stream: bool) -> str:
    """Make a call, and return the place that its answer came from, or an empty text without a cache."""
    raw = await client.chat.completions.with_raw_response.create(**question(number, stream=stream))
    if stream:
        async for _ in raw.parse():
            pass
    return raw.headers.get("x-tiercache-source", "")


def plain_source_of(client: Any, number: int, *, stream: bool) -> str:
    """Do as ``source_of``, with a plain client."""
    raw = client.chat.completions.with_raw_response.create(**question(number, stream=stream))
    if stream:
        for _ in raw.parse():
            pass
    return raw.headers.get("x-tiercache-source", "")


TEXT = "".join(EVENTS)
"""The text of every answer."""
