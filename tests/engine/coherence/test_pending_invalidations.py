"""Pending invalidations: until Valkey acknowledges a retry, the process reads no value that may be stale from it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, asking, turns
from tests.seams import HeldWrites, in_l1, internals
from tests.support import UNTRACKED, MakeCache, until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

# The breaker stays closed, so that a miss can only be due to the pending invalidation.
PATIENT = ResilienceOptions(l2_timeout=0.3, breaker_failures=1000, breaker_pause=0.8)

READS: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "kv": lambda cache: cache.kv.get("k"),
    "tool": lambda cache: _response(cache.tool.check("t", {})),
    "llm": lambda cache: _response(cache.llm.check(HELLO)),
    "other kv": lambda cache: cache.kv.get("other"),
    "other tool": lambda cache: _response(cache.tool.check("tt", {})),
    "other model": lambda cache: _response(cache.llm.check(asking("x", model="gpt-4o-mini"))),
}

CHANGES: dict[str, tuple[Callable[[AgentCache], Awaitable[Any]], set[str], set[str]]] = {
    # The change, the entries that it removes, and further entries that it hides until Valkey acknowledges it.
    "kv.delete": (lambda cache: cache.kv.delete("k"), {"kv"}, set()),
    "kv.delete_many": (lambda cache: cache.kv.delete_many(["k"]), {"kv"}, set()),
    "kv.clear": (lambda cache: cache.kv.clear(), {"kv", "other kv"}, set()),
    "kv.delete_pattern": (lambda cache: cache.kv.delete_pattern("k*"), {"kv"}, set()),
    "tool.invalidate": (lambda cache: cache.tool.invalidate("t", {}), {"tool"}, set()),
    "invalidate_by_tool": (lambda cache: cache.tool.invalidate_by_tool("t"), {"tool"}, set()),
    "tool.clear": (lambda cache: cache.tool.clear(), {"tool", "other tool"}, set()),
    "llm.invalidate": (lambda cache: cache.llm.invalidate(HELLO), {"llm"}, set()),
    "invalidate_by_model": (lambda cache: cache.llm.invalidate_by_model("gpt-4o"), {"llm"}, set()),
    "llm.clear": (lambda cache: cache.llm.clear(), {"llm", "other model"}, set()),
    "invalidate_tag": (
        lambda cache: cache.invalidate_tag("tag"),
        {"kv", "tool", "llm"},
        {"other kv", "other tool", "other model"},
    ),
}


async def _response(result: Awaitable[Any]) -> Any:
    return (await result).response


async def fill(cache: AgentCache) -> None:
    await cache.kv.set("k", "older", tags=["tag"])
    await cache.kv.set("other", "older")
    await cache.tool.store("t", {}, "older", tags=["tag"])
    await cache.tool.store("tt", {}, "older")
    await cache.llm.store(HELLO, "older", tags=["tag"])
    await cache.llm.store(asking("x", model="gpt-4o-mini"), "older")
    await cache.session.set("thread", "field", "older")


async def read(cache: AgentCache) -> set[str]:
    """Return the names of the entries that a read finds in Valkey."""
    cache.clear_l1()
    return {name for name, look in READS.items() if await look(cache) == "older"}


@pytest.fixture
async def cache(proxy: ChaosProxy) -> AsyncIterator[AgentCache]:
    """Return a filled cache behind a proxy."""
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=PATIENT) as cache:
        await fill(cache)
        yield cache


def cut(proxy: ChaosProxy) -> None:
    """Cut the connections for commands, so that no later command reaches the server."""
    proxy.refuse()
    proxy.kill(lane="commands")


@pytest.mark.parametrize("change", CHANGES)
async def test_pending_invalidation_hides_value_in_valkey(cache: AgentCache, proxy: ChaosProxy, change: str) -> None:
    make, removed, hidden = CHANGES[change]
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await make(cache)
    proxy.refuse(False)
    assert await read(cache) == READS.keys() - removed - hidden
    # The retry is acknowledged, and Valkey is read again.
    await until(lambda: not internals(cache).has_pending_invalidations)
    assert await read(cache) == READS.keys() - removed


@pytest.mark.parametrize("change", CHANGES)
async def test_pending_invalidation_is_settled_when_caller_repeats_it(proxy: ChaosProxy, change: str) -> None:
    # The cache itself would retry only after a minute.
    patient = ResilienceOptions(l2_timeout=0.3, breaker_failures=1000, breaker_pause=60)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=patient) as cache:
        await fill(cache)
        cut(proxy)
        with pytest.raises(L2UnavailableError):
            await CHANGES[change][0](cache)
        assert internals(cache).has_pending_invalidations
        proxy.refuse(False)
        await CHANGES[change][0](cache)
        assert not internals(cache).has_pending_invalidations


@pytest.mark.parametrize("change", CHANGES)
async def test_pending_invalidation_is_announced_after_retry(
    cache: AgentCache, proxy: ChaosProxy, make_cache: MakeCache, change: str
) -> None:
    make, removed, _ = CHANGES[change]
    replica = make_cache(name="test", coherence=UNTRACKED)
    await replica.open()
    assert await read(replica) == READS.keys()
    keys = {
        "kv": "test:__tc:kv:kv:k",
        "tool": (await replica.tool.check("t", {})).key,
        "llm": (await replica.llm.check(HELLO)).key,
    }
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await make(cache)
    assert all(in_l1(replica, key) for key in keys.values())
    proxy.refuse(False)
    await until(lambda: not any(in_l1(replica, key) for name, key in keys.items() if name in removed))
    assert await read(replica) == READS.keys() - removed


@pytest.mark.parametrize("change", CHANGES)
async def test_pending_invalidation_is_given_up_on_close(
    url: str, plain: valkey.Valkey, proxy: ChaosProxy, change: str
) -> None:
    options = ResilienceOptions(l2_timeout=0.2, breaker_failures=1000, breaker_pause=0.05, drain_timeout=0.3)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=options) as cache:
        await fill(cache)
        cut(proxy)
        with pytest.raises(L2UnavailableError):
            await CHANGES[change][0](cache)
    # The leak check after each test fails if the retry task still runs.
    assert plain.exists("test:__tc:kv:kv:k")


async def test_pending_invalidation_of_tag_leaves_sessions_readable(cache: AgentCache, proxy: ChaosProxy) -> None:
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.invalidate_tag("tag")
    proxy.refuse(False)
    cache.clear_l1()
    # Sessions are state and not a cache: a miss would be a wrong answer.
    assert await cache.session.get("thread", "field") == "older"


async def test_pending_invalidation_never_retries_session_change(
    cache: AgentCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.session.delete("thread", "field")
    with pytest.raises(L2UnavailableError):
        await cache.session.destroy_thread("thread")
    proxy.refuse(False)
    assert not internals(cache).has_pending_invalidations
    assert plain.get("test:session:thread:field") == b"older"


async def test_pending_invalidation_breaks_load_begun_before_it(
    cache: AgentCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await release.wait()
        return "from before"

    loading = asyncio.create_task(cache.kv.get_or_load("new", load))
    await started.wait()
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.kv.delete("new")
    release.set()
    assert (await loading).value == "from before"
    assert not in_l1(cache, "test:__tc:kv:kv:new")
    proxy.refuse(False)
    await until(lambda: not internals(cache).has_pending_invalidations)
    await cache.flush_writes()
    assert await cache.kv.get("new") is None


async def test_pending_invalidation_keeps_later_load_in_l1(cache: AgentCache, proxy: ChaosProxy) -> None:
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.kv.delete("k")
    proxy.refuse(False)
    result = await cache.kv.get_or_load("k", lambda: "newer")
    assert (result.source, result.value) == ("loader", "newer")
    assert (await cache.kv.get_or_load("k", lambda: "newest")).value == "newer"
    await until(lambda: not internals(cache).has_pending_invalidations)
    cache.clear_l1()
    assert await cache.kv.get("k") != "older"


async def test_pending_invalidation_is_settled_by_later_store(cache: AgentCache, proxy: ChaosProxy) -> None:
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.kv.delete("k")
    proxy.refuse(False)
    await cache.kv.set("k", "newer")
    assert not internals(cache).has_pending_invalidations
    cache.clear_l1()
    assert await cache.kv.get("k") == "newer"
    # The retry that finds nothing left to do does not delete the stored value.
    task = internals(cache).retry_task
    assert task is not None
    await asyncio.wait([task])
    assert await read_from_l2(cache) == "newer"


async def test_pending_invalidation_retry_keeps_store_in_flight(
    cache: AgentCache, proxy: ChaosProxy, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(proxy)
    for key in ("k", "other"):
        with pytest.raises(L2UnavailableError):
            await cache.kv.delete(key)
    proxy.refuse(False)
    held = HeldWrites(monkeypatch)
    storing = asyncio.create_task(cache.kv.set("k", "newer"))
    await held.sending.wait()
    retrying = asyncio.create_task(internals(cache).retry_pending_invalidations())
    await turns()
    held.release.set()
    await asyncio.gather(storing, retrying)
    assert not internals(cache).has_pending_invalidations
    assert plain.get("test:__tc:kv:kv:k") == b"snewer"
    assert not plain.exists("test:__tc:kv:kv:other")


async def read_from_l2(cache: AgentCache) -> Any:
    cache.clear_l1()
    return await cache.kv.get("k")


# A server that hangs


@pytest.mark.parametrize("change", ["kv.delete", "invalidate_by_tool", "invalidate_by_model", "invalidate_tag"])
async def test_pending_invalidation_hides_value_until_hung_server_acknowledges_retry(
    own_server: tuple[EmbeddedValkey, int], change: str
) -> None:
    server, pid = own_server
    make, removed, _ = CHANGES[change]
    options = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.2)
    async with (
        AgentCache.from_url(server.url, name="test", coherence=UNTRACKED, resilience=options) as cache,
        AgentCache.from_url(server.url, name="test", coherence=UNTRACKED, resilience=options) as replica,
    ):
        await fill(cache)
        assert await read(replica) == READS.keys()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(L2UnavailableError):
                await cache.kv.set("breaks the connection", "x")
            with pytest.raises(L2UnavailableError):
                await make(cache)
            assert not removed & await read(cache)
        finally:
            os.kill(pid, signal.SIGCONT)
        give_up_at = time.monotonic() + 3
        while removed & await read(replica):
            assert not removed & await read(cache)
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.02)
        assert not removed & await read(cache)
        await until(lambda: not internals(cache).has_pending_invalidations)
