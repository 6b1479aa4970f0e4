"""``session.get_or_load``: derived fields, loaded once for concurrent callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.requests import Loader
from tests.seams import HeldReads, HeldWrites, any_write, internals
from tests.support import MakeCache, entry_keys, until
from tests.tiers.session.threads import ttl_left_ms
from tiercache import AgentCache, CoherenceOptions, ResilienceOptions, UsageError


async def test_session_load_coalesces_concurrent_callers(either: AgentCache) -> None:
    loader = Loader("derived", held=True)
    waiting = [asyncio.create_task(either.session.get_or_load("t", "a", loader)) for _ in range(20)]  # type: ignore[arg-type]
    await loader.started.wait()
    loader.release()
    assert await asyncio.gather(*waiting) == ["derived"] * 20
    assert loader.calls == 1
    assert await either.session.get_or_load("t", "a", lambda: "again") == "derived"
    assert await either.session.get("t", "a", fresh=True) == "derived"
    assert await either.session.get_all("t") == {"a": "derived"}
    counters = either.local_stats().tiers["session"]
    assert (counters.loads, counters.misses, counters.coalesced) == (1, 20, 19)
    assert (either.session.reads, either.session.writes) == (22, 1)


async def test_session_load_returns_after_value_is_in_valkey(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.get_or_load("t", "a", lambda: "x", ttl=10)
    assert plain.get("test:session:t:a") == b"x"
    assert 9000 < ttl_left_ms(plain, "a") <= 10_000
    assert plain.hgetall("test:__tc:thread:t") == {b"a": b"10000"}
    plain.pexpire("test:session:t:a", 4000)
    cache.clear_l1()
    assert await cache.session.get_or_load("t", "a", lambda: "y") == "x"
    await cache.flush_writes()
    assert 9000 < ttl_left_ms(plain, "a") <= 10_000


@pytest.mark.parametrize("change", ["set", "delete", "destroy_thread"])
async def test_session_load_is_unstored_after_change_during_load(either: AgentCache, change: str) -> None:
    loader = Loader("older", held=True)
    waiting = asyncio.create_task(either.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    if change == "set":
        await either.session.set("t", "a", "newer")
    elif change == "delete":
        await either.session.delete("t", "a")
    else:
        await either.session.destroy_thread("t")
    loader.release()
    assert await waiting == "older"
    expected = "newer" if change == "set" else None
    assert await either.session.get("t", "a") == expected
    assert await either.session.get("t", "a", fresh=True) == expected
    assert either.local_stats().tiers["session"].overtaken == 1


async def test_session_load_is_deleted_by_change_queued_behind_its_fill(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        held = HeldWrites(patch, any_write)
        loading = asyncio.create_task(cache.session.get_or_load("t", "a", lambda: "older"))
        await held.sending.wait()
        deleting = asyncio.create_task(cache.session.delete("t", "a"))
        await asyncio.sleep(0)
        held.release.set()
        assert await loading == "older"
        assert await deleting
    assert await cache.session.get("t", "a") is None
    assert await cache.session.get("t", "a", fresh=True) is None


@pytest.mark.parametrize("change", ["set", "delete", "incr", "destroy_thread"])
async def test_session_load_is_unstored_when_it_ends_during_change_in_flight(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = cache.session
    loader = Loader("1", held=True)
    waiting = asyncio.create_task(session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    calls: dict[str, Callable[[], Any]] = {
        "set": lambda: session.set("t", "a", "7"),
        "delete": lambda: session.delete("t", "a"),
        "incr": lambda: session.incr("t", "a", 7),
        "destroy_thread": lambda: session.destroy_thread("t"),
    }
    with monkeypatch.context() as patch:
        held = HeldWrites(patch, any_write)
        changing = asyncio.create_task(calls[change]())
        await held.sending.wait()
        loader.release()
        assert await waiting == "1"
        held.release.set()
        await changing
    expected = "7" if change in ("set", "incr") else None
    assert await session.get("t", "a") == expected
    assert await session.get("t", "a", fresh=True) == expected


async def test_session_load_keeps_value_set_by_other_process(cache: AgentCache, make_cache: MakeCache) -> None:
    loader = Loader("older", held=True)
    waiting = asyncio.create_task(cache.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    await make_cache(name="test").session.set("t", "a", "newer")
    loader.release()
    assert await waiting == "older"
    assert await cache.session.get("t", "a") == "newer"


async def test_session_load_keeps_foreign_value_after_server_invalidation(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    loader = Loader("loaded", held=True)
    waiting = asyncio.create_task(cache.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    plain.set("test:session:t:a", "foreign")
    await until(lambda: not internals(cache).is_joinable("test:session:t:a"))
    loader.release()
    assert await waiting == "loaded"
    assert await cache.session.get("t", "a") == "foreign"
    assert plain.get("test:session:t:a") == b"foreign"


async def test_session_load_breaks_older_read_in_flight(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without tracking the process receives no invalidation for the foreign value, so that the load replaces it.
    on_valkey = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    loader = Loader("loaded", held=True)
    waiting = asyncio.create_task(on_valkey.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    plain.set("test:session:t:a", "foreign")
    with monkeypatch.context() as patch:
        reads = HeldReads(patch)
        reading = asyncio.create_task(on_valkey.session.get("t", "a"))
        await reads.answered.wait()
        loader.release()
        assert await waiting == "loaded"
        reads.release.set()
        assert await reading == "foreign"
    assert await on_valkey.session.get("t", "a") == "loaded"


async def test_session_load_raises_loader_error_in_every_waiter(either: AgentCache) -> None:
    loader = Loader(RuntimeError("no"), held=True)
    waiting = [asyncio.create_task(either.session.get_or_load("t", "a", loader)) for _ in range(3)]  # type: ignore[arg-type]
    await loader.started.wait()
    loader.release()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no"] * 3
    assert await either.session.get_all("t") == {}


async def test_session_load_lets_loader_load_its_own_field(either: AgentCache) -> None:
    async def outer() -> str:
        return "outer " + await either.session.get_or_load("t", "a", lambda: "inner")

    async with asyncio.timeout(10):
        assert await either.session.get_or_load("t", "a", outer) == "outer inner"
    assert await either.session.get("t", "a", fresh=True) == "outer inner"


@pytest.mark.parametrize("loader", ["text", None, lambda key: "x", lambda a, b: "x"])
async def test_session_load_refuses_bad_loader(either: AgentCache, loader: Any) -> None:
    with pytest.raises(UsageError, match="loader"):
        await either.session.get_or_load("t", "a", loader)
    assert await either.session.get_all("t") == {}


async def test_session_load_that_times_out_stores_nothing(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(load_timeout=0.05))
    with pytest.raises(TimeoutError, match="load_timeout"):
        await cache.session.get_or_load("t", "a", lambda: asyncio.sleep(60))
    assert entry_keys(plain) == []
