"""One cache, one event loop: opens itself, begins anew after a loop or a fork, finishes its writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import valkey

from tests.requests import HELLO, Loader, asking, turns
from tests.seams import HeldPings
from tests.support import entry_keys, run_in_thread
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError, WrongLoopError


def run_script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_a_cache_made_without_a_loop_opens_itself_at_first_use(url: str) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        threads = threading.active_count()

        async def use() -> None:
            assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
            assert threading.active_count() == threads
            await cache.aclose()

        asyncio.run(use())

    run_in_thread(work)


async def test_making_a_cache_starts_no_task_and_connects_nowhere(url: str, plain: valkey.Valkey) -> None:
    before = plain.info("clients")["connected_clients"]
    tasks = asyncio.all_tasks()
    AgentCache.from_url(url)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert plain.info("clients")["connected_clients"] == before


def test_use_from_another_loop_is_refused_while_the_first_is_open(url: str) -> None:
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


def test_a_second_run_starts_anew_and_believes_valkey_and_not_its_memory(url: str, plain: valkey.Valkey) -> None:
    def work() -> None:
        cache = AgentCache.from_url(url)
        asyncio.run(cache.llm.store(HELLO, "x"))
        assert asyncio.run(cache.llm.check(HELLO)).source == "l2"
        plain.flushall()
        assert not asyncio.run(cache.llm.check(HELLO)).hit

    run_in_thread(work)


def test_memory_alone_is_believed_by_a_second_run() -> None:
    def work() -> None:
        cache = AgentCache.in_memory()
        asyncio.run(cache.llm.store(HELLO, "x"))
        assert asyncio.run(cache.llm.check(HELLO)).source == "l1"

    run_in_thread(work)


def test_what_was_loaded_is_in_valkey_when_asyncio_run_ends(url: str, plain: valkey.Valkey) -> None:
    """Nobody closes the cache, and the run ends in the step in which the fill was queued."""

    async def use(cache: AgentCache) -> None:
        await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), lambda: "x") for n in range(300)))

    run_in_thread(lambda: asyncio.run(use(AgentCache.from_url(url))))
    assert len(entry_keys(plain)) == 300


async def test_closing_right_after_a_load_loses_nothing(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url) as cache:
        await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), lambda: "x") for n in range(300)))
    assert len(entry_keys(plain)) == 300
    assert cache.local_stats().queued_write_count == 0


async def test_closing_waits_for_a_load_under_way(url: str, plain: valkey.Valkey) -> None:
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


def test_a_loop_that_ends_while_the_cache_is_being_closed_loses_nothing(url: str, plain: valkey.Valkey) -> None:
    """As by Ctrl-C during the closing: every task is cancelled, that of the closing among them."""

    async def use(cache: AgentCache) -> None:
        await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), lambda: "x") for n in range(300)))
        closing = asyncio.ensure_future(cache.aclose())
        await asyncio.sleep(0)
        assert not closing.done()

    run_in_thread(lambda: asyncio.run(use(AgentCache.from_url(url))))
    assert len(entry_keys(plain)) == 300


async def test_a_load_that_the_closing_waits_for_may_still_ask_the_cache(url: str, plain: valkey.Valkey) -> None:
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


async def test_a_load_that_does_not_heed_its_cancellation_does_not_hold_up_the_closing(url: str) -> None:
    cache = AgentCache.from_url(url, resilience=ResilienceOptions(drain_timeout=0.05))
    release = asyncio.Event()

    async def stubborn() -> str:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return "x"

    loading = asyncio.create_task(cache.llm.get_or_load(HELLO, stubborn))
    await asyncio.sleep(0.02)
    async with asyncio.timeout(10):
        await cache.aclose()
    with pytest.raises(UsageError, match="closed while"):
        await loading
    release.set()
    await turns()


async def test_two_may_close_at_once_and_one_be_cancelled(url: str) -> None:
    cache = AgentCache.from_url(url)
    await cache.open()
    first, second = asyncio.create_task(cache.aclose()), asyncio.create_task(cache.aclose())
    await asyncio.sleep(0)
    first.cancel()
    await second
    await asyncio.gather(first, return_exceptions=True)


async def test_many_first_uses_at_once_open_one_cache(url: str, plain: valkey.Valkey) -> None:
    cache = AgentCache.from_url(url)
    results = await asyncio.gather(*(cache.llm.check(HELLO) for _ in range(50)))
    assert not any(result.hit or result.degraded for result in results)
    await cache.aclose()


async def test_a_cancelled_opening_does_not_spoil_the_next_use(url: str) -> None:
    cache = AgentCache.from_url(url)
    task = asyncio.create_task(cache.open())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not (await cache.llm.check(HELLO)).degraded
    await cache.aclose()


async def test_who_shares_an_opening_is_not_cancelled_with_the_one_who_began_it(
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


async def test_many_caches_live_side_by_side(make_cache: Callable[..., AgentCache]) -> None:
    one, other = make_cache(name="one"), make_cache(name="other")
    await one.llm.store(HELLO, "one")
    await other.llm.store(HELLO, "other")
    assert await one.llm.clear() == 1
    one.clear_l1()
    other.clear_l1()
    assert not (await one.llm.check(HELLO)).hit
    assert (await other.llm.check(HELLO)).response == "other"


async def test_the_callers_client_is_left_alone(url: str) -> None:
    for decode in (False, True):
        async with valkey.asyncio.Valkey.from_url(url, decode_responses=decode) as client:
            async with AgentCache(client, name="own") as cache:
                await cache.llm.store(HELLO, "é")
                cache.clear_l1()
                assert (await cache.llm.check(HELLO)).response == "é"
            assert await client.ping()


async def test_an_unreachable_server_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with AgentCache.from_url(f"unix://{tmp_path}/nobody.sock") as cache:
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


async def test_an_unreachable_server_is_an_error_where_it_is_required(tmp_path: Path) -> None:
    cache = AgentCache.from_url(f"unix://{tmp_path}/nobody.sock", require_l2=True)
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
            # A fork within a running loop: the child takes a loop of its own, as multiprocessing's children do.
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
def test_a_forked_process_has_connections_of_its_own_and_leaves_its_parents(url: str) -> None:
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


def test_a_short_script_pays_once_and_ends_without_a_warning(url: str) -> None:
    done = run_script(SHORT_SCRIPT, url)
    assert done.stdout.split() == ["loader", "l2"], done.stderr
    assert run_script(SHORT_SCRIPT, url).stdout.split() == ["l2", "l2"]
    assert done.stderr == ""


INTERRUPTED = """
    import asyncio, signal, sys
    from tiercache import AgentCache
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored, where the tests run in the background.
    cache = AgentCache.from_url(sys.argv[1])

    async def main():
        await cache.llm.get_or_load({"model": "m", "messages": []}, lambda: "x")
        print("ready", flush=True)
        await cache.llm.get_or_load({"model": "n", "messages": []}, lambda: asyncio.sleep(60))

    asyncio.run(main())
"""


def test_ctrl_c_ends_a_script_with_a_load_under_way(url: str, plain: valkey.Valkey) -> None:
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
