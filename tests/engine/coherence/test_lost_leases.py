"""Lost leases: a load whose lease another client replaced stores nothing; a lost reply leaves no lease behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from tests.engine.coherence.holders import KEY, is_leased, load, start_holder, wait_for_lease
from tests.requests import Loader, turns
from tests.seams import HeldReplies, LostReplies, cancel_loads_with_lease_reply, fail_next_fill, in_l1
from tests.support import UNTRACKED, MakeCache, Pair, until
from tiercache import AgentCache, CoherenceOptions
from tiercache.engine.level2.writes import Release, TakeLease


@pytest.mark.parametrize("many", [False, True])
async def test_lease_granted_after_cancellation_is_released(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    takes, loader = HeldReplies(monkeypatch, TakeLease), Loader()
    if many:
        loading: asyncio.Future[Any] = asyncio.ensure_future(cache.kv.get_or_load_many(["k"], lambda keys: ["v"]))
    else:
        loading = load(cache, loader)
    await takes.answered.wait()
    assert is_leased(plain)
    loading.cancel()
    await turns()
    takes.release.set()
    await until(lambda: plain.get(KEY) is None, seconds=2)
    assert loader.calls == 0


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("many", [False, True])
async def test_lease_granted_in_step_of_cancellation_is_released(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, many: bool, before: bool
) -> None:
    """The reply arrives in the same loop step in which the load is cancelled."""
    await cache.open()
    cancel_loads_with_lease_reply(monkeypatch, before=before)
    kv = cache.kv
    loading: Any = kv.get_or_load_many(["k"], lambda keys: ["v"]) if many else kv.get_or_load("k", Loader(held=True))
    with pytest.raises(asyncio.CancelledError):
        await loading
    await until(lambda: plain.get(KEY) is None, seconds=2)


# Changes that end the right to store


@pytest.mark.parametrize("tracking", ["off", "auto"])
@pytest.mark.parametrize("change", ["deleted", "replaced"])
async def test_lease_lost_to_other_client_keeps_load_out_of_both_levels(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any, change: str
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking=tracking))
    loader = Loader("older", held=True)
    loading = await start_holder(cache, loader)
    if change == "deleted":
        plain.delete(KEY)
    else:
        plain.set(KEY, b"snewer")
    loader.release()
    assert (await loading).value == "older"
    await cache.flush_writes()
    assert plain.get(KEY) == (None if change == "deleted" else b"snewer")
    assert not in_l1(cache, KEY)
    assert cache.local_stats().tiers["kv"].overtaken == 1
    assert await cache.kv.get("k") == (None if change == "deleted" else "newer")


async def test_lease_lost_before_refused_fill_keeps_later_value_in_l1(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost; before the process receives the reply, a later load stores a newer value."""
    cache = make_cache(name="test", coherence=UNTRACKED)
    first, second = Loader("older", held=True), Loader("newer", held=True)
    tasks = [await start_holder(cache, first)]
    tasks.append(await start_holder(cache, second, mode="refresh"))  # The refresh takes the lease over.
    placeholder = plain.get(KEY)
    plain.delete(KEY)
    replies = HeldReplies(monkeypatch, object)
    first.release()
    await replies.answered.wait()
    plain.set(KEY, placeholder)
    second.release()
    assert [(await task).value for task in tasks] == ["older", "newer"]
    replies.release.set()
    await cache.flush_writes()
    assert cache.local_stats().tiers["kv"].overtaken == 1
    assert plain.get(KEY) == b"snewer"
    assert in_l1(cache, KEY)
    assert await cache.kv.get("k") == "newer"


@pytest.mark.parametrize("tracking", ["off", "auto"])
async def test_lease_yields_to_explicit_write_of_other_process(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any
) -> None:
    a, b = (make_cache(name="test", coherence=CoherenceOptions(tracking=tracking)) for _ in range(2))
    loader = Loader("loaded", held=True)
    loading = await start_holder(a, loader)
    await b.kv.set("k", "stored")
    loader.release()
    assert (await loading).value == "loaded"
    await a.flush_writes()
    assert plain.get(KEY) == b"sstored"
    for cache in (a, b):
        assert await cache.kv.get("k") == "stored"
        cache.clear_l1()
        assert await cache.kv.get("k") == "stored"


@pytest.mark.parametrize("tracking", ["off", "auto"])
@pytest.mark.parametrize("change", [None, "replaced", "deleted"])
async def test_refresh_replaces_only_the_value_that_it_read(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any, change: str | None
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking=tracking))
    await cache.kv.set("k", "older")
    loader = Loader("refreshed", held=True)
    loading = await start_holder(cache, loader, mode="refresh")
    if change == "replaced":
        plain.set(KEY, b"sforeign")
    elif change == "deleted":
        plain.delete(KEY)
    loader.release()
    assert (await loading).value == "refreshed"
    await cache.flush_writes()
    expected = {None: "refreshed", "replaced": "foreign", "deleted": None}[change]
    assert plain.get(KEY) == (None if expected is None else f"s{expected}".encode())
    await until(lambda: tracking == "off" or change is None or not in_l1(cache, KEY))
    assert await cache.kv.get("k") == expected


async def test_refresh_takes_lease_when_key_is_absent(cache: AgentCache, plain: valkey.Valkey) -> None:
    loader = Loader(held=True)
    loading = await start_holder(cache, loader, mode="refresh")
    assert is_leased(plain)
    loader.release()
    await loading
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"


@pytest.mark.parametrize("junk", ["bytes", "hash", "empty"])
@pytest.mark.parametrize("many", [False, True])
async def test_load_replaces_undecodable_value(cache: AgentCache, plain: valkey.Valkey, junk: str, many: bool) -> None:
    if junk == "hash":
        plain.hset(KEY, "a", "b")
    else:
        plain.set(KEY, b"\xff what is this?" if junk == "bytes" else b"")
    if many:
        assert await cache.kv.get_or_load_many(["k"], lambda keys: ["answer"]) == {"k": "answer"}
    else:
        assert (await cache.kv.get_or_load("k", Loader())).source == "loader"
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"
    assert (await cache.kv.get_or_load("k", Loader())).source == "l1"


async def test_load_keeps_value_that_other_client_stored_over_undecodable_value(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", coherence=UNTRACKED)
    plain.set(KEY, b"\xff what is this?")
    loader = Loader(held=True)
    loading = await start_holder(cache, loader)
    plain.set(KEY, b"snewer")
    loader.release()
    await loading
    await cache.flush_writes()
    assert plain.get(KEY) == b"snewer"


# Lost replies


async def test_lease_with_lost_reply_is_released(
    tracked: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = LostReplies(monkeypatch, TakeLease)
    assert (await tracked[0].kv.get_or_load("k", lambda: "unleased")).value == "unleased"
    lost.is_on = False
    assert len(lost.lost) == 1
    await until(lambda: plain.get(KEY) is None)


async def test_lease_orphaned_by_lost_replies_blocks_no_load(
    tracked: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tracked[0]
    lost = LostReplies(monkeypatch, TakeLease, Release)
    await cache.kv.get_or_load("k", lambda: "unleased")
    await until(lambda: any(isinstance(write, Release) for write in lost.lost))
    lost.is_on = False
    assert is_leased(plain)
    cache.clear_l1()
    result = await cache.kv.get_or_load("k", lambda: "leased")
    await cache.flush_writes()
    assert (result.source, cache.local_stats().tiers["kv"].lease_waits) == ("loader", 0)
    assert plain.get(KEY) == b"sleased"


async def test_lease_waiter_loads_when_fill_of_holder_is_lost(
    tracked: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tracked[0]
    loader = Loader("first", held=True)
    first = await start_holder(cache, loader, mode="store_only")
    second = load(cache, lambda: "second")
    await wait_for_lease(cache)
    fail_next_fill(monkeypatch)
    loader.release()
    assert (await first).value == "first"
    async with asyncio.timeout(4):  # The placeholder lives for 10 s.
        assert (await second).value == "second"
    await cache.flush_writes()
    assert plain.get(KEY) == b"ssecond"
