"""``invalidates``: entries are dropped before and after a change of the source data, and none is stored in between."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.requests import HELLO
from tests.seams import without_bar
from tests.support import MakeCache, until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.embedded import EmbeddedValkey


async def test_bar_drops_entry_during_change_and_after_it(cache: AgentCache) -> None:
    await cache.kv.set("k", "old")
    async with cache.kv.invalidates("k"):
        assert await cache.kv.get("k") is None
    assert await cache.kv.get("k") is None


async def load_during_change(cache: AgentCache) -> None:
    async with cache.kv.invalidates("k"):
        result = await cache.kv.get_or_load("k", lambda: "old")
        assert (result.value, result.source) == ("old", "loader")
        assert await cache.kv.get("k") is None


async def test_bar_keeps_load_during_change_out_of_both_levels(cache: AgentCache) -> None:
    await load_during_change(cache)
    assert await cache.kv.get("k") is None


async def test_bar_removed_stores_load_during_change(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    without_bar(monkeypatch)
    with pytest.raises(AssertionError):
        await load_during_change(cache)


async def test_bar_drops_store_of_other_process_during_change(make_cache: MakeCache) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    async with cache.tool.invalidates("t", {"a": 1}):
        await other.tool.get_or_load("t", {"a": 1}, lambda: "old")
        await other.flush_writes()
        assert (await other.tool.check("t", {"a": 1})).hit
    assert not (await cache.tool.check("t", {"a": 1})).hit

    async def is_received() -> bool:
        return not (await other.tool.check("t", {"a": 1})).hit

    await until(is_received)


async def test_bar_keeps_load_that_outlives_change_unstored(cache: AgentCache) -> None:
    loading, release = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        loading.set()
        await release.wait()
        return "old"

    async with cache.llm.invalidates(HELLO):
        waiter = asyncio.create_task(cache.llm.get_or_load(HELLO, load))
        await loading.wait()
    release.set()
    assert (await waiter).response == "old"
    assert not (await cache.llm.check(HELLO)).hit


async def test_bar_drops_entries_when_change_raises(cache: AgentCache) -> None:
    await cache.kv.set("k", "old", tags=["t"])

    @cache.invalidates("t")
    async def change() -> None:
        await cache.kv.set("other", "old", tags=["t"])
        raise RuntimeError("half done")

    with pytest.raises(RuntimeError, match="half done"):
        await change()
    assert await cache.kv.get("k") is None
    assert await cache.kv.get("other") is None


async def test_bar_keeps_load_during_a_decorated_change_that_raises_out_of_both_levels(
    make_cache: MakeCache, cache: AgentCache
) -> None:
    other = make_cache(name="test")
    await cache.kv.set("k", "old")
    await other.kv.get("k")

    @cache.kv.invalidates("k")
    async def change() -> None:
        assert (await cache.kv.get_or_load("k", lambda: "old")).source == "loader"
        await other.kv.get_or_load("k", lambda: "old")
        await other.flush_writes()
        raise RuntimeError("half done")

    with pytest.raises(RuntimeError, match="half done"):
        await change()
    assert await cache.kv.get("k") is None
    cache.clear_l1()
    assert await cache.kv.get("k") is None

    async def is_received() -> bool:
        return await other.kv.get("k") is None

    await until(is_received)


async def test_bar_drops_entries_when_change_is_cancelled(cache: AgentCache) -> None:
    begun = asyncio.Event()

    async def change() -> None:
        async with cache.kv.invalidates("k"):
            await cache.kv.set("k", "old")
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(change())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.kv.get("k") is None


async def test_bar_decorator_names_entries_by_call_arguments(cache: AgentCache) -> None:
    await cache.tool.store("get_user", {"id": 7}, "old", tags=["user:7"])
    await cache.tool.store("get_user", {"id": 8}, "kept", tags=["user:8"])
    await cache.kv.set("7", "old")

    @cache.invalidates(lambda user, name: f"user:{user}")
    @cache.kv.invalidates(lambda user, name: str(user))
    async def rename(user: int, name: str) -> str:
        """Rename."""
        return name

    assert await rename(7, name="new") == "new"
    assert (rename.__name__, rename.__doc__) == ("rename", "Rename.")
    assert not (await cache.tool.check("get_user", {"id": 7})).hit
    assert await cache.kv.get("7") is None
    assert (await cache.tool.check("get_user", {"id": 8})).hit


async def test_bar_is_reentrant_for_concurrent_changes(cache: AgentCache) -> None:
    around = cache.kv.invalidates("k")

    async def change() -> None:
        async with around:
            await asyncio.sleep(0)
            assert (await cache.kv.get_or_load("k", lambda: "old")).source == "loader"

    await asyncio.gather(*[change() for _ in range(5)])
    assert await cache.kv.get("k") is None
    await cache.kv.get_or_load("k", lambda: "new")
    assert await cache.kv.get("k") == "new"


async def test_bar_makes_change_and_raises_while_valkey_is_unavailable(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    async with AgentCache.from_url(server.url, resilience=ResilienceOptions(l2_timeout=0.1)) as cache:
        await cache.open()
        os.kill(pid, signal.SIGSTOP)
        made = []
        with pytest.raises(L2UnavailableError):
            async with cache.kv.invalidates("k"):
                made.append(1)
        with pytest.raises(RuntimeError, match="mine"):
            async with cache.kv.invalidates("k"):
                raise RuntimeError("mine")
        assert made
        os.kill(pid, signal.SIGCONT)


async def test_bar_refuses_bad_arguments(cache: AgentCache) -> None:
    with pytest.raises(UsageError):
        cache.kv.invalidates("")
    with pytest.raises(UsageError):
        cache.tool.invalidates("a:b", {})
    with pytest.raises(UsageError):
        cache.llm.invalidates({})
    with pytest.raises(UsageError):
        cache.invalidates("")
    with pytest.raises(UsageError):
        cache.kv.invalidates("k")(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError):
        async with cache.kv.invalidates(lambda key: key):
            pass
