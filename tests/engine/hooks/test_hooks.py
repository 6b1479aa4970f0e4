"""Hooks: which events each tier makes, for both faces, and what an event says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.adapters.http.wrapped import Caller
from tests.providers import ProviderServer
from tests.requests import HELLO, Loader, load_llm
from tests.support import MakeCache, Pair, until
from tiercache import (
    AgentCache,
    ErrorEvent,
    HitEvent,
    InvalidateEvent,
    L2UnavailableError,
    LlmResponse,
    LoadEvent,
    ResilienceOptions,
    StoreEvent,
    TierOptions,
    UsageError,
    WriteOptions,
)
from tiercache.testing import ChaosProxy, FakeClock


def recorded(cache: AgentCache) -> list[Any]:
    """Return a list that gets every event of ``cache``."""
    events: list[Any] = []
    for register in (cache.on_hit, cache.on_load, cache.on_store, cache.on_invalidate, cache.on_error):
        register(events.append)
    return events


def summary(events: list[Any]) -> list[tuple[str, ...]]:
    """Return the kind of each event, and the tier or the operation; remove the events from the list."""
    found = [(type(event).__name__.removesuffix("Event"), *_subject(event)) for event in events]
    events.clear()
    return found


def _subject(event: Any) -> tuple[str, ...]:
    match event:
        case HitEvent():
            return event.tier, event.source
        case InvalidateEvent():
            return event.kind, event.origin
        case ErrorEvent():
            return (event.operation,)
        case _:
            return (event.tier,)


@pytest.fixture(params=["valkey", "memory"])
async def either(request: pytest.FixtureRequest, make_cache: MakeCache) -> AsyncIterator[AgentCache]:
    """Return a cache on the server, and one of process memory."""
    if request.param == "valkey":
        yield make_cache(name="test")
    else:
        async with AgentCache.in_memory(name="test") as cache:
            yield cache


async def test_hook_gets_each_event_of_the_llm_tier(either: AgentCache) -> None:
    events = recorded(either)
    answer = LlmResponse("hi", tokens={"input": 1000, "output": 1000})
    loaded = await either.llm.get_or_load(HELLO, Loader(answer))
    await either.flush_writes()
    load, store = sorted(events, key=lambda event: type(event).__name__)
    assert isinstance(load, LoadEvent)
    assert (load.tier, load.key, load.model, load.tool) == ("llm", loaded.key, "gpt-4o", None)
    assert (load.waiter_count, load.error) == (1, None)
    assert isinstance(store, StoreEvent)
    assert (store.tier, store.key, store.ttl, store.is_load) == ("llm", loaded.key, None, True)
    assert store.size_bytes
    events.clear()
    hit = await either.llm.check(HELLO)
    (event,) = events
    assert isinstance(event, HitEvent)
    assert (event.tier, event.key, event.source, event.model) == ("llm", hit.key, "l1", "gpt-4o")
    assert event.cost == hit.cost is not None
    assert event.age is not None
    events.clear()
    await either.llm.invalidate(HELLO)
    assert events == [InvalidateEvent("key", hit.key, 1)]
    assert not (await either.llm.check(HELLO)).hit
    assert len(events) == 1


async def test_hook_gets_each_event_of_the_tool_and_kv_tiers(either: AgentCache) -> None:
    events = recorded(either)
    await either.tool.store("weather", {"city": "Sofia"}, "sunny", ttl=60)
    (stored,) = events
    assert isinstance(stored, StoreEvent)
    assert (stored.tier, stored.tool, stored.ttl, stored.is_load) == ("tool", "weather", 60, False)
    events.clear()
    await either.tool.check("weather", {"city": "Sofia"})
    assert (events[0].tool, *summary(events)) == ("weather", ("Hit", "tool", "l1"))
    await either.tool.invalidate_by_tool("weather")
    assert events == [InvalidateEvent("tool", "weather", 1)]
    events.clear()
    await either.tier("notes").set_many({"a": 1, "b": 2})
    await either.tier("notes").get_many(["a", "b", "c"])
    await either.tier("notes").delete_many(["a", "c"])
    assert [event.count for event in events[-2:]] == [1, 0]
    assert summary(events) == [
        *[("Store", "notes")] * 2,
        *[("Hit", "notes", "l1")] * 2,
        *[("Invalidate", "key", "here")] * 2,
    ]
    await either.kv.set("a", 1, tags=["red"])
    await either.invalidate_tag("red")
    assert InvalidateEvent("tag", "red", 1) in events
    await either.kv.set("user:1", 1)
    await either.kv.delete_pattern("user:*")
    assert events[-1] == InvalidateEvent("matching", "test:__tc:kv:kv:user:*", 1)


async def test_hook_gets_each_event_of_the_session_tier(either: AgentCache) -> None:
    events = recorded(either)
    await either.session.set("t", "f", "text", ttl=60)
    assert events == [StoreEvent("session", "test:session:t:f", 4, 60)]
    await either.session.get("t", "f")
    await either.session.get("t", "absent")
    await either.session.append("t", "list", 1)
    await either.session.get_or_load("t", "loaded", lambda: "x")
    await either.session.delete("t", "f")
    await either.session.destroy_thread("t")
    assert summary(events) == [
        ("Store", "session"),
        ("Hit", "session", "l1"),
        ("Store", "session"),
        ("Load", "session"),
        ("Store", "session"),
        ("Invalidate", "key", "here"),
        ("Invalidate", "thread", "here"),
    ]


async def test_hook_gets_a_hit_in_valkey_with_its_age(make_cache: MakeCache) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock)
    hits: list[HitEvent] = []
    cache.on_hit(hits.append)
    await cache.llm.store(HELLO, "hi")
    cache.clear_l1()
    clock.advance(10)
    await cache.llm.check(HELLO)
    assert [event.source for event in hits] == ["l2"]
    assert hits[0].age == pytest.approx(10, abs=0.1)


async def test_hook_counts_the_waiters_of_a_load_and_gets_its_error(cache: AgentCache) -> None:
    loads: list[LoadEvent] = []
    errors: list[ErrorEvent] = []
    cache.on_load(loads.append)
    cache.on_error(errors.append)
    failure = RuntimeError("no answer")
    loader = Loader(failure, held=True)
    callers = [load_llm(cache, loader) for _ in range(3)]
    await loader.started.wait()
    loader.release()
    await asyncio.wait(callers)
    assert [caller.exception() for caller in callers] == [failure] * 3
    assert [(event.waiter_count, event.error) for event in loads] == [(3, failure)]
    # Each caller gets the error.
    assert errors == [ErrorEvent("llm.get_or_load", failure)] * 3


async def test_hook_gets_one_load_for_each_key_of_many(cache: AgentCache) -> None:
    loads: list[LoadEvent] = []
    cache.on_load(loads.append)
    await cache.kv.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))
    assert [event.key for event in loads] == ["test:__tc:kv:kv:a", "test:__tc:kv:kv:b"]
    assert loads[0].seconds == loads[1].seconds


async def test_hook_gets_the_events_of_decorated_functions(cache: AgentCache) -> None:
    events = recorded(cache)

    @cache.memoize
    async def double(number: int) -> int:
        return 2 * number

    assert [await double(2), await double(2), await double(2)] == [4, 4, 4]
    await cache.flush_writes()
    kinds = summary(events)
    assert kinds.count(("Hit", "memo", "l1")) == 2
    assert ("Load", "memo") in kinds
    assert ("Store", "memo") in kinds


@pytest.mark.parametrize("is_async", [True, False])
async def test_hook_gets_the_events_of_wrapped_clients(
    cache: AgentCache, provider: ProviderServer, is_async: bool
) -> None:
    events = recorded(cache)
    async with Caller(cache, provider, is_async=is_async) as caller:
        await caller.ask()
        await until(lambda: StoreEvent in {type(event) for event in events})
        await caller.ask()
    assert provider.call_count == 1
    kinds = summary(events)
    assert ("Load", "llm") in kinds
    assert [kind for kind in kinds if kind[0] == "Hit"] == [("Hit", "llm", "l1")]


async def test_hook_gets_the_changes_of_other_processes_once(replicas: Pair) -> None:
    here, there = replicas
    events: list[InvalidateEvent] = []
    await there.kv.set("a", 1)
    await there.kv.set("b", 1, tags=["red"])
    await here.kv.get_many(["a", "b"])
    here.on_invalidate(events.append)
    await there.kv.delete("a")
    await until(lambda: events)
    assert events == [InvalidateEvent("key", "test:__tc:kv:kv:a", 1, "elsewhere")]
    # This process has no copy of ``a`` any more.
    await there.kv.set("a", 2)
    await there.kv.clear()
    await until(lambda: events[-1].kind == "tier")
    assert events[1:] == [InvalidateEvent("tier", "kv", 1, "elsewhere")]


async def test_hook_gets_errors_that_no_caller_gets(proxy: ChaosProxy) -> None:
    cache = AgentCache.from_url(
        proxy.url,
        name="test",
        writes=WriteOptions(mode="behind"),
        resilience=ResilienceOptions(l2_timeout=0.1, drain_timeout=0.1),
    )
    async with cache:
        errors: list[ErrorEvent] = []
        cache.on_error(errors.append)
        proxy.stall()
        assert await cache.kv.get("a") is None
        assert errors[0].operation == "l2.read"
        await cache.llm.store(HELLO, "hi")
        await until(lambda: "l2.store" in {event.operation for event in errors})
        with pytest.raises(L2UnavailableError):
            await cache.kv.set("a", 1)
        assert errors[-1].operation == "kv.set"
        assert isinstance(errors[-1].error, L2UnavailableError)


async def test_hook_runs_on_the_private_loop_for_the_sync_face(cache: AgentCache) -> None:
    threads: set[str] = set()
    events: list[Any] = []

    @cache.sync.on_hit
    async def note(event: HitEvent) -> None:
        await asyncio.sleep(0)
        threads.add(threading.current_thread().name)
        events.append(event)

    def work() -> None:
        cache.sync.kv.set("a", 1)
        cache.sync.kv.get("a")

    await asyncio.to_thread(work)
    await until(lambda: events)
    assert threading.current_thread().name not in threads
    # One registry: the hook gets the events of the async face too.
    await cache.kv.get("a")
    await until(lambda: len(events) == 2)
    assert threading.current_thread().name in threads
    await asyncio.to_thread(cache.sync.close)


async def test_hook_ends_with_its_removal(memory: AgentCache) -> None:
    events: list[Any] = []

    @memory.on_hit
    def note(event: HitEvent) -> None:
        events.append(event)

    memory.on_store(note)  # type: ignore[type-var]
    await memory.kv.set("a", 1)
    await memory.kv.get("a")
    assert len(events) == 2
    assert memory.remove_hook(note)
    assert not memory.remove_hook(note)
    await memory.kv.set("a", 1)
    await memory.kv.get("a")
    assert len(events) == 2


async def test_hook_that_is_registered_twice_is_called_once(memory: AgentCache) -> None:
    events: list[Any] = []
    note = events.append
    memory.on_store(note)
    memory.on_store(note)
    await memory.kv.set("a", 1)
    assert len(events) == 1


async def test_hook_of_another_type_is_refused(memory: AgentCache) -> None:
    with pytest.raises(UsageError, match="hook must be a function of one event, async or plain, not str"):
        memory.on_hit("print")  # type: ignore[type-var]


async def test_checkpoints_and_unstored_values_make_no_store_event() -> None:
    async with AgentCache.in_memory(kv=TierOptions(max_value_bytes=10)) as cache:
        events: list[Any] = []
        cache.on_store(events.append)
        await cache.kv.get_or_load("a", lambda: "x" * 100)
        await cache.kv.get_or_load("a", lambda: "x", mode="bypass")
        assert events == []
