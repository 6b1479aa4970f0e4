"""Invalidations that Valkey did not acknowledge: not believed in Valkey meanwhile, and repeated until they are done."""

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

# The breaker stays out of it: that nothing is read must be for the sake of the invalidation.
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
    # What it removes, and what it hides besides until it is settled.
    "kv.delete": (lambda cache: cache.kv.delete("k"), {"kv"}, set()),
    "kv.delete_many": (lambda cache: cache.kv.delete_many(["k"]), {"kv"}, set()),
    "kv.clear": (lambda cache: cache.kv.clear(), {"kv", "other kv"}, set()),
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
    """Return which of the entries are found, each in Valkey."""
    cache.clear_l1()
    return {name for name, look in READS.items() if await look(cache) == "older"}


@pytest.fixture
async def cache(proxy: ChaosProxy) -> AsyncIterator[AgentCache]:
    """A filled cache behind a proxy."""
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=PATIENT) as cache:
        await fill(cache)
        yield cache


def cut(proxy: ChaosProxy) -> None:
    """Cut all commands off, so that none of those to come reaches the server."""
    proxy.refuse()
    proxy.kill(lane="commands")


@pytest.mark.parametrize("change", CHANGES)
async def test_what_may_not_have_been_removed_is_not_read_from_valkey(
    cache: AgentCache, proxy: ChaosProxy, change: str
) -> None:
    make, removed, hidden = CHANGES[change]
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await make(cache)
    proxy.refuse(False)
    assert await read(cache) == READS.keys() - removed - hidden
    # Repeated, and believed again.
    await until(lambda: not internals(cache).has_pending_invalidations)
    assert await read(cache) == READS.keys() - removed


@pytest.mark.parametrize("change", CHANGES)
async def test_what_is_repeated_is_announced(
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
async def test_closing_gives_up_what_is_to_be_repeated(
    url: str, plain: valkey.Valkey, proxy: ChaosProxy, change: str
) -> None:
    options = ResilienceOptions(l2_timeout=0.2, breaker_failures=1000, breaker_pause=0.05, drain_timeout=0.3)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=options) as cache:
        await fill(cache)
        cut(proxy)
        with pytest.raises(L2UnavailableError):
            await CHANGES[change][0](cache)
    # That nothing is left running is seen to after each test.
    assert plain.exists("test:__tc:kv:kv:k")


async def test_sessions_are_read_while_an_invalidation_by_tag_is_to_be_repeated(
    cache: AgentCache, proxy: ChaosProxy
) -> None:
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.invalidate_tag("tag")
    proxy.refuse(False)
    cache.clear_l1()
    # State is no cache: no answer would be an error, and None a lie.
    assert await cache.session.get("thread", "field") == "older"


async def test_an_unacknowledged_change_of_a_session_is_not_repeated(
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


async def test_a_load_that_was_begun_before_an_unacknowledged_invalidation_is_stored_nowhere(
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


async def test_what_is_loaded_meanwhile_is_kept_in_memory(cache: AgentCache, proxy: ChaosProxy) -> None:
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


async def test_what_is_stored_meanwhile_settles_its_key(cache: AgentCache, proxy: ChaosProxy) -> None:
    cut(proxy)
    with pytest.raises(L2UnavailableError):
        await cache.kv.delete("k")
    proxy.refuse(False)
    await cache.kv.set("k", "newer")
    assert not internals(cache).has_pending_invalidations
    cache.clear_l1()
    assert await cache.kv.get("k") == "newer"
    # Nor is it deleted by a repetition that came to nothing.
    task = internals(cache).retry_task
    assert task is not None
    await asyncio.wait([task])
    assert await read_plainly(cache) == "newer"


async def test_a_repetition_does_not_remove_what_is_being_stored(
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
    repeating = asyncio.create_task(internals(cache).retry_pending_invalidations())
    await turns()
    held.release.set()
    await asyncio.gather(storing, repeating)
    assert not internals(cache).has_pending_invalidations
    assert plain.get("test:__tc:kv:kv:k") == b"snewer"
    assert not plain.exists("test:__tc:kv:kv:other")


async def read_plainly(cache: AgentCache) -> Any:
    cache.clear_l1()
    return await cache.kv.get("k")


# A server that hangs


@pytest.mark.parametrize("change", ["kv.delete", "invalidate_by_tool", "invalidate_by_model", "invalidate_tag"])
async def test_a_server_that_hung_is_not_believed_before_the_change_was_repeated(
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
