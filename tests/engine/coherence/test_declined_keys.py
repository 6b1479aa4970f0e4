"""Declined announcements: single keys are announced only while a process of the cache needs that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey
import valkey.asyncio

from tests.requests import HELLO
from tests.seams import HeldWrites, held_acceptance, in_l1, internals, pause_pings, set_tracking_room
from tests.support import SEQUENCE, UNTRACKED, MakeCache, distrusted, until
from tiercache import AgentCache, CoherenceOptions, RuntimeSettings, TierOptions
from tiercache.engine.level2.writes import Track

KEY = "test:__tc:kv:kv:k"
BUS = "test:__tc:bus:0"


def declining_count(plain: valkey.Valkey) -> int:
    """Return how many subscribers decline announcements of single keys."""
    return subscriber_count(plain, f"{BUS}:declined")


def subscriber_count(plain: valkey.Valkey, channel: str) -> int:
    ((_, count),) = plain.pubsub_numsub(channel)
    return int(count)


async def announces_keys(cache: AgentCache, plain: valkey.Valkey) -> bool:
    """Return whether a store of ``cache`` is announced: each announcement of a change has a number."""
    await cache.open()
    before = plain.get(SEQUENCE)
    await cache.kv.set("another", "v")
    return plain.get(SEQUENCE) != before


async def test_stores_and_deletes_are_not_announced_if_every_process_tracks_by_interest(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    a, b = (make_cache(name="test") for _ in range(2))
    await b.open()
    await a.kv.set("k", "older")
    before = plain.get(SEQUENCE)
    assert await b.kv.get("k") == "older"
    await a.kv.set("k", "newer")
    await until(lambda: not in_l1(b, KEY), seconds=0.5)
    assert await b.kv.get("k") == "newer"
    await a.kv.delete("k")
    await until(lambda: not in_l1(b, KEY), seconds=0.5)
    await a.session.set("thread", "field", "v")
    assert await b.session.get("thread", "field") == "v"
    await a.session.delete("thread", "field")
    await until(lambda: not in_l1(b, "test:session:thread:field"), seconds=0.5)
    assert plain.get(SEQUENCE) == before
    await a.llm.store(HELLO, "x")
    await a.llm.invalidate_by_model("gpt-4o")
    assert plain.get(SEQUENCE) != before  # Groups are announced.


@pytest.mark.parametrize("joining", [UNTRACKED, CoherenceOptions(tracking="broadcast")], ids=["off", "broadcast"])
async def test_keys_are_announced_while_a_process_does_not_track_by_interest(
    make_cache: MakeCache, plain: valkey.Valkey, joining: CoherenceOptions
) -> None:
    cache = make_cache(name="test")
    assert not await announces_keys(cache, plain)
    other = make_cache(name="test", coherence=joining)
    await other.open()
    await cache.kv.set("k", "older")
    assert await other.kv.get("k") == "older"
    await cache.kv.set("k", "newer")
    await until(lambda: not in_l1(other, KEY), seconds=0.5)
    assert await announces_keys(cache, plain)
    await other.aclose()

    async def is_over() -> bool:
        return not await announces_keys(cache, plain)

    await until(is_over)


@pytest.mark.parametrize("options", [{"stale_for": 60}, {"cache_errors": {KeyError: 60}}], ids=list)
async def test_keys_are_announced_to_a_process_that_keeps_values_without_valkey(
    make_cache: MakeCache, plain: valkey.Valkey, options: dict[str, Any]
) -> None:
    cache = make_cache(name="test", kv=TierOptions(**options))
    assert await announces_keys(cache, plain)
    assert cache.local_stats().tracking == "interest"


@pytest.mark.parametrize("options", [{"ttl": 0.2, "stale_for": 600}, {"cache_errors": {KeyError: 600}}], ids=list)
async def test_keys_are_announced_once_a_function_keeps_values_without_valkey(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The process is open before it decorates the function. It does not wait for its next PING."""
    pause_pings(monkeypatch)
    cache, other = (make_cache(name="test", coherence=CoherenceOptions(max_staleness=600)) for _ in range(2))
    await cache.open()
    assert not await announces_keys(other, plain)

    @cache.memoize(**options)
    async def answer(number: int) -> int:
        return number

    await until(lambda: declining_count(plain) == 1)
    assert await announces_keys(other, plain)


async def test_keys_are_announced_to_a_user_without_unsubscribe(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """The process ends the subscription that declines, and makes another one."""
    commands = ["+@all", "-unsubscribe"]
    plain.acl_setuser("stays", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=commands)
    path = plain.connection_pool.connection_kwargs["path"]
    client = valkey.asyncio.Valkey(unix_socket_path=path, username="stays", password="pw")
    other = make_cache(name="test")
    try:
        async with AgentCache(client, name="test") as cache:
            assert not await announces_keys(other, plain)

            @cache.memoize(stale_for=600)
            async def answer(number: int) -> int:
                return number

            await until(lambda: (subscriber_count(plain, BUS), declining_count(plain)) == (2, 1))
            assert await announces_keys(other, plain)
    finally:
        plain.acl_deluser("stays")


async def test_keys_are_announced_once_an_operator_keeps_values_without_valkey(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """A setting at run time reaches an open process; the first value that it affects makes the process need keys."""
    cache, other = (make_cache(name="test") for _ in range(2))
    await cache.open()
    assert not await announces_keys(other, plain)
    await cache.configure("kv", RuntimeSettings(stale_for=600))
    await cache.kv.set("k", "v", ttl=60)
    await until(lambda: declining_count(plain) == 1)
    assert await announces_keys(other, plain)


async def test_copy_that_outlived_valkey_before_keys_were_announced_is_not_served(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have deleted the key in the meantime, and nothing has reported that."""
    a, b = (make_cache(name="test") for _ in range(2))
    await b.open()
    await a.open()
    with held_acceptance(monkeypatch):
        await a.configure("kv", RuntimeSettings(stale_for=600))
        await a.kv.set("k", "older", ttl=0.1)
        await until(lambda: not plain.exists(KEY))
        await b.kv.delete("k")
    await until(lambda: declining_count(plain) == 1)
    assert await a.kv.get("k") is None


async def test_stale_copy_follows_a_delete_by_another_process(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """Valkey no longer has the key, so it reports no delete of it."""
    a = make_cache(name="test", kv=TierOptions(ttl=0.1, stale_for=600))
    b = make_cache(name="test")
    await a.kv.set("k", "older")
    await b.open()
    await until(lambda: not plain.exists(KEY))
    assert in_l1(a, KEY)
    await b.kv.delete("k")
    await until(lambda: not in_l1(a, KEY), seconds=0.5)


async def test_process_declines_only_once_its_reports_are_on(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldWrites(monkeypatch, lambda write: isinstance(write, Track))
    cache = make_cache(name="test")
    opening = asyncio.ensure_future(cache.open())
    await held.sending.wait()
    assert declining_count(plain) == 0
    held.release.set()
    await opening
    assert declining_count(plain) == 1


async def test_untracked_process_that_reconnects_drops_l1(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """Without it the other processes announce no keys, so the number of the last change proves nothing."""
    a = make_cache(name="test")
    b = make_cache(name="test", coherence=UNTRACKED)
    await a.kv.set("k", "older")
    assert await b.kv.get("k") == "older"
    before, number = distrusted(b), plain.get(SEQUENCE)
    subscription = internals(b).subscription
    # The server ends the subscription, and counts it no more. The next one comes after a pause.
    await subscription.aclose()

    async def is_stored() -> bool:
        await a.kv.set("k", "newer")
        return plain.get(SEQUENCE) == number

    await until(is_stored)
    await until(lambda: distrusted(b) > before)
    assert await b.kv.get("k") == "newer"


async def test_process_whose_table_is_full_accepts_announcements_again(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test")
    await cache.open()
    assert declining_count(plain) == 1
    set_tracking_room(monkeypatch, 10_000_000)
    await until(lambda: cache.local_stats().tracking == "broadcast")
    await until(lambda: declining_count(plain) == 0)
    assert await announces_keys(cache, plain)


async def test_process_that_loses_the_right_to_track_accepts_announcements_again(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change before that is neither reported nor announced to it, so it must drop what it has read by then."""
    plain.acl_setuser("loser", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all"])
    path = plain.connection_pool.connection_kwargs["path"]
    client = valkey.asyncio.Valkey(unix_socket_path=path, username="loser", password="pw")
    other = make_cache(name="test")
    try:
        async with AgentCache(client, name="test") as cache:
            await other.kv.set("k", "older")
            assert await cache.kv.get("k") == "older"
            assert declining_count(plain) == 2
            with held_acceptance(monkeypatch):
                plain.acl_setuser("loser", enabled=True, commands=["-client|tracking"])
                plain.client_kill_filter(_id=internals(cache).store.writer_connection_id)
                await until(lambda: cache.local_stats().tracking == "off")
                assert await cache.kv.get("k") == "older"
                await other.kv.set("k", "newer")
            await until(lambda: cache.local_stats().trusted and declining_count(plain) == 1)

            async def is_newer() -> bool:
                return await cache.kv.get("k") == "newer"

            await until(is_newer)
    finally:
        plain.acl_deluser("loser")
