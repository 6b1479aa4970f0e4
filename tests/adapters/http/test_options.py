"""The options of the llm tier and of the cache, for calls of wrapped clients."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import pytest
import valkey

from tests.adapters.http.wrapped import CHAT, FLAVOURS, Caller, http_library, on_face, wrapped
from tests.providers import Gate, ProviderServer, Script
from tests.providers.sdks import chat
from tests.support import MakeCache, entry_keys, until
from tiercache import (
    NO_EXPIRY,
    AgentCache,
    LlmOptions,
    LlmResponse,
    ResilienceOptions,
    TierOptions,
)
from tiercache.testing import FakeClock

both_forms: Final = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(params=FLAVOURS.values(), ids=FLAVOURS.keys())
def is_async(request: pytest.FixtureRequest) -> Any:
    """Return the flavour of the client."""
    return request.param


async def lifetime(cache: AgentCache, caller: Caller, plain: valkey.Valkey) -> float:
    """Return the seconds for which Valkey keeps a new answer."""
    await caller.ask("refresh")
    await cache.flush_writes()
    (key,) = entry_keys(plain)
    return float(plain.ttl(key))


@both_forms
async def test_tier_without_l1_answers_wrapped_calls_from_valkey(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    cache = make_cache(name="test", llm=LlmOptions(l1=False))
    async with Caller(cache, provider, is_async=is_async) as caller:
        first = await caller.ask(stream=stream)
        await cache.flush_writes()
        again = [await caller.ask(stream=stream) for _ in range(2)]
    assert [response.extensions["tiercache"].source for response in again] == ["l2", "l2"]
    assert all(response.content == first.content for response in again)
    assert cache.local_stats().l1_entry_count == 0


async def test_copy_of_an_exchange_ends_with_l1_ttl(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", llm=LlmOptions(l1_ttl=5), clock=clock.clock)
    async with Caller(cache, provider, is_async=is_async) as caller:
        await caller.ask()
        await cache.flush_writes()
        assert await caller.source() == "l1"
        clock.advance(6)
        assert await caller.source() == "l2"


async def test_lifetime_of_an_exchange_is_that_of_the_tier(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, plain: valkey.Valkey
) -> None:
    for options, expected in [
        (LlmOptions(ttl="1h"), range(3500, 3601)),
        (TierOptions(ttl=600, jitter=0.5), range(299, 601)),
        (LlmOptions(ttl=NO_EXPIRY), range(-1, 0)),
        (LlmOptions(), range(70, 91)),
    ]:
        cache = make_cache(name="test", llm=options, default_ttl=90)
        async with Caller(cache, provider, is_async=is_async) as caller:
            assert int(await lifetime(cache, caller, plain)) in expected


@both_forms
async def test_tier_without_lease_asks_the_provider_once_in_each_process(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    gate = Gate("head")
    provider.script = Script(gates=(gate,))
    caches = [make_cache(name="test", llm=LlmOptions(lease=False)) for _ in range(2)]
    callers = [Caller(cache, provider, is_async=is_async) for cache in caches]
    calls = [asyncio.ensure_future(caller.source(stream=stream)) for caller in callers for _ in range(5)]
    await provider.until(lambda: provider.call_count == 2)
    gate.release()
    sources = await asyncio.gather(*calls)
    assert sources.count("loader") == 2
    assert provider.call_count == 2
    await caches[0].flush_writes()
    # The store of each process has removed the copy of the other.
    assert {await caller.source(stream=stream) for caller in callers} <= {"l1", "l2"}
    for caller in callers:
        await caller.client.close()


@pytest.mark.parametrize(
    ("options", "stream", "goes_on"),
    [
        (LlmOptions(), False, True),
        (LlmOptions(), True, False),
        (LlmOptions(on_abandon="finish"), True, True),
        (TierOptions(on_abandon="finish"), True, True),
        (LlmOptions(on_abandon="cancel"), False, False),
        (LlmOptions(on_abandon="cancel"), True, False),
    ],
    ids=lambda value: getattr(value, "on_abandon", value),
)
async def test_on_abandon_decides_about_a_call_that_its_caller_has_left(
    make_cache: MakeCache, provider: ProviderServer, options: Any, stream: bool, goes_on: bool
) -> None:
    gate = Gate(2 if stream else "head")
    provider.enqueue(Script(gates=(gate,)))
    cache = make_cache(name="test", llm=options)
    async with Caller(cache, provider, is_async=True) as caller:
        call = asyncio.ensure_future(caller.ask(stream=stream))
        await provider.until(gate.held.is_set)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        if goes_on:
            await asyncio.sleep(0.1)
            gate.release()
            await until(lambda: cache.local_stats().l1_entry_count == 1)
            assert await caller.source(stream=stream) == "l1"
        else:
            await provider.until(lambda: provider.hung_up)
            gate.release()
            assert await caller.source(stream=stream) == "loader"
    assert provider.call_count == (1 if goes_on else 2)


@both_forms
async def test_store_when_of_the_tier_counts_for_wrapped_calls(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    seen: list[LlmResponse] = []

    def store_when(answer: LlmResponse) -> bool:
        seen.append(answer)
        return "Answer 1" not in (answer.response or "")

    cache = make_cache(name="test", llm=LlmOptions(store_when=store_when))
    async with Caller(cache, provider, is_async=is_async) as caller:
        assert [await caller.source(stream=stream) for _ in range(3)] == ["loader", "loader", "l1"]
    assert [type(answer) for answer in seen] == [LlmResponse] * 2
    assert seen[0].response == "Answer 1: part 1 part 2 part 3 part 4"
    async with Caller(cache, provider, is_async=is_async, store_when=lambda answer: False) as caller:
        assert [await caller.source(stream=stream, seed=1) for _ in range(2)] == ["loader", "loader"]


@both_forms
async def test_answer_above_max_value_bytes_reaches_its_callers_and_is_not_stored(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", llm=LlmOptions(max_value_bytes=10_000))
    gate = Gate("head")
    provider.script = Script.of_size(100_000, part_bytes=1_000, gates=(gate,))
    async with Caller(cache, provider, is_async=is_async) as caller:
        calls = [asyncio.ensure_future(caller.ask(stream=stream)) for _ in range(3)]
        await provider.until(gate.held.is_set)
        await asyncio.sleep(0.05)
        gate.release()
        bodies = [response.content for response in await asyncio.gather(*calls)]
        assert all(len(body) > 100_000 for body in bodies)
        assert len(set(bodies)) == 1
        assert await caller.source(stream=stream) == "loader"
    assert cache.local_stats().tiers["llm"].too_large == 2
    assert provider.call_count == 2
    assert entry_keys(plain) == []


@pytest.mark.parametrize("above", [None, 100, 10_000_000])
@both_forms
async def test_exchange_above_compress_above_is_compressed(
    make_cache: MakeCache,
    provider: ProviderServer,
    is_async: bool,
    stream: bool,
    above: int | None,
    plain: valkey.Valkey,
) -> None:
    pytest.importorskip("backports.zstd", reason="zstd is not installed")
    provider.script = Script(part_count=200)
    cache = make_cache(name="test", llm=LlmOptions(compress_above=above))
    async with Caller(cache, provider, is_async=is_async) as caller:
        first = await caller.ask(stream=stream)
        await cache.flush_writes()
        (key,) = entry_keys(plain)
        stored = plain.get(key)
        assert isinstance(stored, bytes)
        assert (b'"zstd"' in stored) is (above != 10_000_000)
        cache.clear_l1()
        again = await caller.ask(stream=stream)
    assert again.extensions["tiercache"].source == "l2"
    assert again.content == first.content


async def test_ignore_and_key_are_for_params_and_not_for_wrapped_calls(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    asked: list[Any] = []

    def key(params: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(params)
        return {"model": "gpt-4o", "messages": []}

    cache = make_cache(name="test", llm=LlmOptions(ignore=("seed",), key=key))
    async with Caller(cache, provider, is_async=is_async) as caller:
        for seed in (1, 2, 1, 2):
            await caller.ask(seed=seed)
        assert asked == []
        assert provider.call_count == 2
        # A group of one model has the answers of both requests, also where params of several models share a key.
        assert await cache.llm.invalidate_by_model("gpt-4o") == 2
        assert await caller.source(seed=1) == "loader"


async def test_call_has_the_entry_of_its_own_request_beside_the_entries_of_params(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    await cache.llm.store(CHAT, "by hand")
    async with Caller(cache, provider, is_async=is_async) as caller:
        assert await caller.source() == "loader"
        key = (await caller.ask()).extensions["tiercache"].key
    assert (await cache.llm.check(CHAT)).response == "by hand"
    assert key != cache.llm.key(CHAT).key


@both_forms
async def test_load_timeout_ends_a_call_with_the_timeout_of_the_library(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    provider.enqueue(*[Script(gates=(Gate(2 if stream else 0),))] * 2)
    cache = make_cache(name="test", resilience=ResilienceOptions(load_timeout=0.1))
    async with Caller(cache, provider, is_async=is_async) as caller:
        with pytest.raises(http_library("httpx2").ReadTimeout):
            await caller.ask(stream=stream)
        await provider.until(lambda: provider.hung_up)
    openai = pytest.importorskip("openai", reason="openai is not installed")
    async with wrapped(cache, provider, "chat", is_async=is_async) as client:
        client.client.max_retries = 0
        with pytest.raises((openai.APITimeoutError, http_library("httpx2").ReadTimeout)):
            await client.items(chat, stream, seed=1)
    assert provider.call_count == 2


async def test_max_loads_bounds_the_requests_of_wrapped_calls(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    gate = Gate("head")
    provider.script = Script(gates=(gate,))
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=2))
    async with Caller(cache, provider, is_async=is_async) as caller:
        calls = [asyncio.ensure_future(caller.source(stream=True, seed=seed)) for seed in range(5)]
        await provider.until(lambda: provider.call_count == 2)
        await asyncio.sleep(0.1)
        assert provider.call_count == 2
        gate.release()
        assert await asyncio.gather(*calls) == ["loader"] * 5


@both_forms
async def test_cache_of_process_memory_answers_wrapped_calls(
    provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    # Such a cache serves the clients of one flavour: each of its faces has a memory of its own.
    cache = AgentCache.in_memory()
    async with Caller(cache, provider, is_async=is_async) as caller:
        first = await caller.ask(stream=stream)
        again = await caller.ask(stream=stream)
        assert again.extensions["tiercache"].source == "l1"
        assert again.content == first.content
        assert await on_face(cache, lambda face: face.llm.invalidate_by_model("gpt-4o"), is_async=is_async) == 1
        assert await caller.source(stream=stream) == "loader"
    async with Caller(cache, provider, is_async=not is_async) as other:
        response = await other.ask()
    assert response.status_code == 400
    assert "memory" in response.json()["error"]["message"]
    await cache.aclose()


async def test_scope_of_tier_keeps_the_answers_of_wrapped_calls_apart(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    tenant = ["alice"]
    cache = make_cache(name="test", llm=LlmOptions(scope=lambda: tenant[0]))
    async with Caller(cache, provider, is_async=is_async) as caller:
        assert await caller.source() == "loader"
        tenant[0] = "bob"
        assert await caller.source() == "loader"
        assert await caller.source() == "l1"
        with cache.calls(scope="alice"):
            assert await caller.source() == "l1"
        tenant[0] = ""
        assert (await caller.ask()).status_code == 400
    async with Caller(cache, provider, is_async=is_async, scope="alice") as caller:
        assert await caller.source() == "l1"
    assert provider.call_count == 2
