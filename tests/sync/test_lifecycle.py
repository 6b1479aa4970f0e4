"""The beginning and the end of the sync face: closing, exit of the interpreter, forks, dropped caches."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any, Final

import pytest
import valkey

from tests.child_processes import python_with_default_signals
from tests.requests import HELLO
from tests.support import MakeCache, entry_keys
from tests.sync.threads import all_of, started
from tiercache import AgentCache, L2UnavailableError, SyncCache, UsageError, WrongLoopError

_HEAD: Final = """
    import asyncio, gc, os, sys, threading, time
    from tiercache import *
    P = {"model": "m", "messages": []}
    cache = AgentCache.from_url(sys.argv[1], name="test")
"""


def run(code: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, in which every warning is an error."""
    script = textwrap.dedent(_HEAD) + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-c", script, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def assert_forks(code: str, url: str) -> None:
    """Run ``code``, which forks beside threads, in a process of its own. Python 3.12 warns about each such fork."""
    command = [sys.executable, "-c", textwrap.dedent(_HEAD) + textwrap.dedent(code), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def assert_quiet(done: subprocess.CompletedProcess[str], *lines: str) -> None:
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == list(lines)


def private_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tiercache-sync")]


def drop(held: list[Any]) -> None:
    """Drop the last reference to an object."""
    held.clear()
    gc.collect()


# Closing


def test_sync_face_starts_its_thread_at_the_first_operation(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    sync = cache.sync
    assert (cache.sync, sync.name) == (sync, "test")
    tiers = sync.llm, sync.tool, sync.session, sync.kv, sync.tier("named")
    assert all(tiers)
    assert private_threads() == []
    with sync as entered:
        assert entered is sync
        assert len(private_threads()) == 1
    assert private_threads() == []


def test_closed_sync_face_refuses_every_call_and_closes_again(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    kv = cache.sync.kv
    kv.set("k", 1)
    cache.sync.close()
    cache.sync.close()
    for call in (lambda: kv.get("k"), cache.sync.open, cache.sync.flush, lambda: cache.sync.llm.check(HELLO)):
        with pytest.raises(UsageError, match="closed"):
            call()

    async def use() -> None:
        with pytest.raises(UsageError, match="closed"):
            await cache.kv.get("k")

    asyncio.run(use())


def test_sync_face_that_was_never_used_closes_the_cache(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    cache.sync.close()
    with pytest.raises(UsageError, match="closed"):
        cache.sync.kv.get("k")
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(cache.open())


async def test_sync_close_leaves_an_open_async_face_working(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("k", 1)
    assert cache.sync.kv.get("k") == 1
    cache.sync.close()
    with pytest.raises(UsageError, match="closed"):
        cache.sync.kv.get("k")
    assert await cache.kv.get("k") == 1
    await cache.kv.set("k", 2)
    assert await cache.kv.get("k") == 2


@pytest.mark.parametrize("opens", [True, False], ids=["both faces", "sync face alone"])
def test_aclose_ends_the_thread_of_the_sync_face(url: str, opens: bool) -> None:
    cache = AgentCache.from_url(url, name="test")

    async def use() -> None:
        if opens:
            await cache.open()
        await asyncio.to_thread(cache.sync.kv.set, "k", 1)
        await cache.aclose()
        assert private_threads() == []
        with pytest.raises(UsageError, match="closed"):
            cache.sync.kv.get("k")
        await cache.aclose()

    asyncio.run(use())


def test_aclose_from_a_second_loop_ends_the_thread_of_the_sync_face(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    cache.sync.kv.set("k", 1)
    assert asyncio.run(cache.kv.get("k")) == 1
    asyncio.run(cache.aclose())
    assert private_threads() == []


async def test_aclose_of_a_cache_whose_sync_face_was_never_used_closes_it_too(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    await cache.open()
    await cache.aclose()
    with pytest.raises(UsageError, match="closed"):
        cache.sync.kv.get("k")


async def test_several_closings_at_once_end_together(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    await cache.open()
    cache.sync.kv.set("k", 1)
    await asyncio.gather(cache.aclose(), cache.aclose(), asyncio.to_thread(cache.sync.close))
    assert private_threads() == []


def test_close_answers_every_thread_that_calls_meanwhile(url: str) -> None:
    for _ in range(5):
        sync = AgentCache.from_url(url, name="test").sync
        sync.kv.set("k", 1)

        def call_until_closed(sync: SyncCache = sync) -> bool:
            try:
                while True:
                    sync.kv.get("k")
            except (UsageError, L2UnavailableError):
                return True

        callers = [started(call_until_closed) for _ in range(4)]
        sync.close()
        assert all(caller.result() for caller in callers)


def test_close_waits_for_a_load_and_stores_its_value(url: str, plain: valkey.Valkey) -> None:
    sync = AgentCache.from_url(url, name="test").sync
    began, release = threading.Event(), threading.Event()

    def loader() -> str:
        began.set()
        assert release.wait(30)
        return "loaded"

    loading = started(lambda: sync.kv.get_or_load("k", loader).value)
    assert began.wait(30)
    closing = started(sync.close)
    release.set()
    closing.result()
    assert loading.result() == "loaded"
    assert len(entry_keys(plain)) == 1


def test_close_in_an_async_loader_is_refused(url: str) -> None:
    with AgentCache.from_url(url, name="test").sync as sync:

        async def loader() -> None:
            sync.close()

        with pytest.raises(UsageError, match="wait for itself"):
            sync.kv.get_or_load("k", loader)


async def test_wrong_loop_error_of_the_async_face_stays(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    await cache.open()
    cache.sync.kv.set("k", 1)

    def use_elsewhere() -> None:
        async def get() -> None:
            with pytest.raises(WrongLoopError):
                await cache.kv.get("k")

        asyncio.run(get())

    await asyncio.to_thread(use_elsewhere)
    assert cache.sync.kv.get("k") == 1


def test_sync_face_serves_while_valkey_is_absent() -> None:
    with AgentCache.from_url("valkey://127.0.0.1:1", name="test").sync as sync:
        assert sync.kv.get("k") is None
        assert sync.kv.get_or_load("k", lambda: 1).value == 1
        with pytest.raises(L2UnavailableError):
            sync.kv.set("k", 2)


# A cache of process memory, and an embedded cache


def test_memory_of_one_face_is_refused_to_the_other() -> None:
    cache = AgentCache.in_memory()
    with cache.sync as sync:
        sync.kv.set("k", 1)
        assert sync.kv.get("k") == 1
        assert sync.stats().session.reads == 0
        with pytest.raises(UsageError, match="memory of its own"):
            asyncio.run(cache.kv.get("k"))
        assert sync.kv.get("k") == 1
    other = AgentCache.in_memory()
    asyncio.run(other.kv.set("k", 1))
    with pytest.raises(UsageError, match="memory of its own"):
        other.sync.kv.get("k")
    assert asyncio.run(other.kv.get("k")) == 1
    asyncio.run(other.aclose())


@pytest.mark.parametrize("first", ["async", "sync"])
async def test_both_faces_share_one_embedded_server(first: str) -> None:
    cache = AgentCache.embedded(name="test")
    if first == "async":
        await cache.kv.set("k", 1)
        assert await asyncio.to_thread(cache.sync.kv.get, "k") == 1
    else:
        await asyncio.to_thread(cache.sync.kv.set, "k", 1)
        assert await cache.kv.get("k") == 1
    cache.sync.close()
    await cache.kv.set("k", 2)
    cache.clear_l1()
    assert await cache.kv.get("k") == 2
    await cache.aclose()


def test_sync_close_stops_the_embedded_server(tmp_path: Path) -> None:
    with AgentCache.embedded(tmp_path, name="test").sync as sync:
        sync.kv.set("k", 1)
    # The folder serves one server at a time: the first one has ended.
    with AgentCache.embedded(tmp_path, name="test").sync as sync:
        assert sync.kv.get("k") == 1


# The exit of the interpreter


def test_exit_with_an_open_sync_face_is_quiet_and_stores_the_answers(url: str, plain: valkey.Valkey) -> None:
    code = """
    print(cache.sync.llm.get_or_load(P, lambda: "x" * 1_000_000).source)
    """
    assert_quiet(run(code, url), "loader")
    assert len(entry_keys(plain)) == 1


def test_exit_stores_write_behind_answers(url: str, plain: valkey.Valkey) -> None:
    code = """
    behind = AgentCache.from_url(sys.argv[1], name="test", writes=WriteOptions(mode="behind", max_delay=5))
    for number in range(50):
        behind.sync.tool.store("t", {"n": number}, number)
    """
    assert_quiet(run(code, url))
    assert len(entry_keys(plain)) == 50


def test_exit_with_both_faces_open_is_quiet(url: str) -> None:
    code = """
    async def main():
        await cache.kv.set("k", 1)
        print(cache.sync.kv.get("k"))
    asyncio.run(main())
    print(cache.sync.kv.get("k"))
    """
    assert_quiet(run(code, url), "1", "1")


def test_exit_does_not_wait_for_a_loader_longer_than_the_drain(url: str) -> None:
    code = """
    short = AgentCache.from_url(sys.argv[1], name="test", resilience=ResilienceOptions(drain_timeout=0.2))
    began = threading.Event()
    def loader():
        began.set()
        time.sleep(1000)
    threading.Thread(target=lambda: short.sync.kv.get_or_load("k", loader), daemon=True).start()
    began.wait()
    """
    assert_quiet(run(code, url))


def test_exit_by_an_error_or_with_a_thread_that_still_calls_is_quiet(url: str) -> None:
    code = """
    def call():
        try:
            while True:
                cache.sync.kv.get("k")
        except UsageError:
            pass
    cache.sync.open()
    threading.Thread(target=call, daemon=True).start()
    sys.exit(3)
    """
    done = run(code, url)
    assert (done.stderr, done.returncode) == ("", 3)


def test_exit_with_an_embedded_server_keeps_its_data(tmp_path: Path, url: str) -> None:
    code = f"""
    mine = AgentCache.embedded({str(tmp_path)!r}, name="test")
    print(mine.sync.llm.get_or_load(P, lambda: "x").source)
    """
    assert_quiet(run(code, url), "loader")
    assert_quiet(run(code, url), "l2")


def test_interrupt_of_a_waiting_caller_ends_its_call_and_the_cache_goes_on(url: str) -> None:
    code = """
    import signal
    started = threading.Event()
    release = threading.Event()
    def slow():
        started.set()
        release.wait(30)
        return "slow"
    holder = threading.Thread(target=lambda: cache.sync.kv.get_or_load("k", slow))
    holder.start()
    started.wait()
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        cache.sync.kv.get_or_load("k", lambda: "unused")
    except KeyboardInterrupt:
        print("interrupted")
    release.set()
    holder.join()
    print(cache.sync.kv.get("k"))
    cache.sync.close()
    """
    script = textwrap.dedent(_HEAD) + textwrap.dedent(code)
    command = python_with_default_signals("-W", "error", "-c", script, url)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert_quiet(done, "interrupted", "slow")


# Forks and dropped caches


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_has_a_sync_face_of_its_own(url: str) -> None:
    code = """
    cache.sync.kv.set("k", "parent")
    pid = os.fork()
    if not pid:
        assert cache.sync.kv.get("k") == "parent"
        cache.sync.kv.set("k", "child")
        cache.sync.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    deadline = time.monotonic() + 20
    while cache.sync.kv.get("k") != "child" and time.monotonic() < deadline:
        time.sleep(0.01)
    print(cache.sync.kv.get("k"))
    cache.sync.close()
    """
    assert_quiet(run(code, url), "child")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_process_forked_while_threads_call_finds_no_lock_taken(url: str) -> None:
    code = """
    stop = threading.Event()
    def call():
        while not stop.is_set():
            cache.sync.kv.set("k", 1)
            cache.sync.stats()
    # Daemons: they must not keep a process whose check has failed.
    threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        pid = os.fork()
        if not pid:
            cache.sync.kv.get("k")
            cache.sync.stats()
            cache.sync.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    cache.sync.close()
    print("done")
    """
    assert_forks(code, url)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_process_forked_while_a_thread_first_uses_the_face_makes_a_face_of_its_own(url: str) -> None:
    code = """
    from tiercache.assembly import Assembly
    begun, go_on = threading.Event(), threading.Event()
    make = Assembly._new_exchanges
    def hold(assembly):
        if threading.current_thread() is thread:
            begun.set()
            go_on.wait()
        return make(assembly)
    Assembly._new_exchanges = hold
    def call():
        cache.sync.kv.set("k", 1)
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    assert begun.wait(10)
    pid = os.fork()
    if not pid:
        cache.sync.kv.set("child", 2)
        assert cache.sync.stats().session.reads == 0
        cache.sync.session.set("thread", "field", "value")
        assert cache.sync.session.get("thread", "field") == "value"
        assert cache.sync.stats().session.reads == 1
        cache.sync.close()
        os._exit(0)
    go_on.set()
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    assert cache.sync.kv.get("k") == 1
    assert cache.sync.kv.get("child") == 2
    cache.sync.close()
    print("done")
    """
    assert_forks(code, url)


def test_first_calls_import_nothing(url: str) -> None:
    """A process that another thread forks in the middle of an import waits forever for the lock of that module."""
    code = """
    before = set(sys.modules)
    sync = cache.sync
    sync.llm.store(P, "answer")
    sync.tool.store("tool", {}, "answer")
    sync.session.set("thread", "field", "value")
    sync.session.destroy_thread("thread")
    sync.kv.get_or_load("k", lambda: 1, tags=["tag"])
    sync.invalidate_tag("tag")
    sync.llm.invalidate_by_model("m")
    sync.stats()
    sync.close()
    print(sorted(set(sys.modules) - before))
    """
    assert_quiet(run(code, url), "[]")


def test_dropped_cache_warns_and_ends_the_thread_of_its_sync_face(url: str, plain: valkey.Valkey) -> None:
    held = [AgentCache.from_url(url, name="test")]
    held[0].sync.llm.store(HELLO, "x")
    with pytest.warns(ResourceWarning, match="dropped without close"):
        drop(held)
    for thread in private_threads():
        thread.join(30)
    assert private_threads() == []
    assert len(entry_keys(plain)) == 1


def test_tier_keeps_the_sync_face_of_a_dropped_cache(url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = [AgentCache.from_url(url, name="test").sync.kv]
        held[0].set("k", 1)
        gc.collect()
        assert held[0].get("k") == 1
    with pytest.warns(ResourceWarning, match="dropped without close"):
        drop(held)


async def test_closed_cache_with_both_faces_is_dropped_quietly(url: str) -> None:
    held = [AgentCache.from_url(url, name="test")]
    await held[0].open()
    held[0].sync.kv.set("k", 1)
    await held[0].aclose()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drop(held)
    assert private_threads() == []


def test_first_uses_of_many_threads_make_one_face(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    barrier = threading.Barrier(30, timeout=30)

    def use() -> None:
        barrier.wait()
        cache.sync.tier("named").set("k", 1)

    all_of([use] * 30)
    assert len([thread for thread in private_threads() if thread.name == "tiercache-sync"]) == 1
    assert cache.local_stats().queued_write_count == 0
    cache.sync.close()
