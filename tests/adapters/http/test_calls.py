"""Calls of wrapped clients: their options, modes, scopes and tags, and the answers of the cache itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
import valkey

from tests.adapters.http.wrapped import (
    CALLS,
    FLAVOURS,
    Caller,
    Client,
    anthropic_or_openai,
    on_face,
    wrapped,
)
from tests.providers import Gate, ProviderServer, Script
from tests.providers.sdks import chat, openai_client
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, UsageError
from tiercache.embedded import EmbeddedValkey


@pytest.fixture(params=FLAVOURS.values(), ids=FLAVOURS.keys())
def is_async(request: pytest.FixtureRequest) -> Any:
    """Return the flavour of the client."""
    return request.param


@pytest.fixture
async def caller(cache: AgentCache, provider: ProviderServer, is_async: bool) -> AsyncIterator[Caller]:
    """Return a wrapped HTTP client."""
    async with Caller(cache, provider, is_async=is_async) as caller:
        yield caller


# Options and their precedence


async def test_mode_refresh_replaces_the_exchange(cache: AgentCache, provider: ProviderServer, caller: Caller) -> None:
    first = await caller.ask()
    newer = await caller.ask("refresh")
    assert newer.json() != first.json()
    assert newer.extensions["tiercache"].source == "loader"
    assert (await caller.ask()).content == newer.content
    cache.clear_l1()
    await cache.flush_writes()
    assert (await caller.ask()).content == newer.content
    assert provider.call_count == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_modes_of_a_call(cache: AgentCache, provider: ProviderServer, caller: Caller, stream: bool) -> None:
    expected = [
        ("only_cached", "miss"),
        ("bypass", "bypass"),
        ("use", "loader"),
        ("use", "l1"),
        ("only_cached", "l1"),
        ("bypass", "bypass"),
        ("refresh", "loader"),
        ("store_only", "loader"),
        ("use", "l1"),
    ]
    for mode, source in expected:
        response = await caller.ask(mode, stream=stream)
        assert (mode, response.extensions["tiercache"].source) == (mode, source)
        assert response.status_code == (504 if source == "miss" else 200)
    # The last answer is that of "store_only".
    assert b"Answer 5:" in response.content
    assert provider.call_count == 5


async def test_mode_bypass_stores_nothing(provider: ProviderServer, caller: Caller, plain: valkey.Valkey) -> None:
    response = await caller.ask("bypass; tag=a")
    assert response.extensions["tiercache"].reason == "the mode is bypass"
    assert not [name for name in response.headers if name.startswith("x-tiercache")]
    assert entry_keys(plain) == []
    assert "x-tiercache" not in provider.calls[0].headers


@pytest.mark.parametrize("api", ["chat", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_only_cached_is_not_repeated_by_an_sdk(
    cache: AgentCache, provider: ProviderServer, api: str, stream: bool, is_async: bool
) -> None:
    async with wrapped(cache, provider, api, is_async=is_async, mode="only_cached") as client:
        with cache.watch() as seen, pytest.raises(anthropic_or_openai(api).APIStatusError) as raised:
            await client.items(CALLS[api], stream)
        status, retry = raised.value.status_code, raised.value.response.headers["x-should-retry"]
        del raised
    assert (status, retry) == (504, "false")
    assert [outcome.source for outcome in seen] == ["miss"]
    assert seen[0].key is not None
    assert len(provider.requests) == 0


async def test_option_of_the_header_wins_over_calls_over_wrap(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    caller = Caller(cache, provider, is_async=is_async, mode="only_cached")
    assert await caller.source() == "miss"
    with cache.calls(mode="use"):
        assert await caller.source() == "loader"
        with cache.calls(mode="bypass"):
            assert await caller.source() == "bypass"
            assert await caller.source("only_cached") == "l1"
            with cache.calls(ttl=5):
                assert await caller.source() == "bypass"
        assert await caller.source() == "l1"
        assert await caller.source("refresh") == "loader"
    assert await caller.source(seed=1) == "miss"
    await caller.client.close()


async def test_ttl_of_header_calls_wrap_and_tier(
    make_cache: MakeCache, provider: ProviderServer, plain: valkey.Valkey, is_async: bool
) -> None:
    cache = make_cache(name="test", default_ttl="1h")
    plain_caller = Caller(cache, provider, is_async=is_async)
    caller = Caller(cache, provider, is_async=is_async, ttl=500)

    async def lifetime(by: Caller, header: str | None = None, seed: int = 0) -> int:
        await by.ask(header, seed=seed)
        await cache.flush_writes()
        (key,) = entry_keys(plain)
        seconds = plain.ttl(key)
        await cache.llm.clear()
        return seconds

    async def about(seconds: int, by: Caller, header: str | None = None) -> None:
        assert seconds - 30 < await lifetime(by, header) <= seconds

    await about(3600, plain_caller)
    await about(500, caller)
    with cache.calls(ttl="20m"):
        await about(1200, caller)
        await about(120, caller, "ttl=2m")
        await about(77, caller, " ttl = 77.0 ; use")
    await caller.client.close()
    await plain_caller.client.close()


async def test_tags_of_all_places_add_up(cache: AgentCache, provider: ProviderServer, is_async: bool) -> None:
    caller = Caller(cache, provider, is_async=is_async, tags=("w",))
    for number, tag in enumerate(["w", "outer", "inner", "h1", "h2"]):
        with cache.calls(tags=("outer",)), cache.calls(tags=["inner", "w"]):
            assert await caller.source("tag=h1; tag=h2") == "loader"
            assert await caller.source("tag=h1; tag=h2") == "l1"
        assert await cache.invalidate_tag("absent") == 0
        assert await cache.invalidate_tag(tag) >= 1
        assert provider.call_count == number + 1
    await caller.client.close()


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("often", "unknown option: 'often' (the options are bypass, only_cached, refresh, store_only, use, stateful,"),
        ("", "unknown option: ''"),
        ("refresh;", "unknown option: ''"),
        ("colour=red", "unknown option: 'colour'"),
        ("mode=refresh", "unknown option: 'mode' (the options are bypass, only_cached, refresh"),
        ("refresh; bypass", "the option mode twice"),
        ("refresh; refresh", "the option mode twice"),
        ("stateful; ttl=60; ttl=70", "the option ttl twice"),
        ("scope=a; scope=a", "the option scope twice"),
        ("tag", "unknown option: 'tag'"),
        ("stateful=1", "unknown option: 'stateful'"),
        ("ttl=soon", "ttl"),
        ("ttl=", "ttl"),
        ("ttl=-1", "ttl"),
        ("ttl=nan", "ttl"),
        ("ttl=0", "ttl"),
        ("tag=", "tag"),
        ("scope=", "scope"),
        ("Refresh", "unknown option: 'Refresh'"),
    ],
)
async def test_wrong_header_is_refused(
    cache: AgentCache, provider: ProviderServer, caller: Caller, header: str, text: str
) -> None:
    with cache.watch() as seen:
        response = await caller.ask(header)
    assert (response.status_code, response.headers["x-should-retry"]) == (400, "false")
    error = response.json()["error"]
    assert text in error["message"]
    assert error["type"] == "usage_error"
    assert response.extensions["tiercache"] is seen[0]
    assert [(outcome.source, outcome.key, outcome.hit) for outcome in seen] == [("refused", None, False)]
    assert seen[0].reason in error["message"]
    assert len(provider.requests) == 0


@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_wrong_header_is_refused_once_by_an_sdk(
    cache: AgentCache, provider: ProviderServer, api: str, is_async: bool
) -> None:
    async with wrapped(cache, provider, api, is_async=is_async) as client:
        error = anthropic_or_openai(api).BadRequestError
        with cache.watch() as seen, pytest.raises(error, match="unknown option: 'colour'"):
            await client.items(CALLS[api], False, extra_headers={"x-tiercache": "colour=red"})
    assert len(seen) == 1
    assert len(provider.requests) == 0


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_closed_cache_refuses_calls(
    make_cache: MakeCache, provider: ProviderServer, api: str, is_async: bool, stored: bool
) -> None:
    cache = make_cache(name="test")
    async with wrapped(cache, provider, api, is_async=is_async) as client:
        if stored:
            await client.items(CALLS[api], False)
        await cache.aclose()
        with cache.watch() as seen:
            for stream in (False, True):
                with pytest.raises(anthropic_or_openai(api).BadRequestError, match="closed"):
                    await client.items(CALLS[api], stream)
        assert [outcome.source for outcome in seen] == ["refused"] * 2
        # Requests that pass by the cache need no open cache.
        assert (await client.run(lambda c: c.models.list())).data
    assert provider.call_count == stored


@pytest.mark.parametrize("stream", [False, True])
async def test_call_that_opens_a_cache_with_a_wrong_password_is_refused_once(
    server: EmbeddedValkey, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    url = f"unix://nobody@{server.url.removeprefix('unix://')}?password=wrong"
    cache = AgentCache.from_url(url, name="test")
    try:
        async with wrapped(cache, provider, "chat", is_async=is_async) as client:
            with cache.watch() as seen, pytest.raises(anthropic_or_openai("chat").BadRequestError, match="credentials"):
                await client.items(CALLS["chat"], stream)
    finally:
        await cache.aclose()
    assert [outcome.source for outcome in seen] == ["refused"]
    assert provider.call_count == 0


# Scopes


async def test_scope_keeps_the_answers_of_tenants_apart(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    callers = {
        None: Caller(cache, provider, is_async=is_async),
        "a": Caller(cache, provider, is_async=is_async, scope="a"),
        "b": Caller(cache, provider, is_async=is_async, scope="b"),
    }
    of_context = Caller(cache, provider, is_async=is_async, scope=tenant.get)
    answers = {scope: (await caller.ask()).content for scope, caller in callers.items()}
    assert len(set(answers.values())) == 3

    async def as_tenant(name: str) -> None:
        tenant.set(name)
        for _ in range(3):
            assert (await of_context.ask()).content == answers[name]

    await asyncio.gather(as_tenant("a"), as_tenant("b"))
    plain_caller = callers[None]
    with cache.calls(scope="a"):
        assert (await plain_caller.ask()).content == answers["a"]
        assert (await plain_caller.ask("scope=b")).content == answers["b"]
        assert (await callers["b"].ask()).content == answers["a"]
        with cache.calls(scope=lambda: "b"):
            assert (await plain_caller.ask()).content == answers["b"]
    assert (await plain_caller.ask()).content == answers[None]
    assert provider.call_count == 3
    for caller in (*callers.values(), of_context):
        await caller.client.close()


@pytest.mark.parametrize("returned", [None, "", 7, b"a", LookupError("no tenant")], ids=repr)
async def test_scope_function_without_a_name_is_refused(
    cache: AgentCache, provider: ProviderServer, is_async: bool, returned: Any
) -> None:
    def scope() -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    client = Client(cache.wrap(openai_client(provider, is_async=is_async), scope=scope), is_async=is_async)
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with cache.watch() as seen:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="scope"):
                await client.items(chat, stream)
    assert [outcome.source for outcome in seen] == ["refused"] * 2
    assert len(provider.requests) == 0
    await client.close()


# State at the provider


async def test_stateful_call_is_cached_on_demand(cache: AgentCache, provider: ProviderServer, is_async: bool) -> None:
    caller = Caller(cache, provider, is_async=is_async)
    stateful = Caller(cache, provider, is_async=is_async, stateful=True)
    response = await caller.ask(store=True)
    outcome = response.extensions["tiercache"]
    assert (outcome.source, outcome.reason, outcome.key) == ("bypass", "store", None)
    assert [await stateful.source(store=True) for _ in range(2)] == ["loader", "l1"]
    assert [await caller.source("stateful", store=True) for _ in range(2)] == ["l1", "l1"]
    with cache.calls(stateful=True):
        assert await caller.source(store=True) == "l1"
    with cache.calls(stateful=False):
        assert await stateful.source(store=True) == "bypass"
    assert await caller.source(store=True) == "bypass"
    assert provider.call_count == 4
    await caller.client.close()
    await stateful.client.close()


# store_when


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_store_when_decides_from_the_answer(
    cache: AgentCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    answers: list[Any] = []

    def store_when(answer: Any) -> bool:
        answers.append(answer)
        return answer.finish == ("length",)

    caller = Caller(cache, provider, is_async=is_async, store_when=store_when)
    more = {"stream_options": {"include_usage": True}} if stream else {}
    provider.enqueue(Script(), Script(finish="length"))
    assert [await caller.source(stream=stream, **more) for _ in range(3)] == ["loader", "loader", "l1"]
    assert [(answer.finish, answer.is_complete) for answer in answers] == [(("stop",), True), (("length",), False)]
    assert answers[0].text == "Answer 1: part 1 part 2 part 3 part 4"
    assert answers[0].model == "gpt-4o"
    assert answers[0].tokens["output"] == 5
    await caller.client.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal"])
async def test_answer_that_is_not_complete_is_not_stored(
    cache: AgentCache, provider: ProviderServer, caller: Caller, stream: bool, finish: str
) -> None:
    provider.enqueue(Script(finish=finish), Script(finish=finish))
    assert [await caller.source(stream=stream) for _ in range(4)] == ["loader", "loader", "loader", "l1"]


async def test_store_when_that_raises_stores_nothing_and_is_logged_once(
    cache: AgentCache, provider: ProviderServer, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def store_when(answer: Any) -> bool:
        raise RuntimeError("cannot decide")

    caller = Caller(cache, provider, is_async=is_async, store_when=store_when)
    for stream in (False, True):
        assert [await caller.source(stream=stream) for _ in range(2)] == ["loader", "loader"]
    lines = [record.getMessage() for record in caplog.records if "store_when" in record.getMessage()]
    assert len(lines) == 1
    assert "cannot decide" in lines[0]
    assert "test" in lines[0]
    await caller.client.close()


# Outcomes


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_outcome_is_in_headers_extensions_and_watch(cache: AgentCache, caller: Caller, stream: bool) -> None:
    with cache.watch() as seen:
        first = await caller.ask(stream=stream)
        again = await caller.ask(stream=stream)
        cache.clear_l1()
        await cache.flush_writes()
        last = await caller.ask(stream=stream)
    found = [response.extensions["tiercache"] for response in (first, again, last)]
    assert [one is other for one, other in zip(found, seen, strict=True)] == [True] * 3
    assert [outcome.source for outcome in found] == ["loader", "l1", "l2"]
    assert [outcome.hit for outcome in found] == [False, True, True]
    assert len({outcome.key for outcome in found}) == 1
    assert found[0].key.startswith("test:llm:")
    assert [response.headers["x-tiercache"] for response in (first, again, last)] == ["miss", "hit", "hit"]
    for response, outcome in zip((first, again, last), found, strict=True):
        assert response.headers["x-tiercache-source"] == outcome.source
        assert response.headers["x-tiercache-key"] == outcome.key
    assert "age" not in first.headers
    assert found[0].age is None
    for response, outcome in ((again, found[1]), (last, found[2])):
        assert 0 <= outcome.age < 60
        assert 0 <= int(response.headers["age"]) < 60
    assert [outcome.reason for outcome in found] == [None] * 3


async def test_follower_has_the_outcome_of_a_miss(cache: AgentCache, provider: ProviderServer, caller: Caller) -> None:
    gate = Gate("head")
    provider.script = Script(gates=(gate,), headers=(("x-tiercache", "hit"), ("x-tiercache-source", "l7")))
    calls = [asyncio.ensure_future(caller.ask()) for _ in range(3)]
    await provider.until(gate.held.is_set)
    gate.release()
    responses = await asyncio.gather(*calls)
    # The marks of a gateway between the cache and the provider are not those of this cache.
    assert {response.headers["x-tiercache"] for response in responses} == {"miss"}
    assert sorted(response.headers["x-tiercache-source"] for response in responses) == [
        "follower",
        "follower",
        "loader",
    ]
    leader = next(response for response in responses if response.headers["x-tiercache-source"] == "loader")
    for response in responses:
        assert response.content == leader.content
        assert ("set-cookie" in response.headers) is (response is leader)


async def test_watch_sees_the_calls_of_its_block_and_of_its_tasks(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    cache, other = make_cache(name="a"), make_cache(name="b")
    caller = Caller(cache, provider, is_async=is_async)
    elsewhere = Caller(other, provider, is_async=is_async)

    async def block(count: int) -> list[str]:
        with cache.watch() as seen:
            for _ in range(count):
                await caller.ask(seed=count)
                await elsewhere.ask(seed=count)
        return [outcome.source for outcome in seen]

    with cache.watch() as around:
        counts = await asyncio.gather(*(block(count) for count in (1, 2, 3)))
    assert counts == [["loader"], ["loader", "l1"], ["loader", "l1", "l1"]]
    assert sorted(outcome.source for outcome in around) == ["l1"] * 3 + ["loader"] * 3
    await caller.ask(seed=3)
    assert len(around) == 6
    await caller.client.close()
    await elsewhere.client.close()


async def test_calls_count_for_their_cache_task_and_block(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    cache, other = make_cache(name="a"), make_cache(name="b")
    caller = Caller(cache, provider, is_async=is_async)
    elsewhere = Caller(other, provider, is_async=is_async)
    entered = asyncio.Event()

    async def inside() -> None:
        with cache.calls(mode="only_cached"):
            entered.set()
            await asyncio.sleep(0)
            assert await caller.source(seed=1) == "miss"
            assert await elsewhere.source(seed=1) == "loader"
            (within_task,) = await asyncio.gather(caller.source(seed=2))
            assert within_task == "miss"

    async def outside() -> None:
        await entered.wait()
        assert await caller.source(seed=3) == "loader"

    await asyncio.gather(inside(), outside())
    assert await caller.source(seed=1) == "loader"
    await caller.client.close()
    await elsewhere.client.close()


def test_calls_refuse_a_wrong_option_when_they_are_made() -> None:
    cache = AgentCache.in_memory()
    for options in ({"mode": "often"}, {"ttl": "soon"}, {"tags": [1]}, {"scope": ""}, {"stateful": 1}):
        with pytest.raises(UsageError):
            cache.calls(**options)


# Invalidation


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("method", ["tag", "model", "key", "clear", "flush"])
async def test_exchange_is_invalidated(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool, method: str
) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    caller, far = (Caller(each, provider, is_async=is_async, tags=("t",)) for each in (cache, other))
    key = (await caller.ask(stream=stream)).extensions["tiercache"].key
    await cache.flush_writes()
    assert await far.source(stream=stream) == "l2"
    invalidate = {
        "tag": lambda: cache.invalidate_tag("t"),
        "model": lambda: cache.llm.invalidate_by_model("gpt-4o"),
        "key": lambda: cache.llm.invalidate(key),
        "clear": cache.llm.clear,
        "flush": cache.flush,
    }[method]
    assert await invalidate() == 1
    assert await caller.source(stream=stream) == "loader"
    await cache.flush_writes()
    # The announcement has reached the other cache by the time that it reads the newer answer.
    assert (await far.ask("refresh", stream=stream)).extensions["tiercache"].source == "loader"
    assert provider.call_count == 3
    await caller.client.close()
    await far.client.close()


@pytest.mark.parametrize("method", ["tag", "model", "key", "clear"])
async def test_stream_that_is_invalidated_reaches_its_readers_and_is_not_stored(
    cache: AgentCache, provider: ProviderServer, is_async: bool, method: str, plain: valkey.Valkey
) -> None:
    gate = Gate(3)
    provider.enqueue(Script(gates=(gate,)))
    caller = Caller(cache, provider, is_async=is_async, tags=("t",))
    with cache.watch() as seen:
        calls = [asyncio.ensure_future(caller.ask(stream=True)) for _ in range(2)]
        await provider.until(gate.held.is_set)
        await provider.until(lambda: len(seen) == 2)
        key = seen[0].key
        assert key is not None
        if method == "tag":
            await cache.invalidate_tag("t")
        elif method == "model":
            await cache.llm.invalidate_by_model("gpt-4o")
        elif method == "key":
            await cache.llm.invalidate(key)
        else:
            await cache.llm.clear()
        late = asyncio.ensure_future(caller.ask(stream=True))
        await provider.until(lambda: provider.call_count == 2)
        gate.release()
        bodies = [response.content for response in await asyncio.gather(*calls, late)]
    assert bodies[0] == bodies[1]
    assert b"Answer 1:" in bodies[0]
    # A call after the invalidation gets no older answer.
    assert b"Answer 2:" in bodies[2]
    assert b"[DONE]" in bodies[0]
    assert (await caller.ask(stream=True)).content == bodies[2]
    assert cache.local_stats().tiers["llm"].overtaken == 1
    assert provider.call_count == 2
    await caller.client.close()


async def test_tag_of_a_hit_holds(cache: AgentCache, provider: ProviderServer, caller: Caller) -> None:
    for stream, tag in ((False, "a"), (True, "b")):
        await caller.ask(stream=stream)
        assert await caller.source(f"tag={tag}", stream=stream) in ("l1", "l2")
        assert await cache.invalidate_tag(tag) == 1
        assert await caller.source(stream=stream) == "loader"


async def test_tag_of_a_follower_holds(cache: AgentCache, provider: ProviderServer, caller: Caller) -> None:
    for stream, tag in ((False, "a"), (True, "b")):
        gate = Gate(2 if stream else "head")
        provider.enqueue(Script(gates=(gate,)))
        leader = asyncio.ensure_future(caller.ask(stream=stream))
        await provider.until(gate.held.is_set)
        follower = asyncio.ensure_future(caller.ask(f"tag={tag}", stream=stream))
        await asyncio.sleep(0.1)
        gate.release()
        await asyncio.gather(leader, follower)
        assert follower.result().extensions["tiercache"].source in ("follower", "l1", "l2")
        assert await cache.invalidate_tag(tag) == 1
        assert await caller.source(stream=stream) == "loader"


# The text of a key


async def test_explain_takes_the_key_of_an_outcome(cache: AgentCache, caller: Caller, is_async: bool) -> None:
    outcome = (await caller.ask()).extensions["tiercache"]
    await cache.flush_writes()
    before = cache.local_stats().tiers["llm"]
    explained = await on_face(cache, lambda face: face.llm.explain(outcome.key), is_async=is_async)
    assert (explained.key, explained.source, explained.l1, explained.l2) == (outcome.key, "l1", "hit", "hit")
    cache.clear_l1()
    assert (await cache.llm.explain(outcome.key)).source == "l2"
    assert await cache.llm.invalidate(outcome.key) is True
    assert await cache.llm.invalidate(outcome.key) is False
    assert (await cache.llm.explain(outcome.key)).source is None
    assert cache.local_stats().tiers["llm"] == before


async def test_text_of_an_llm_key_names_the_entry_of_its_params(cache: AgentCache) -> None:
    params = {"model": "gpt-4o", "messages": []}
    key = await cache.llm.store(params, "Hi")
    assert (await cache.llm.explain(key)).source == "l1"
    async with cache.llm.invalidates(key):
        pass
    assert (await cache.llm.check(params)).hit is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpt-4o",
        "test:llm:",
        f"test:llm:{'a' * 63}",
        f"test:llm:{'a' * 65}",
        f"test:llm:{'A' * 64}",
        f"other:llm:{'a' * 64}",
        f"test:tool:{'a' * 64}",
        f"test:llm:{'a' * 64}\n",
        "a" * 64,
    ],
)
async def test_text_of_no_llm_key_is_refused(cache: AgentCache, text: str) -> None:
    for method in (cache.llm.explain, cache.llm.invalidate):
        with pytest.raises(UsageError, match="'test:llm:' and 64 hex digits"):
            await method(text)
    with pytest.raises(UsageError):
        cache.llm.invalidates(text)
    with pytest.raises(UsageError):
        await cache.llm.check(text)  # type: ignore[arg-type]
