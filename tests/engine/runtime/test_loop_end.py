"""The end of a loop that the program drives by hand, and of a cache that the program drops."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Final

import pytest
import valkey

from tests.support import entry_keys

_HEAD: Final = """
    import asyncio, gc, os, sys
    from tiercache import *
    P = {"model": "m", "messages": []}

    def make(name="test", **options):
        return AgentCache.from_url(sys.argv[1], name=name, **options)
"""


def run(code: str, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, which must succeed."""
    script = textwrap.dedent(_HEAD) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, *flags, "-c", script, url], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done


def assert_quiet(done: subprocess.CompletedProcess[str], *lines: str) -> None:
    assert done.stderr == ""
    assert done.stdout.splitlines() == list(lines)


STRICT: Final = ("-W", "error")
OPTIONS: Final = {
    "default": "",
    "untracked": "coherence=CoherenceOptions(tracking='off')",
    "plain connections": "connection=ConnectionOptions(multiplexed=False)",
    "without leases": "llm=TierOptions(lease=False)",
    "write-behind": "writes=WriteOptions(mode='behind', max_delay=1)",
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@options
@pytest.mark.parametrize("length", [10, 8_000_000], ids=["short", "long"])
def test_answer_is_stored_when_the_loop_is_closed_by_hand(
    url: str, plain: valkey.Valkey, options: str, length: int
) -> None:
    # A long answer does not fit into the buffers of the socket: a part of it waits for the loop.
    code = f"""
    cache = make({options})
    loop = asyncio.new_event_loop()
    print(loop.run_until_complete(cache.llm.get_or_load(P, lambda: "x" * {length})).source)
    loop.close()
    """
    assert_quiet(run(code, url, *STRICT), "loader")
    (key,) = entry_keys(plain)
    assert plain.strlen(key) >= length
    assert not plain.exists("__betterdb:heartbeat:test")


@options
def test_answer_is_stored_when_the_process_ends_without_closing_the_loop(
    url: str, plain: valkey.Valkey, options: str
) -> None:
    code = f"""
    cache = make({options})
    loop = asyncio.new_event_loop()
    print(loop.run_until_complete(cache.llm.get_or_load(P, lambda: "x" * 8_000_000)).source)
    """
    assert_quiet(run(code, url), "loader")
    (key,) = entry_keys(plain)
    assert plain.strlen(key) >= 8_000_000


def test_store_behind_is_sent_when_the_loop_is_closed_by_hand(url: str, plain: valkey.Valkey) -> None:
    code = """
    cache = make(writes=WriteOptions(mode="behind", max_delay=1))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(cache.llm.store(P, "x"))
    loop.close()
    """
    assert_quiet(run(code, url, *STRICT))
    assert len(entry_keys(plain)) == 1


def test_load_in_progress_is_cancelled_when_the_loop_is_closed_by_hand(url: str, plain: valkey.Valkey) -> None:
    code = """
    cache = make(resilience=ResilienceOptions(drain_timeout=1000))
    loop = asyncio.new_event_loop()

    async def slow():
        started.set()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            print("cancelled")
            raise

    async def ask():
        # The load of an llm entry goes on without its caller.
        global started
        started = asyncio.Event()
        asking = asyncio.ensure_future(cache.llm.get_or_load(P, slow))
        await started.wait()
        asking.cancel()
        await asyncio.wait([asking])

    loop.run_until_complete(ask())
    loop.close()
    """
    assert_quiet(run(code, url, *STRICT), "cancelled")
    assert entry_keys(plain) == []


def test_several_caches_of_several_loops_end_quietly(url: str, plain: valkey.Valkey) -> None:
    code = """
    caches = [make(f"c{number}") for number in range(3)]
    for answer in ("loader", "l2"):
        loop = asyncio.new_event_loop()
        for cache in caches:
            print(loop.run_until_complete(cache.llm.get_or_load(P, lambda: "x")).source)
        loop.close()
        loop.close()
        assert loop.is_closed()
    """
    assert_quiet(run(code, url, *STRICT), *["loader"] * 3, *["l2"] * 3)


def test_closing_a_loop_does_not_wait_longer_than_the_drain_for_a_silent_valkey(url: str) -> None:
    code = """
    import signal, subprocess, time
    loop = asyncio.new_event_loop()
    cache = AgentCache.embedded(name="test", resilience=ResilienceOptions(drain_timeout=0.2))

    async def begin():
        await cache.open()
        import valkey.asyncio
        async with valkey.asyncio.Valkey.from_url(cache._parts.shared.server.url) as client:
            return (await client.info("server"))["process_id"]

    pid = loop.run_until_complete(begin())
    os.kill(pid, signal.SIGSTOP)
    print(loop.run_until_complete(cache.llm.get_or_load(P, lambda: "x")).source)
    loop.close()
    print(loop.is_closed())
    os.kill(pid, signal.SIGCONT)
    """
    assert run(code, url).stdout.split() == ["loader", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_end_of_a_forked_process_leaves_the_connections_of_its_parent(url: str) -> None:
    code = """
    cache = make()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(cache.llm.store(P, "x"))
    pid = os.fork()
    if not pid:
        import atexit
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    import valkey
    with valkey.Valkey.from_url(sys.argv[1]) as plain:
        print(plain.exists("__betterdb:heartbeat:test"))
    cache.clear_l1()
    print(loop.run_until_complete(cache.llm.check(P)).source)
    loop.close()
    """
    assert_quiet(run(code, url), "1", "l2")


def test_dropped_cache_warns_with_its_name(url: str) -> None:
    code = """
    import warnings
    warned, show = [], warnings.showwarning
    warnings.showwarning = lambda *warning: (warned.append(warning), show(*warning))

    async def main():
        for number in range(20):
            cache = make(f"dropped{number}")
            await cache.llm.check(P)
        kept = make("closed")
        await kept.open()
        await kept.aclose()
        unused, memory = make("unused"), AgentCache.in_memory(name="memory")
        await memory.llm.check(P)
        del cache, kept, unused, memory
        gc.collect()
        while len(warned) < 20:
            await asyncio.sleep(0.01)
        print("end", file=sys.stderr)

    asyncio.run(main())
    """
    warned, end, after = run(code, url, "-W", "always::ResourceWarning").stderr.partition("end\n")
    assert end
    for number in range(20):
        assert f"cache 'dropped{number}' was dropped without aclose()" in warned
    assert warned.count("was dropped") == 20
    for name in ("closed", "unused", "memory"):
        assert f"'{name}'" not in warned
    # The end of the loop closes the connections of the dropped caches: no transport is left to warn about.
    assert after == ""


def test_cache_that_is_dropped_as_its_loop_ends_causes_no_warning(url: str, plain: valkey.Valkey) -> None:
    code = """
    async def main():
        cache = make()
        print((await cache.llm.get_or_load(P, lambda: "x")).source)

    asyncio.run(main())
    asyncio.run(main())
    """
    assert_quiet(run(code, url, *STRICT), "loader", "l2")


def test_refused_cache_is_dropped_without_a_warning(url: str) -> None:
    code = """
    for name in ("", "__x"):
        try:
            make(name)
        except UsageError:
            print("refused")
    gc.collect()
    """
    assert_quiet(run(code, url, *STRICT), "refused", "refused")
