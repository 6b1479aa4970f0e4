"""Writes as commands: the same results on servers with SET ... IFEQ and DELIFEQ, and on servers that run scripts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest
import valkey

from tests.requests import HELLO, Loader
from tests.seams import StoreView, hide_conditions, in_l1
from tests.support import distrusted, until
from tiercache import AgentCache, CoherenceOptions, L2CommandError
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.entries.entry import Group
from tiercache.engine.level2.announcement import Announcement
from tiercache.engine.level2.writes import Announce, Delete, Release, TakeLease, WriteSet
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2

MINE, THEIRS = b"tc:lease:me:1", b"tc:lease:them:1"


@pytest.fixture(params=["conditions", "scripts"])
async def level2(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ValkeyLevel2]:
    if request.param == "scripts":
        hide_conditions(monkeypatch)
    level2 = ValkeyLevel2(Settings.from_client(client_from_url(url)), timeout=5, name="test", origin="me")
    yield level2
    sent = StoreView(level2).command_of(Release("k", MINE))
    assert sent == ("EVAL" if request.param == "scripts" else "DELIFEQ")
    await level2.aclose()


async def apply(level2: ValkeyLevel2, write: Any) -> Any:
    (outcome,) = await level2.apply([write])
    return outcome


# Taking


async def test_lease_is_taken_on_a_missing_key(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    assert await apply(level2, TakeLease("k", MINE, 5)) is None
    assert plain.get("k") == MINE
    assert 4000 < plain.pttl("k") <= 5000


@pytest.mark.parametrize("there", [THEIRS, b'{"response":"x"}', b"\xff\x00", b""])
async def test_lease_is_refused_with_the_value_that_the_key_holds(
    level2: ValkeyLevel2, plain: valkey.Valkey, there: bytes
) -> None:
    plain.set("k", there)
    assert await apply(level2, TakeLease("k", MINE, 5)) == there
    assert (plain.get("k"), plain.pttl("k")) == (there, -1)


async def test_lease_is_refused_on_a_key_that_is_not_a_string(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.hset("k", "a", "b")
    assert await apply(level2, TakeLease("k", MINE, 5)) == TakeLease.NO_STRING
    assert plain.hgetall("k") == {b"a": b"b"}


async def test_lease_adds_its_key_to_the_indexes(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    began = time.time() * 1000
    await apply(level2, TakeLease("k", MINE, 5, indexes=("i", "j")))
    for index in ("i", "j"):
        score = plain.zscore(index, "k")
        assert began - 1 <= score <= time.time() * 1000


# Replacing


@pytest.mark.parametrize("ttl", [None, 5])
async def test_conditional_set_replaces_the_expected_value(
    level2: ValkeyLevel2, plain: valkey.Valkey, ttl: float | None
) -> None:
    plain.set("k", MINE, ex=100)
    assert await apply(level2, WriteSet("k", b"v\xff\x00", ttl, replaces=MINE)) == 1
    assert plain.get("k") == b"v\xff\x00"
    assert plain.pttl("k") == -1 if ttl is None else 4000 < plain.pttl("k") <= 5000


@pytest.mark.parametrize("there", [None, THEIRS, b"", b"v"])
async def test_conditional_set_keeps_any_other_value(
    level2: ValkeyLevel2, plain: valkey.Valkey, there: bytes | None
) -> None:
    if there is not None:
        plain.set("k", there)
    assert await apply(level2, WriteSet("k", b"v", 5, replaces=MINE)) == 0
    assert plain.get("k") == there


async def test_conditional_set_replaces_an_expected_empty_value(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    assert await apply(level2, WriteSet("k", b"v", 5, replaces=b"")) == 0
    plain.set("k", b"")
    assert await apply(level2, WriteSet("k", b"v", 5, replaces=b"")) == 1
    assert plain.get("k") == b"v"


async def test_conditional_set_keeps_a_key_that_is_not_a_string(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.hset("k", "a", "b")
    outcome = await apply(level2, WriteSet("k", b"v", 5, replaces=MINE))
    assert outcome == 0 or isinstance(outcome, L2CommandError)
    assert plain.hgetall("k") == {b"a": b"b"}
    assert await apply(level2, WriteSet("k", b"v", 5)) == 1
    assert plain.get("k") == b"v"


async def test_lease_renewal_only_extends_the_lifetime(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("k", MINE, ex=1)
    assert await apply(level2, WriteSet("k", MINE, 60, replaces=MINE)) == 1
    assert plain.get("k") == MINE
    assert plain.pttl("k") > 50_000


# Releasing


@pytest.mark.parametrize("there", [None, MINE, THEIRS, b"v"])
async def test_release_deletes_only_its_own_placeholder(
    level2: ValkeyLevel2, plain: valkey.Valkey, there: bytes | None
) -> None:
    if there is not None:
        plain.set("k", there)
    assert await apply(level2, Release("k", MINE)) == (there == MINE)
    assert plain.get("k") == (None if there == MINE else there)


async def test_release_keeps_a_key_that_is_not_a_string(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.hset("k", "a", "b")
    outcome = await apply(level2, Release("k", MINE))
    assert outcome == 0 or isinstance(outcome, L2CommandError)
    assert plain.exists("k")


# Deleting


async def test_delete_does_not_count_placeholders(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("lease", THEIRS)
    plain.set("value", b"tc:leaseholder")
    plain.hset("hash", "a", "b")
    assert await apply(level2, Delete(("lease", "value", "hash", b"nothing"))) == 2
    assert not plain.exists("lease", "value", "hash")


# Announcing


async def test_announcement_has_a_number_only_for_a_change(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    outcomes = await level2.apply(
        [
            Announce(Announcement(groups=(Group("tool", "t"),))),
            Announce(Announcement(awaited_leases=("k",))),
            Announce(Announcement(overtaken=(Group("tool", "t"),))),
        ]
    )
    assert outcomes[2] == outcomes[0] + 1 == int(plain.get("test:__tc:sequence"))
    assert outcomes[1] == 0  # Listeners.


@pytest.mark.parametrize("junk", [b"no number", b"9223372036854775807", None])
async def test_counter_of_changes_starts_at_the_clock_if_it_cannot_count(
    level2: ValkeyLevel2, plain: valkey.Valkey, junk: bytes | None
) -> None:
    if junk is None:
        plain.hset("test:__tc:sequence", "a", "b")
    else:
        plain.set("test:__tc:sequence", junk)
    before = time.time() * 1e6
    number = await apply(level2, Announce(Announcement(groups=(Group("tool", "t"),))))
    assert before - 1e6 <= number <= time.time() * 1e6 + 1e6
    assert int(plain.get("test:__tc:sequence")) == number


async def test_probes_change_nothing_on_the_server(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    await apply(level2, Release("k", MINE))
    assert plain.keys() == []


# A server without conditions and script flags


@pytest.mark.parametrize("tracking", ["off", "auto"])
async def test_load_is_stored_after_a_long_time_on_a_server_without_conditions(
    url: str, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, tracking: Any
) -> None:
    """Tracking reports the writes of scripts to this process too: they must not look like another client's changes."""
    hide_conditions(monkeypatch)
    options = CoherenceOptions(tracking=tracking, lease_ttl=0.15)
    async with AgentCache.from_url(url, name="test", coherence=options) as cache:
        loader = Loader(held=True)
        loading = asyncio.create_task(cache.kv.get_or_load("k", loader))
        await loader.started.wait()
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 0.3)  # The lease has been renewed.
        loader.release()
        await loading
        await cache.flush_writes()
        assert plain.get("test:__tc:kv:kv:k") == b"sanswer"
        assert cache.local_stats().tiers["kv"].overtaken == 0


async def test_lease_and_coherence_work_on_a_server_without_conditions(
    url: str, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_conditions(monkeypatch)
    async with AgentCache.from_url(url, name="test") as a, AgentCache.from_url(url, name="test") as b:
        loader = Loader(held=True)
        tasks = [asyncio.create_task(cache.kv.get_or_load("k", loader)) for cache in (a, b)]
        await loader.started.wait()
        await asyncio.sleep(0.05)
        loader.release()
        results = await asyncio.gather(*tasks)
        assert sorted(result.source for result in results) == ["l2", "loader"]
        assert loader.calls == 1
        await a.kv.set("k", "newer")
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
        assert await b.kv.get("k") == "newer"
        with pytest.raises(ValueError, match="no"):
            await a.kv.get_or_load("l", Loader(ValueError("no")))
        await until(lambda: not plain.exists("test:__tc:kv:kv:l"))


async def test_lease_works_on_a_fake_server() -> None:
    """A fake server has no conditions and no tracking: its subscriptions receive only announcements."""
    client = fakeredis.FakeAsyncValkey()
    async with AgentCache(client, name="fake", default_ttl=60) as a, AgentCache(client, name="fake") as b:
        loader = Loader(held=True)
        tasks = [asyncio.create_task(cache.kv.get_or_load("k", loader)) for cache in (a, b)]
        await loader.started.wait()
        await asyncio.sleep(0.05)
        loader.release()
        results = await asyncio.gather(*tasks)
        assert loader.calls == 1
        assert {result.value for result in results} == {"answer"}
    await client.aclose()


# A server without free memory


async def test_changes_are_announced_by_a_server_without_free_memory(
    own_server: tuple[EmbeddedValkey, int], caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = own_server
    with valkey.Valkey.from_url(server.url) as plain:
        async with AgentCache.from_url(server.url, name="test") as a, AgentCache.from_url(server.url, name="test") as b:
            await a.kv.set("k", "v", tags=["tag"])
            await a.kv.set("l", "v", tags=["tag"])
            await a.tool.store("t", {}, "v")
            await a.llm.store(HELLO, "v")
            await a.session.set("thread", "field", "v")
            assert await b.kv.get_many(["k", "l"]) == {"k": "v", "l": "v"}
            before = distrusted(b)
            plain.config_set("maxmemory-policy", "noeviction")
            plain.config_set("maxmemory", "1mb")
            with pytest.raises(L2CommandError, match="maxmemory"):
                await a.kv.set("m", "v")
            # A load reaches its caller, and its value is kept in L1 alone.
            assert (await a.kv.get_or_load("n", Loader())).source == "loader"
            assert (await a.kv.get_or_load("n", Loader())).source == "l1"
            assert await a.kv.delete("k") is True
            await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"), seconds=1)
            assert await a.invalidate_tag("tag") == 1
            await until(lambda: not in_l1(b, "test:__tc:kv:kv:l"), seconds=1)
            assert await a.tool.invalidate_by_tool("t") == 1
            assert await a.llm.invalidate_by_model("gpt-4o") == 1
            assert await a.session.delete("thread", "field") is True
            assert distrusted(b) == before
            assert not plain.exists("test:__tc:kv:kv:k", "test:__tc:kv:kv:l")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
