"""Hooks are isolated and bounded: a hook that raises, hangs or calls the cache harms no caller and no other hook."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import pytest

from tests.requests import Loader
from tests.seams import without_hook_mark
from tests.support import until
from tiercache import AgentCache, HitEvent, ResilienceOptions, StoreEvent, WrongLoopError
from tiercache.engine.hooks.tasks import MAX_RUNNING, MAX_WAITING


async def test_raising_hook_is_logged_once_and_counted_and_the_others_run(
    memory: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Any] = []

    @memory.on_hit
    def raise_plain(event: HitEvent) -> None:
        raise RuntimeError("plain")

    @memory.on_hit
    async def raise_async(event: HitEvent) -> None:
        raise RuntimeError("async")

    @memory.on_hit
    def cancel(event: HitEvent) -> None:
        raise asyncio.CancelledError

    memory.on_hit(events.append)
    await memory.kv.set("a", 1)
    with caplog.at_level(logging.WARNING, "tiercache"):
        for _ in range(3):
            assert await memory.kv.get("a") == 1
        await until(lambda: memory.local_stats().hook_errors == 9)
    assert len(events) == 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    for name, error in (("raise_plain", "plain"), ("raise_async", "async"), ("cancel", "CancelledError")):
        assert sum(f"{name} of on_hit raised" in message and error in message for message in messages) == 1


async def test_raising_hook_leaves_every_operation_as_it_is(cache: AgentCache) -> None:
    def fail(event: Any) -> None:
        raise RuntimeError("hook")

    for register in (cache.on_hit, cache.on_load, cache.on_store, cache.on_invalidate, cache.on_error):
        register(fail)
    assert await cache.kv.get_or_load("a", lambda: 1)
    await cache.flush_writes()
    cache.clear_l1()
    assert await cache.kv.get("a") == 1
    await cache.kv.set("a", 2)
    assert await cache.kv.get("a") == 2
    assert await cache.kv.delete("a")
    with pytest.raises(ValueError, match="loader"):
        await cache.kv.get_or_load("b", Loader(ValueError("loader")))
    assert cache.local_stats().hook_errors >= 8


async def test_async_hooks_run_a_bounded_number_at_a_time_and_drop_the_rest() -> None:
    async with AgentCache.in_memory() as cache:
        release = asyncio.Event()
        running = most = done = 0

        @cache.on_hit
        async def wait(event: HitEvent) -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await release.wait()
            running -= 1
            done += 1

        await cache.kv.set("a", 1)
        for _ in range(MAX_RUNNING + MAX_WAITING + 5):
            await cache.kv.get("a")
        await asyncio.sleep(0)
        assert running == MAX_RUNNING
        assert cache.local_stats().hook_events_dropped == 5
        release.set()
    assert (most, done) == (MAX_RUNNING, MAX_RUNNING + MAX_WAITING)
    assert cache.local_stats().hook_events_dropped == 5


async def test_closing_waits_for_hooks_and_cancels_those_that_hang() -> None:
    done: list[str] = []
    cancelled = asyncio.Event()
    cache = AgentCache.in_memory(resilience=ResilienceOptions(drain_timeout=0.05))

    @cache.on_store
    async def end_soon(event: StoreEvent) -> None:
        await asyncio.sleep(0)
        done.append(event.key)

    @cache.on_store
    async def hang(event: StoreEvent) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with cache:
        await cache.kv.set("a", 1)
    assert len(done) == 1
    assert cancelled.is_set()
    assert cache.local_stats().hook_events_dropped == 1


async def test_error_on_a_closed_cache_drops_the_call_of_an_async_hook() -> None:
    cache = AgentCache.in_memory()

    @cache.on_error
    async def note(event: object) -> None:
        raise AssertionError("no task may run")

    await cache.kv.set("a", 1)
    await cache.aclose()
    with pytest.raises(Exception, match="closed"):
        await cache.kv.set("a", 1)
    assert cache.local_stats().hook_events_dropped == 1


async def test_error_on_another_loop_drops_the_call_of_an_async_hook(memory: AgentCache) -> None:
    calls: list[object] = []

    @memory.on_error
    async def note(event: object) -> None:
        calls.append(event)

    async def use() -> None:
        with pytest.raises(WrongLoopError):
            await memory.kv.set("a", 1)

    await memory.kv.set("a", 1)
    await asyncio.to_thread(asyncio.run, use())
    await asyncio.sleep(0)
    assert calls == []
    assert memory.local_stats().hook_events_dropped == 1


async def hits_of_a_hook_that_reads(cache: AgentCache, *, is_async: bool) -> int:
    """Return the events of a hook that itself reads the cache, after one hit."""
    count = 0

    async def read(event: HitEvent) -> None:
        nonlocal count
        count += 1
        if count < 50:
            await cache.kv.get("a")

    def start(event: HitEvent) -> asyncio.Future[None]:
        return asyncio.ensure_future(read(event))

    cache.on_hit(read if is_async else start)
    await cache.kv.set("a", 1)
    await cache.kv.get("a")
    await cache.aclose()
    return count


@pytest.mark.parametrize("is_async", [True, False])
async def test_hook_that_reads_the_cache_makes_no_events(is_async: bool) -> None:
    assert await hits_of_a_hook_that_reads(AgentCache.in_memory(), is_async=is_async) == 1


async def test_hook_that_reads_the_cache_calls_itself_without_hook_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    without_hook_mark(monkeypatch)
    assert await hits_of_a_hook_that_reads(AgentCache.in_memory(), is_async=True) == 50


async def test_plain_hook_has_the_context_of_the_caller_and_async_hook_has_none(memory: AgentCache) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    @memory.on_store
    def plain(event: StoreEvent) -> None:
        seen.append(request.get())

    @memory.on_store
    async def in_task(event: StoreEvent) -> None:
        seen.append(request.get())

    request.set("r1")
    await memory.kv.set("a", 1)
    await until(lambda: len(seen) == 2)
    assert seen == ["r1", "none"]
