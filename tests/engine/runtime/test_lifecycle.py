"""Lifecycle: a cache opens itself, belongs to one event loop, starts again after a loop or a fork, drains on close."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import valkey
import valkey.asyncio

from tests.requests import HELLO, Loader, asking, turns
from tests.seams import HeldPings
from tests.support import MakeCache, entry_keys, run_in_thread, until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError, WrongLoopError
from tiercache.embedded import EmbeddedValkey


def run_script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_lifecycle_opens_cache_at_first_use(url: str) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        threads = threading.active_count()

        async def use() -> None:
            assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
            assert threading.active_count() == threads
            await cache.aclose()

        asyncio.run(use())

    run_in_thread(work)


async def test_lifecycle_starts_no_task_and_no_connection_before_first_use(url: str, plain: valkey.Valkey) -> None:
    before = plain.info("clients")["connected_clients"]
    tasks = asyncio.all_tasks()
    AgentCache.from_url(url)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert plain.info("clients")["connected_clients"] == before


def test_lifecycle_refuses_other_loop_while_first_loop_is_open(url: str) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        first = asyncio.new_event_loop()
        try:
            first.run_until_complete(cache.llm.store(HELLO, "x"))
            for call in (
                lambda: cache.llm.check(HELLO),
                lambda: cache.llm.get_or_load(HELLO, lambda: "y"),
                lambda: cache.llm.invalidate(HELLO),
                cache.aclose,
            ):
                with pytest.raises(WrongLoopError, match="another event loop"):
                    asyncio.run(call())
            assert first.run_until_complete(cache.llm.check(HELLO)).source == "l1"
            first.run_until_complete(cache.aclose())
        finally:
            first.close()

    run_in_thread(work)


def test_lifecycle_distrusts_l1_in_second_run(url: str, plain: valkey.Valkey) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        asyncio.run(cache.llm.store(HELLO, "x"))
        assert asyncio.run(cache.llm.check(HELLO)).source == "l2"
        plain.flushall()
        assert not asyncio.run(cache.llm.check(HELLO)).hit

    run_in_thread(work)


def test_lifecycle_clears_l1_before_second_run_in_which_valkey_is_unavailable(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server

    def work() -> None:
        cache = AgentCache.from_url(server.url, resilience=ResilienceOptions(l2_timeout=0.3, drain_timeout=0.5))
        asyncio.run(cache.llm.store(HELLO, "x"))
        os.kill(pid, signal.SIGSTOP)
        # Without a subscription to announcements nothing else would drop the entry.
        result = asyncio.run(cache.llm.check(HELLO))
        assert (result.hit, result.degraded) == (False, True)

    run_in_thread(work)


def test_lifecycle_keeps_l1_in_second_run_without_valkey() -> None:
    def work() -> None:
        cache = AgentCache.in_memory()
        asyncio.run(cache.llm.store(HELLO, "x"))
        assert asyncio.run(cache.llm.check(HELLO)).source == "l1"

    run_in_thread(work)


def test_lifecycle_drains_writes_when_asyncio_run_ends(url: str, plain: valkey.Valkey) -> None:
    """The program does not close the cache, and the loop ends in the step in which the fill is queued."""

    async def use(cache: AgentCache) -> None:
        await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), lambda: "x") for n in range(300)))

    run_in_thread(lambda: asyncio.run(use(AgentCache.from_url(url))))
    assert len(entry_keys(plain)) == 300


async def test_lifecycle_drains_writes_when_cache_closes_right_after_load(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url) as cache:
        await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), lambda: "x") for n in range(300)))
    assert len(entry_keys(plain)) == 300
    assert cache.local_stats().queued_write_count == 0


async def test_lifecycle_close_waits_for_load_in_flight(url: str, plain: valkey.Valkey) -> None:
    cache = AgentCache.from_url(url)
    loader = Loader(held=True)
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
    await loader.started.wait()
    closing = asyncio.create_task(cache.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    loader.release()
    assert (await waiting).response == "answer"
    await closing
    assert len(entry_keys(plain)) == 1


def test_lifecycle_drains_writes_when_loop_ends_during_close(url: str, plain: valkey.Valkey) -> None:
    """Ctrl-C during ``aclose`` does so: it cancels every task, and the task of ``aclose`` too."""

    async def use(cache: AgentCache) -> None:
        await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), lambda: "x") for n in range(300)))
        closing = asyncio.ensure_future(cache.aclose())
        await asyncio.sleep(0)
        assert not closing.done()

    run_in_thread(lambda: asyncio.run(use(AgentCache.from_url(url))))
    assert len(entry_keys(plain)) == 300


async def test_lifecycle_serves_nested_load_during_close(url: str, plain: valkey.Valkey) -> None:
    cache = AgentCache.from_url(url)
    started, go = asyncio.Event(), asyncio.Event()

    async def outer() -> str:
        started.set()
        await go.wait()
        return f"outer of {(await cache.llm.get_or_load(asking('inner'), lambda: 'inner')).response}"

    loading = asyncio.create_task(cache.llm.get_or_load(HELLO, outer))
    await started.wait()
    closing = asyncio.create_task(cache.aclose())
    await asyncio.sleep(0.01)
    with pytest.raises(UsageError, match="closed"):
        await cache.llm.check(HELLO)
    go.set()
    assert (await loading).response == "outer of inner"
    await closing
    assert len(entry_keys(plain)) == 2


async def test_lifecycle_close_leaves_load_that_ignores_cancellation(url: str) -> None:
    cache = AgentCache.from_url(url, resilience=ResilienceOptions(drain_timeout=0.05))
    began, release = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        began.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return "x"

    loading = asyncio.create_task(cache.llm.get_or_load(HELLO, stubborn))
    await began.wait()
    async with asyncio.timeout(10):
        await cache.aclose()
    with pytest.raises(UsageError, match="closed while"):
        await loading
    release.set()
    await turns()


async def test_lifecycle_close_continues_when_one_of_two_closers_is_cancelled(url: str) -> None:
    cache = AgentCache.from_url(url)
    await cache.open()
    first, second = asyncio.create_task(cache.aclose()), asyncio.create_task(cache.aclose())
    await asyncio.sleep(0)
    first.cancel()
    await second
    await asyncio.gather(first, return_exceptions=True)


async def test_lifecycle_opens_once_for_concurrent_first_uses(url: str, plain: valkey.Valkey) -> None:
    cache = AgentCache.from_url(url)
    results = await asyncio.gather(*(cache.llm.check(HELLO) for _ in range(50)))
    assert not any(result.hit or result.degraded for result in results)
    await cache.aclose()


async def test_lifecycle_opens_after_cancelled_open(url: str) -> None:
    cache = AgentCache.from_url(url)
    task = asyncio.create_task(cache.open())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not (await cache.llm.check(HELLO)).degraded
    await cache.aclose()


async def test_lifecycle_open_continues_when_its_first_caller_is_cancelled(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = HeldPings(monkeypatch)
    cache = AgentCache.from_url(url)
    first, second = asyncio.create_task(cache.llm.check(HELLO)), asyncio.create_task(cache.llm.check(HELLO))
    await turns()
    first.cancel()
    await turns()
    pings.release.set()
    assert not (await second).degraded
    assert first.cancelled()
    await cache.aclose()


async def test_lifecycle_keeps_caches_of_two_names_apart(make_cache: MakeCache) -> None:
    one, other = make_cache(name="one"), make_cache(name="other")
    await one.llm.store(HELLO, "one")
    await other.llm.store(HELLO, "other")
    assert await one.llm.clear() == 1
    one.clear_l1()
    other.clear_l1()
    assert not (await one.llm.check(HELLO)).hit
    assert (await other.llm.check(HELLO)).response == "other"


async def test_lifecycle_leaves_client_of_caller_open(url: str) -> None:
    for decode in (False, True):
        async with valkey.asyncio.Valkey.from_url(url, decode_responses=decode) as client:
            async with AgentCache(client, name="own") as cache:
                await cache.llm.store(HELLO, "é")
                cache.clear_l1()
                assert (await cache.llm.check(HELLO)).response == "é"
            assert await client.ping()


async def test_lifecycle_logs_one_warning_when_server_is_unreachable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AgentCache.from_url(f"unix://{tmp_path}/missing.sock") as cache:
        result = await cache.llm.get_or_load(HELLO, Loader())
        assert (result.response, result.source, result.degraded) == ("answer", "loader", True)
        assert (await cache.llm.check(HELLO)).source == "l1"
        missed = await cache.llm.check(asking("other"))
        assert (missed.hit, missed.degraded) == (False, True)
        with pytest.raises(L2UnavailableError):
            await cache.llm.store(HELLO, "x")
        with pytest.raises(L2UnavailableError):
            await cache.llm.invalidate(HELLO)
        assert not (await cache.llm.check(HELLO)).hit
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_lifecycle_raises_when_required_server_is_unreachable(tmp_path: Path) -> None:
    cache = AgentCache.from_url(f"unix://{tmp_path}/missing.sock", require_l2=True)
    with pytest.raises(L2UnavailableError):
        await cache.open()
    with pytest.raises(L2UnavailableError):
        await cache.llm.check(HELLO)
    await cache.aclose()


FORK = """
    import asyncio, os, sys
    from tiercache import AgentCache
    P = {"model": "m", "messages": []}
    cache = AgentCache.from_url(sys.argv[1])

    async def child():
        assert (await cache.llm.check(P)).source == "l2"
        await cache.llm.store(P, "from the child")
        await cache.aclose()

    async def parent():
        await cache.llm.store(P, "from the parent")
        pid = os.fork()
        if not pid:
            os._exit(run_child())
        for _ in range(50):
            cache.clear_l1()
            assert (await cache.llm.check(P)).source == "l2"
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0, status
        cache.clear_l1()
        result = await cache.llm.check(P)
        assert (result.source, result.response, result.degraded) == ("l2", "from the child", False), result

    def run_child():
        import traceback
        try:
            # After a fork in a running loop the child starts its own loop, as children of multiprocessing do.
            asyncio._set_running_loop(None)
            asyncio.run(child())
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    asyncio.run(parent())
    print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_lifecycle_opens_new_connections_after_fork(url: str) -> None:
    done = run_script(FORK, url)
    assert done.stdout == "fine\n", done.stderr


SHORT_SCRIPT = """
    import asyncio, sys
    from tiercache import AgentCache
    cache = AgentCache.from_url(sys.argv[1])

    async def main():
        print((await cache.llm.get_or_load({"model": "m", "messages": []}, lambda: "x")).source)

    asyncio.run(main())
    asyncio.run(main())
"""


def test_lifecycle_ends_short_script_without_warning(url: str) -> None:
    done = run_script(SHORT_SCRIPT, url)
    assert done.stdout.split() == ["loader", "l2"], done.stderr
    assert run_script(SHORT_SCRIPT, url).stdout.split() == ["l2", "l2"]
    assert done.stderr == ""


INTERRUPTED = """
    import asyncio, signal, sys
    from tiercache import AgentCache
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A background job inherits an ignored SIGINT.
    cache = AgentCache.from_url(sys.argv[1])

    async def main():
        await cache.llm.get_or_load({"model": "m", "messages": []}, lambda: "x")
        print("ready", flush=True)
        await cache.llm.get_or_load({"model": "n", "messages": []}, lambda: asyncio.sleep(60))

    asyncio.run(main())
"""


def test_lifecycle_drains_writes_when_ctrl_c_ends_script_during_load(url: str, plain: valkey.Valkey) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert b"never retrieved" not in errors
    assert len(entry_keys(plain)) == 1


def test_cache_keeps_its_counts_of_changes_when_it_starts_on_another_loop(server: EmbeddedValkey) -> None:
    cache = AgentCache.from_url(server.url, name="test")

    async def follow_a_change() -> tuple[int, int]:
        async with AgentCache.from_url(server.url, name="test") as other:
            before = cache.local_stats().heard_count
            await cache.open()
            await other.kv.clear()
            await until(lambda: cache.local_stats().heard_count > before)
        await drop_subscriptions(server)
        return counts()

    async def drop_subscriptions(server: EmbeddedValkey) -> None:
        before = cache.local_stats().distrusted_count
        with valkey.Valkey.from_url(server.url) as plain:
            plain.client_kill_filter(_type="pubsub")
        await until(lambda: cache.local_stats().distrusted_count > before)

    def counts() -> tuple[int, int]:
        stats = cache.local_stats()
        return stats.heard_count, stats.distrusted_count

    first = asyncio.run(follow_a_change())
    assert counts() == first
    second = asyncio.run(follow_a_change())
    assert second > first
    asyncio.run(cache.aclose())
    assert counts() >= second
