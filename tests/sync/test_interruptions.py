"""The sync face when a call is interrupted or re-entered at a bad moment, and when the end comes at one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tests.seams import act_before_sync_face, act_before_thread, act_before_tier, interrupt_next_call
from tests.support import MakeCache, until
from tests.sync.test_lifecycle import drop, private_threads
from tests.sync.test_loads import Slow
from tests.sync.threads import started
from tiercache import AgentCache, CoherenceOptions, ResilienceOptions, SyncCache, UsageError
from tiercache.portal.portal import Portal


def wait_for_thread_end() -> None:
    for thread in private_threads():
        thread.join(30)
    assert private_threads() == []


# Interrupts


def test_interrupt_of_a_call_that_has_just_begun_leaves_no_load_behind(
    sync: SyncCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader was offered to the interrupted thread: the next caller of the key must not wait for it."""
    sync.open()
    interrupt_next_call(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        sync.kv.get_or_load("k", lambda: "interrupted")
    assert started(lambda: sync.kv.get_or_load("k", lambda: "next").value).result() in ("interrupted", "next")


def test_interrupt_at_the_beginning_of_a_guard_bars_nothing(sync: SyncCache, monkeypatch: pytest.MonkeyPatch) -> None:
    sync.open()

    @sync.invalidates("tag")
    def change() -> None: ...

    with monkeypatch.context() as patch:
        interrupt_next_call(patch, type(None))
        with pytest.raises(KeyboardInterrupt):
            change()
    sync.kv.get_or_load("k", lambda: 1, tags=["tag"])
    assert sync.kv.get("k") == 1


# Signal handlers and finalizers, in the middle of a step of the same thread


def test_tier_is_found_while_this_thread_looks_up_a_tier(sync: SyncCache, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    sync.kv.set("k", 1)
    act_before_tier(monkeypatch, lambda: found.append(sync.kv.get("k")))
    assert started(lambda: sync.kv.get("k")).result() == 1
    assert found == [1]


def test_first_use_during_the_first_use_of_the_same_thread_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = AgentCache.from_url(url, name="test").sync
    errors: list[BaseException] = []

    def use() -> None:
        try:
            sync.kv.get("k")
        except UsageError as error:
            errors.append(error)

    act_before_sync_face(monkeypatch, use)
    assert started(lambda: sync.kv.get("k")).result() is None
    assert "first uses it" in str(errors[0])
    sync.close()


def test_portal_has_one_thread_although_its_start_is_interrupted_by_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def value() -> int:
        return 1

    portal, found = Portal(), list[int]()
    act_before_thread(monkeypatch, lambda: found.append(portal.run(value)))
    assert started(lambda: portal.run(value)).result() == 1
    assert found == [1]
    portal.close()
    wait_for_thread_end()


def test_operations_of_the_whole_cache_may_be_the_first_use_without_asserts() -> None:
    code = "from tiercache import AgentCache; s = AgentCache.in_memory().sync; print(s.flush()); s.close()"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


# The end of the thread


def test_portal_that_is_closed_during_its_start_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def value() -> int:
        return 1

    portal = Portal()
    act_before_thread(monkeypatch, portal.stop)
    with pytest.raises(UsageError, match="closed"):
        portal.run(value)
    wait_for_thread_end()


@pytest.mark.parametrize("count", [1, 5], ids=["once", "several times"])
def test_portal_that_is_stopped_ends_its_tasks(caplog: pytest.LogCaptureFixture, count: int) -> None:
    async def hold(began: threading.Event, ended: list[int]) -> None:
        began.set()
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.05)
            ended.append(1)

    portal, began, ended = Portal(), threading.Event(), list[int]()
    waiting = started(lambda: portal.run(lambda: hold(began, ended)))
    assert began.wait(20)
    for _ in range(count):
        portal.stop()
        threading.Event().wait(0.005)
    portal.close()
    with pytest.raises(UsageError, match="closed"):
        waiting.result()
    assert ended == [1]
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_aclose_that_is_cancelled_ends_the_thread_all_the_same(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(drain_timeout=0.2))
    slow = Slow()
    loading = started(lambda: cache.sync.kv.get_or_load("k", slow))
    await until(slow.started.is_set)
    closing = asyncio.create_task(cache.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    await until(lambda: not private_threads(), 20)
    slow.release.set()
    with pytest.raises(UsageError, match="closed"):
        await asyncio.to_thread(loading.result)


def test_aclose_in_an_async_loader_ends_the_thread(url: str) -> None:
    cache = AgentCache.from_url(url, name="test", resilience=ResilienceOptions(drain_timeout=0.2))
    with pytest.raises(UsageError, match="closed"):
        cache.sync.kv.get_or_load("k", cache.aclose)
    wait_for_thread_end()


async def test_aclose_does_not_wait_for_a_function_in_the_executor_of_the_private_loop(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(drain_timeout=0.2))
    slow = Slow()

    async def loader() -> Any:
        return await asyncio.to_thread(slow)

    loading = started(lambda: cache.sync.kv.get_or_load("k", loader))
    await until(slow.started.is_set)
    await asyncio.wait_for(cache.aclose(), 20)
    assert not slow.release.is_set()
    slow.release.set()
    with pytest.raises(UsageError, match="closed"):
        await asyncio.to_thread(loading.result)


async def test_close_in_a_coroutine_lets_no_load_wait_for_the_blocked_loop(make_cache: MakeCache) -> None:
    coherence, resilience = CoherenceOptions(lease_ttl=60), ResilienceOptions(drain_timeout=30)
    cache = make_cache(name="test", coherence=coherence, resilience=resilience)
    began, release = asyncio.Event(), asyncio.Event()

    async def loader() -> str:
        began.set()
        await release.wait()
        return "async"

    loading = asyncio.create_task(cache.kv.get_or_load("k", loader))
    await began.wait()
    other = started(lambda: cache.sync.kv.get_or_load("k", lambda: "sync").value)
    await until(lambda: cache.local_stats().tiers["kv"].lease_waits)
    cache.sync.close()
    assert other.result() == "sync"
    release.set()
    assert (await loading).value == "async"


@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_dropped_cache_ends_its_thread_where_warnings_are_errors(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    held = [AgentCache.from_url(url, name="test")]
    held[0].sync.kv.set("k", 1)
    drop(held)
    wait_for_thread_end()


# Contexts

USES: dict[str, Callable[[SyncCache], object]] = {
    "open": lambda sync: sync.open(),
    "get": lambda sync: sync.kv.get("k"),
    "load": lambda sync: sync.kv.get_or_load("k", lambda: 1),
    "stats": lambda sync: sync.stats(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_private_loop_keeps_nothing_of_the_context_of_its_first_caller(
    url: str, use: Callable[[SyncCache], object]
) -> None:
    class Request: ...

    variable: contextvars.ContextVar[Request] = contextvars.ContextVar("request")

    cache = AgentCache.from_url(url, name="test")

    def handle() -> weakref.ref[Request]:
        request = Request()
        variable.set(request)
        use(cache.sync)
        return weakref.ref(request)

    request = contextvars.copy_context().run(handle)
    for _ in range(200):
        gc.collect()
        if request() is None:
            break
        threading.Event().wait(0.01)
    assert request() is None
    cache.sync.close()
