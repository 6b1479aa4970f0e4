"""The null cache: no entry is stored, every load runs, state stays, no socket is opened."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from tests.requests import HELLO, Loader, load_llm
from tiercache import AgentCache, L1Options, StoreEvent, TierOptions, UsageError

# Prints each socket that connects, binds or resolves a name. The event loop has a pair of sockets for itself.
_USE = """
import asyncio, sys

opened = []
sys.addaudithook(lambda name, args: opened.append(name) if name in SOCKETS else None)
SOCKETS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")
from tiercache import AgentCache

async def use():
    async with AgentCache.{kind}() as cache:
        await cache.kv.set("a", 1)
        await cache.kv.get_or_load("a", lambda: 1)
        await cache.session.set("t", "f", "x")
        await cache.tool.invalidate_by_tool("t")
        await cache.stats()

asyncio.run(use())
with AgentCache.{kind}().sync as plain:
    plain.kv.get_or_load("a", lambda: 1)
import socket
connected = len(opened)
try:
    socket.create_connection(("127.0.0.1", 9), 0.1)
except OSError:
    pass
assert len(opened) > connected, "the check notices no connection"
print(opened[:connected])
"""


async def test_null_cache_misses_and_loads_each_time() -> None:
    async with AgentCache.null(l1=L1Options(max_entries=5), kv=TierOptions(ttl=60)) as cache:
        loader = Loader()
        for _ in range(2):
            assert (await cache.llm.get_or_load(HELLO, loader)).source == "loader"
            assert not (await cache.llm.check(HELLO)).hit
        assert loader.calls == 2
        await cache.llm.store(HELLO, "hi", tags=["red"])
        assert not (await cache.llm.check(HELLO)).hit
        await cache.tool.store("t", {"a": 1}, "x")
        assert not (await cache.tool.check("t", {"a": 1})).hit
        for tier in (cache.kv, cache.tier("notes", TierOptions(l1=True))):
            await tier.set_many({"a": 1, "b": 2})
            assert await tier.get_many(["a", "b"]) == {"a": None, "b": None}
            result = await tier.get_or_load("a", lambda: 3, tags=["red"])
            assert (result.value, result.source, result.ttl) == (3, "loader", None)
            assert await tier.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, 4)) == {"a": 4, "b": 4}
            assert not await tier.exists("a")
            assert not await tier.delete("a")
        assert await cache.invalidate_tag("red") == 0
        assert await cache.flush() == 0
        stats = cache.local_stats()
        assert stats.l1_entry_count == 0
        assert sum(counters.stored_bytes for counters in stats.tiers.values()) == 0


async def test_null_cache_shares_a_load_among_concurrent_callers() -> None:
    async with AgentCache.null() as cache:
        loader = Loader(held=True)
        callers = [load_llm(cache, loader) for _ in range(3)]
        await loader.started.wait()
        loader.release()
        assert [result.response for result in await asyncio.gather(*callers)] == ["answer"] * 3
        assert loader.calls == 1


async def test_null_cache_calls_a_decorated_function_each_time_and_makes_no_store_event() -> None:
    async with AgentCache.null() as cache:
        stores: list[StoreEvent] = []
        cache.on_store(stores.append)
        calls = 0

        @cache.memoize
        async def double(number: int) -> int:
            nonlocal calls
            calls += 1
            return 2 * number

        assert [await double(2), await double(2)] == [4, 4]
        await cache.kv.set("a", 1)
        assert calls == 2
        assert stores == []


async def test_null_cache_keeps_session_state() -> None:
    async with AgentCache.null() as cache:
        await cache.session.set("t", "f", "x")
        assert await cache.session.get("t", "f") == "x"
        assert await cache.session.append("t", "list", 1) == 1
        loader = Loader()
        assert [await cache.session.get_or_load("t", "g", loader) for _ in range(2)] == ["answer"] * 2
        assert loader.calls == 1
        assert await cache.session.destroy_thread("t") == 3


async def test_null_cache_raises_the_same_errors() -> None:
    async with AgentCache.null() as cache:
        with pytest.raises(UsageError, match="ttl"):
            await cache.kv.set("a", 1, ttl=-1)
    with pytest.raises(UsageError, match="closed"):
        await cache.kv.get("a")


def test_null_cache_serves_plain_code() -> None:
    with AgentCache.null().sync as cache:
        values: Any = [cache.kv.get_or_load("a", lambda: [1]).source for _ in range(2)]
        assert values == ["loader", "loader"]
        cache.session.set("t", "f", "x")
        assert cache.session.get("t", "f") == "x"


@pytest.mark.parametrize("kind", ["null", "in_memory"])
def test_null_cache_and_cache_in_memory_open_no_sockets(kind: str) -> None:
    command = [sys.executable, "-c", _USE.replace("{kind}", kind)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("[]\n", "")
