"""Contexts: nothing that lives longer than a call keeps the context variables of the call's task."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader
from tests.support import MakeCache, until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    ConnectionOptions,
    L2UnavailableError,
    ResilienceOptions,
)
from tiercache.testing import ChaosProxy

REQUEST: ContextVar[Any] = ContextVar("REQUEST")


class Request:
    """The data of one request, which a web framework keeps in a context variable."""


async def in_request(work: Callable[[], Awaitable[object]]) -> weakref.ref[Request]:
    """Run ``work`` in the task of a request; return a weak reference to the request, which has ended."""

    async def serve() -> weakref.ref[Request]:
        request = Request()
        REQUEST.set(request)
        await work()
        return weakref.ref(request)

    return await asyncio.create_task(serve())


async def assert_collected(request: weakref.ref[Request]) -> None:
    def is_collected() -> bool:
        gc.collect()
        return request() is None

    await until(is_collected)


async def use(cache: AgentCache) -> None:
    """Use every kind of connection, and leave nothing in flight."""
    await cache.llm.get_or_load(HELLO, Loader(), tags=("t",), ttl=60)
    await cache.kv.set("k", "v")
    cache.clear_l1()
    assert await cache.kv.get("k") == "v"
    await cache.kv.get_many(["k", "l"])
    await cache.session.set("thread", "field", "value")
    await cache.invalidate_tag("t")
    await cache.flush_writes()


@pytest.mark.parametrize("multiplexed", [True, False], ids=["multiplexed", "plain"])
async def test_first_use_keeps_no_context(make_cache: MakeCache, multiplexed: bool) -> None:
    cache = make_cache(name="test", connection=ConnectionOptions(multiplexed=multiplexed))
    await assert_collected(await in_request(lambda: use(cache)))


@pytest.mark.parametrize("multiplexed", [True, False], ids=["multiplexed", "plain"])
async def test_reconnecting_keeps_no_context(make_cache: MakeCache, plain: valkey.Valkey, multiplexed: bool) -> None:
    cache = make_cache(name="test", connection=ConnectionOptions(multiplexed=multiplexed))
    await use(cache)
    for _ in range(3):
        plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        async def use_again() -> None:
            # An explicit write fails on the connection that has ended, and the next one connects.
            for _ in range(5):
                try:
                    await use(cache)
                    break
                except L2UnavailableError:
                    await asyncio.sleep(0.01)

        await assert_collected(await in_request(use_again))


async def test_steady_load_keeps_no_context_of_its_first_call(proxy: ChaosProxy) -> None:
    cache = AgentCache.from_url(proxy.url, name="test")
    await cache.open()
    # The timer of the opening runs out, so that the first call sets a timer.
    await asyncio.sleep(0.3)
    # Each reply takes a while, so that further calls always overlap with the earlier ones.
    proxy.latency(0.005)
    calls: set[asyncio.Task[Any]] = set()
    is_loaded = True

    async def keep_busy() -> None:
        # Further calls in every step of the loop: neither the pipe nor a connection is ever idle.
        await begun.wait()
        number = 0
        while is_loaded:
            number += 1
            if len(calls) < 50:
                for call in (cache.kv.set("k", number), cache.kv.get(f"missing {number}")):
                    calls.add(task := asyncio.create_task(call))
                    task.add_done_callback(calls.discard)
            await asyncio.sleep(0)

    async def begin() -> None:
        # The pipe and the connections are idle: the first batch and the first timer belong to these calls.
        first = asyncio.gather(cache.kv.set("first", "v"), cache.kv.get("first miss"))
        while not cache.local_stats().queued_write_count:  # noqa: ASYNC110
            await asyncio.sleep(0)
        begun.set()
        await first

    begun = asyncio.Event()
    busy = asyncio.create_task(keep_busy())
    try:
        request = await in_request(begin)
        # Longer than a timer of the connection. A repeated collection would stop the load for a moment each time.
        await asyncio.sleep(0.6)
        gc.collect()
        assert request() is None
    finally:
        is_loaded = False
        await busy
        await asyncio.gather(*calls)
        await cache.aclose()


async def test_pending_invalidation_keeps_no_context(proxy: ChaosProxy) -> None:
    async with AgentCache.from_url(
        proxy.url, name="test", resilience=ResilienceOptions(breaker_pause=0.05, drain_timeout=0.1)
    ) as cache:
        proxy.refuse()
        proxy.kill()

        async def invalidate() -> None:
            for change in (cache.invalidate_tag("t"), cache.kv.delete("k")):
                with pytest.raises(L2UnavailableError):
                    await change

        await assert_collected(await in_request(invalidate))


async def test_timer_of_a_lease_keeps_no_context(make_cache: MakeCache) -> None:
    # The loop drops a cancelled timer when its time has come: the renewal of this lease, later than the test ends.
    cache = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=60))
    await cache.open()
    await assert_collected(await in_request(lambda: cache.kv.get_or_load("k", lambda: "v")))


async def test_loader_runs_in_the_context_of_its_caller(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    seen: list[object] = []

    async def call() -> None:
        await cache.kv.get_or_load("k", lambda: seen.append(type(REQUEST.get())) or "v")

    await assert_collected(await in_request(call))
    assert seen == [Request]
