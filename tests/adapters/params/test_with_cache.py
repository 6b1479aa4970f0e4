"""Prepared params in front of the SDKs: the second call makes no upstream call; entries are shared with betterdb."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
import valkey
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.adapters.params.contents import HI, call
from tests.adapters.params.corpus import APIS, prepare
from tests.providers import ProviderServer, Script, ToolCall
from tests.support import MakeCache
from tiercache import AgentCache, LlmResponse, ResilienceOptions
from tiercache.testing import ChaosProxy

REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "chat": {"model": "gpt-4o", "messages": [HI], "temperature": 0.5, "max_tokens": 50},
    "responses": {"model": "gpt-4o", "input": [HI], "instructions": "Be brief.", "max_output_tokens": 50},
    "messages": {"model": "claude-sonnet-5-5", "max_tokens": 50, "messages": [HI], "system": "Be brief."},
}
Ask = Callable[[dict[str, Any]], Awaitable[LlmResponse]]


@pytest.fixture
async def loaders(provider: ProviderServer) -> AsyncIterator[dict[str, Ask]]:
    """Return a loader for each API, which calls the provider with the original request."""
    openai = AsyncOpenAI(base_url=provider.openai_url, api_key="x")
    anthropic = AsyncAnthropic(base_url=provider.url, api_key="x")

    async def chat(request: dict[str, Any]) -> LlmResponse:
        answer = await openai.chat.completions.create(**request)
        message = answer.choices[0].message
        assert answer.usage is not None
        tokens = {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens}
        return LlmResponse(None, content_blocks=[message.model_dump(exclude_none=True)], tokens=tokens)

    async def responses(request: dict[str, Any]) -> LlmResponse:
        answer = await openai.responses.create(**request)
        return LlmResponse(answer.output_text, content_blocks=[each.model_dump() for each in answer.output])

    async def messages(request: dict[str, Any]) -> LlmResponse:
        answer = await anthropic.messages.create(**request)
        return LlmResponse(None, content_blocks=[each.model_dump() for each in answer.content])

    async with openai, anthropic:
        yield {"chat": chat, "responses": responses, "messages": messages}


@pytest.mark.parametrize("api", APIS)
async def test_prepared_params_make_one_upstream_call_for_two_equal_requests(
    api: str, make_cache: MakeCache, provider: ProviderServer, loaders: dict[str, Ask]
) -> None:
    found = []
    provider.enqueue(Script(tool_calls=(ToolCall(name="f", arguments={"a": 1}),)))
    for cache in (make_cache(), make_cache()):  # Two processes, as it were.
        for _ in range(2):
            request = REQUESTS[api]
            prepared = await prepare(api, request)
            found.append(
                await cache.llm.get_or_load(prepared, lambda request=request: loaders[api](request), mode=prepared.mode)
            )
    assert provider.call_count == 1
    assert [each.source for each in found] == ["loader", "l1", "l2", "l1"]
    assert all(each.content_blocks == found[0].content_blocks for each in found)
    assert all(each.tokens == found[0].tokens for each in found)
    other = await prepare(api, {**REQUESTS[api], "temperature": 0.75})
    await make_cache().llm.get_or_load(other, lambda: loaders[api](REQUESTS[api]))
    assert provider.call_count == 2


@pytest.mark.parametrize("api", APIS)
async def test_prepared_params_share_entries_with_betterdb(api: str, peer: Any, make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    theirs = await APIS[api][2](REQUESTS[api])
    await peer.llm.store(theirs, "from betterdb")
    result = await cache.llm.check(await prepare(api, REQUESTS[api]))
    assert (result.source, result.response) == ("l2", "from betterdb")
    await cache.llm.store(await prepare(api, {**REQUESTS[api], "temperature": 0.75}), "from us")
    assert (await peer.llm.check(await APIS[api][2]({**REQUESTS[api], "temperature": 0.75}))).response == "from us"


async def test_prepared_params_lose_no_paid_answer_while_valkey_is_away(proxy: ChaosProxy) -> None:
    resilience = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)
    async with AgentCache.from_url(proxy.url, name="test", resilience=resilience) as cache:
        await cache.llm.store(await prepare("chat", {"model": "m", "messages": [HI]}), "before")
        proxy.refuse()
        proxy.kill()
        request = {"model": "m", "messages": [HI, {"role": "assistant", "tool_calls": [call("{}")]}], "top_k": 5}
        result = await cache.llm.get_or_load(await prepare("chat", request), lambda: "paid")
        assert (result.source, result.response) == ("loader", "paid")


async def test_prepared_params_store_no_credential_and_no_request(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    headers = {"authorization": "secret", "openai-organization": "org"}
    request = {**REQUESTS["chat"], "extra_headers": headers, "extra_query": {"key": "secret"}, "top_k": 5}
    prepared = await prepare("chat", request)
    assert "secret" not in str(prepared)
    key = await cache.llm.store(prepared, "an answer")
    entry = plain.get(str(key))
    assert isinstance(entry, bytes)
    assert b"hi" not in entry
