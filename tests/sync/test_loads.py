"""Loads of plain code: one load for many threads, loaders in the threads of their callers."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import pytest

from tests.requests import HELLO
from tests.seams import waiter_count
from tests.support import MakeCache, until
from tests.sync.threads import all_of, started
from tiercache import AgentCache, CoherenceOptions, LlmResponse, ResilienceOptions, SyncCache, TierOptions, UsageError

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


class Slow:
    """A plain loader that counts its calls and waits for ``release``."""

    def __init__(self, answer: Any = "answer") -> None:
        self.calls = 0
        self.started = threading.Event()
        self.release = threading.Event()
        self._answer = answer

    def __call__(self) -> Any:
        self.calls += 1
        self.started.set()
        assert self.release.wait(30)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def wait_for(condition: Any) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_sync_load_answers_50_threads_by_one_call_of_the_loader(sync: SyncCache) -> None:
    slow = Slow()
    callers = [started(lambda: sync.llm.get_or_load(HELLO, slow).response) for _ in range(50)]
    wait_for(lambda: slow.calls)
    # A caller that comes later still finds the flight.
    callers.append(started(lambda: sync.llm.get_or_load(HELLO, slow).response))
    slow.release.set()
    assert {caller.result() for caller in callers} == {"answer"}
    assert slow.calls == 1


def test_sync_load_raises_the_error_of_its_loader_in_every_thread(sync: SyncCache) -> None:
    error = LookupError("same object")
    slow = Slow(error)
    callers = [started(lambda: sync.kv.get_or_load("k", slow)) for _ in range(10)]
    wait_for(lambda: slow.calls)
    slow.release.set()
    for caller in callers:
        with pytest.raises(LookupError) as raised:
            caller.result()
        assert raised.value is error
    assert sync.kv.get("k") is None


def test_sync_loader_runs_in_the_thread_and_the_context_of_its_caller(sync: SyncCache) -> None:
    local = threading.local()

    def ask(number: int) -> tuple[str, str]:
        local.name = f"thread {number}"
        TENANT.set(f"tenant {number}")
        result = sync.kv.get_or_load(f"k{number}", lambda: [local.name, TENANT.get()])
        name, tenant = result.value
        return name, tenant

    answers = all_of([lambda number=number: ask(number) for number in range(20)])  # type: ignore[misc]
    assert answers == [(f"thread {number}", f"tenant {number}") for number in range(20)]


def test_sync_loader_gets_its_argument(sync: SyncCache) -> None:
    assert sync.kv.get_or_load("k", lambda key: f"of {key}").value == "of k"
    assert sync.kv.get_or_load_many(["a", "b"], lambda keys: [key * 2 for key in keys]) == {"a": "aa", "b": "bb"}
    assert sync.llm.get_or_load(HELLO, lambda params: LlmResponse(params["model"])).response == "gpt-4o"
    assert sync.tool.get_or_load("add", {"a": 1, "b": 2}, lambda a, b: a + b).value == 3
    assert sync.session.get_or_load("thread", "field", lambda: "text") == "text"


def test_sync_loads_nest_in_100_threads(sync: SyncCache) -> None:
    def nested(number: int, depth: int) -> int:
        if not depth:
            return number
        key = f"{number}:{depth}"
        return int(sync.kv.get_or_load(key, lambda: nested(number, depth - 1)).value)

    answers = all_of([lambda number=number: nested(number, 5) for number in range(100)])  # type: ignore[misc]
    assert answers == list(range(100))


def test_sync_loads_of_the_same_nested_keys_in_100_threads_end(sync: SyncCache) -> None:
    def nested(depth: int) -> int:
        return int(sync.kv.get_or_load(f"{depth}", lambda: nested(depth - 1)).value) if depth else 0

    assert all_of([lambda: nested(6)] * 100) == [0] * 100


def test_sync_loads_that_request_each_others_keys_end(sync: SyncCache) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def load(own: str, other: str) -> str:
        def loader() -> str:
            barrier.wait()
            return own + str(sync.kv.get_or_load(other, lambda: "private").value)

        return str(sync.kv.get_or_load(own, loader).value)

    answers = all_of([lambda: load("a", "b"), lambda: load("b", "a")])
    assert "private" in "".join(answers)


def test_sync_loads_obey_max_loads_with_nested_loads(url: str) -> None:
    cache = AgentCache.from_url(url, name="test", resilience=ResilienceOptions(max_loads=2))
    with cache.sync as sync:

        def ask(number: int) -> Any:
            return sync.kv.get_or_load(f"{number}", lambda: sync.kv.get_or_load(f"in {number}", lambda: 1).value).value

        assert all_of([lambda number=number: ask(number) for number in range(20)]) == [1] * 20  # type: ignore[misc]


def test_sync_load_runs_an_async_loader_on_the_private_loop(sync: SyncCache) -> None:
    async def loader() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    assert sync.kv.get_or_load("k", loader).value == "tiercache-sync"

    async def nested() -> Any:
        return sync.kv.get("k")

    with pytest.raises(UsageError, match="plain function"):
        sync.kv.get_or_load("other", nested)


def test_sync_load_reports_load_timeout(url: str) -> None:
    cache = AgentCache.from_url(url, name="test", resilience=ResilienceOptions(load_timeout=0.05))
    release = threading.Event()
    with cache.sync as sync:
        first = started(lambda: sync.kv.get_or_load("k", lambda: release.wait(30)))
        with pytest.raises(TimeoutError, match="load_timeout"):
            # Its own loader waits as long as the test wants: a thread cannot be interrupted.
            started(lambda: sync.kv.get_or_load("k", lambda: time.sleep(0.3))).result()
        release.set()
        with pytest.raises(TimeoutError, match="load_timeout"):
            first.result()


def test_sync_load_of_an_interrupted_caller_leaves_the_other_callers_waiting(sync: SyncCache) -> None:
    """The first caller leaves before its loader begins: another thread then calls the loader."""
    interrupted = threading.Event()
    names: list[str] = []

    def loader() -> str:
        names.append(threading.current_thread().name)
        interrupted.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync.kv.get_or_load("k", loader)
    assert interrupted.is_set()
    assert sync.kv.get_or_load("k", lambda: "next").value == "next"


def test_sync_load_tells_waiters_that_its_loader_was_interrupted(sync: SyncCache) -> None:
    slow = Slow(KeyboardInterrupt())
    first = started(lambda: sync.kv.get_or_load("k", slow))
    assert slow.started.wait(20)
    second = started(lambda: sync.kv.get_or_load("k", lambda: "unused"))
    wait_for(lambda: waiter_count(sync, "k") == 2)
    slow.release.set()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        second.result()


def test_sync_batch_loader_collects_loads_of_many_threads(sync: SyncCache) -> None:
    batches: list[list[str]] = []
    idents: list[int] = []

    def embed(keys: list[str]) -> list[str]:
        batches.append(keys)
        idents.append(threading.get_ident())
        return [key.upper() for key in keys]

    loader = sync.kv.batch_loader(embed, window=0.5, max_size=10)
    callers = [
        started(lambda number=number: sync.kv.get_or_load(f"k{number}", loader).value)  # type: ignore[misc]
        for number in range(10)
    ]
    assert [caller.result() for caller in callers] == [f"K{number}" for number in range(10)]
    assert sum(len(batch) for batch in batches) == 10
    assert len(batches) < 10
    assert set(idents) <= {caller.ident for caller in callers}


async def test_batch_loader_of_one_face_is_refused_by_the_other(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    with pytest.raises(UsageError, match="batch loader"):
        cache.sync.kv.get_or_load("k", cache.kv.batch_loader(lambda keys: keys))
    with pytest.raises(UsageError, match="batch loader"):
        await cache.kv.get_or_load("k", cache.sync.kv.batch_loader(lambda keys: keys))


async def test_sync_call_inside_a_running_loop_works_beside_the_async_cache(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("a", 1)
    assert cache.sync.kv.get("a") == 1
    assert cache.sync.kv.get_or_load("b", lambda: cache.sync.kv.get("a")).value == 1
    assert await cache.kv.get("b") == 1
    assert await asyncio.to_thread(cache.sync.kv.get, "b") == 1


async def test_sync_load_inside_an_async_load_of_the_same_key_does_not_wait_for_it(make_cache: MakeCache) -> None:
    """The async load holds the lease, and its loader blocks the loop that would renew it."""
    cache = make_cache(name="test")
    began = time.monotonic()

    def loader() -> Any:
        return cache.sync.kv.get_or_load("k", lambda: "inner").value

    assert (await cache.kv.get_or_load("k", loader)).value == "inner"
    assert (await cache.kv.get_or_load("threaded", lambda: asyncio.to_thread(loader))).value == "inner"
    assert time.monotonic() - began < 60


async def test_sync_load_that_blocks_the_loop_of_an_async_load_does_not_wait_for_it(make_cache: MakeCache) -> None:
    """The async load can end only when the sync call has returned. Its lease lives for a minute."""
    cache = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=60))
    began, release = asyncio.Event(), asyncio.Event()

    async def loader() -> str:
        began.set()
        await release.wait()
        return "async"

    loading = asyncio.create_task(cache.kv.get_or_load("k", loader))
    await began.wait()
    assert cache.sync.kv.get_or_load("k", lambda: "sync").value == "sync"
    release.set()
    assert (await loading).value == "async"
    assert await cache.kv.get("k") == "async"


async def test_async_and_sync_callers_share_one_load(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    slow = Slow()
    first = started(lambda: cache.sync.kv.get_or_load("k", slow).value)
    await until(lambda: slow.calls)
    second = asyncio.create_task(cache.kv.get_or_load("k", lambda: "second"))
    await asyncio.sleep(0.05)
    slow.release.set()
    assert (await second).value == "answer"
    assert await asyncio.to_thread(first.result) == "answer"
    assert slow.calls == 1


def test_sync_loader_in_a_tier_with_threads_runs_in_the_thread_of_its_caller(url: str) -> None:
    with AgentCache.from_url(url, name="test", kv=TierOptions(threads=True)).sync as sync:
        assert sync.kv.get_or_load("k", threading.get_ident).value == threading.get_ident()


def test_sync_guard_bars_and_removes(sync: SyncCache) -> None:
    sync.kv.set("k", 1, tags=["tag"])
    with sync.invalidates("tag"):
        assert sync.kv.get("k") is None
        sync.kv.get_or_load("k", lambda: 2, tags=["tag"])
        assert sync.kv.get("k") is None
    assert sync.kv.get_or_load("k", lambda: 3).value == 3

    @sync.kv.invalidates(lambda key: key)
    def change(key: str) -> str:
        return threading.current_thread().name

    assert change("k") == threading.current_thread().name
    assert sync.kv.get("k") is None

    @sync.kv.invalidates("k")
    def fail() -> None:
        sync.kv.get("k")
        raise KeyboardInterrupt

    sync.kv.set("k", 4)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sync.kv.get("k") is None


def test_sync_guard_refuses_async_functions_and_blocks_without_arguments(sync: SyncCache) -> None:
    async def change() -> None: ...

    with pytest.raises(UsageError, match="plain functions"):
        sync.invalidates("tag")(change)
    with pytest.raises(UsageError, match="decorator"), sync.kv.invalidates(lambda key: key):
        pass
    with pytest.raises(UsageError):
        sync.invalidates("")
