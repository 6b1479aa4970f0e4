"""Refusals of an open cache: a lookup degrades and never raises, and a refused login is tried once a pause."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import internals
from tests.support import until
from tiercache import (
    AgentCache,
    ConnectionOptions,
    L2CommandError,
    L2UnavailableError,
    ResilienceOptions,
    TierOptions,
)
from tiercache.engine.level2.writes import WriteSet

USER = "agent"
# No second attempt to log in, and no second attempt of the breaker, within a test.
LONG = ResilienceOptions(l2_timeout=5, breaker_pause=3600)
SHORT = ResilienceOptions(l2_timeout=5, breaker_pause=0.05)


async def _value(result: Awaitable[Any]) -> Any:
    return (await result).value


async def _response(result: Awaitable[Any]) -> Any:
    return (await result).response


async def _values(result: Awaitable[Any]) -> Any:
    return list((await result).values())


async def _load_batch(params: list[Any]) -> list[str]:
    return ["loaded" for _ in params]


LOOKUPS: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "llm.check": lambda cache: _response(cache.llm.check(HELLO)),
    "llm only_cached": lambda cache: _response(cache.llm.get_or_load(HELLO, lambda: "x", mode="only_cached")),
    "tool.check": lambda cache: _response(cache.tool.check("t", {})),
    "kv.get": lambda cache: cache.kv.get("k"),
    "kv.get_many": lambda cache: _values(cache.kv.get_many(["a", "b"])),
    "kv.exists": lambda cache: cache.kv.exists("k"),
}

LOADS: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "llm": lambda cache: _response(cache.llm.get_or_load(asking("a"), lambda: "loaded")),
    "llm refresh": lambda cache: _response(cache.llm.get_or_load(asking("b"), lambda: "loaded", mode="refresh")),
    "llm store_only": lambda cache: _response(cache.llm.get_or_load(asking("c"), lambda: "loaded", mode="store_only")),
    "llm bypass": lambda cache: _response(cache.llm.get_or_load(asking("d"), lambda: "loaded", mode="bypass")),
    "llm batch": lambda cache: _response(cache.llm.get_or_load(asking("e"), cache.llm.batch_loader(_load_batch))),
    "tool": lambda cache: _response(cache.tool.get_or_load("t", {"n": 1}, lambda: "loaded")),
    "kv": lambda cache: _value(cache.kv.get_or_load("k", lambda: "loaded")),
    "kv tagged": lambda cache: _value(cache.kv.get_or_load("t", lambda: "loaded", tags=["tag"])),
    "kv many": lambda cache: _values(cache.kv.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, "loaded"))),
    "kv unleased": lambda cache: _value(
        cache.tier("unleased", TierOptions(lease=False, l1=False)).get_or_load("k", lambda: "loaded")
    ),
}


@pytest.fixture
def user(plain: valkey.Valkey) -> Any:
    """Make a user with every right; remove the user at the end."""
    plain.acl_setuser(USER, enabled=True, passwords=["+pw"], categories=["+@all"], keys=["*"], channels=["*"])
    plain.acl_log_reset()
    yield plain
    plain.acl_deluser(USER)


@pytest.fixture
def user_url(url: str, user: Any) -> str:
    return f"{url}?username={USER}&password=pw"


def change_password(plain: valkey.Valkey) -> None:
    """Change the password of the user, and end its connections."""
    plain.execute_command("ACL", "SETUSER", USER, ">pw2", "<pw")
    plain.execute_command("CLIENT", "KILL", "USER", USER)


def refused_logins(plain: valkey.Valkey) -> int:
    """Return how many logins of the user the server has refused."""
    entries = plain.acl_log()
    return sum(int(entry["count"]) for entry in entries if entry["reason"] == "auth" and entry["username"] == USER)


def switch_off(plain: valkey.Valkey) -> None:
    """Switch the user off, and end its connections."""
    plain.execute_command("ACL", "SETUSER", USER, "off")
    plain.execute_command("CLIENT", "KILL", "USER", USER)


def remove_user(plain: valkey.Valkey) -> None:
    """Remove the user. The server ends the connections itself."""
    plain.execute_command("ACL", "DELUSER", USER)


@pytest.mark.parametrize("multiplexed", [True, False])
@pytest.mark.parametrize("refuse", [change_password, switch_off, remove_user])
async def test_lookups_and_loads_degrade_after_the_login_is_refused_and_log_in_once_a_pause(
    user_url: str, user: valkey.Valkey, caplog: pytest.LogCaptureFixture, refuse: Any, multiplexed: bool
) -> None:
    caplog.set_level(logging.WARNING, "tiercache")
    options: dict[str, Any] = {"resilience": LONG, "connection": ConnectionOptions(multiplexed=multiplexed)}
    async with AgentCache.from_url(user_url, name="test", **options) as cache:
        refuse(user)
        for _ in range(3):
            results = await asyncio.gather(*(look(cache) for look in LOOKUPS.values()))
            assert results == [None, None, None, None, [None, None], False]
            loaded = await asyncio.gather(*(load(cache) for load in LOADS.values()))
            assert loaded == ["loaded"] * 8 + [["loaded", "loaded"], "loaded"]
            result = await cache.llm.get_or_load(asking("degraded"), Loader(), mode="refresh")
            assert (result.response, result.source) == ("answer", "loader")
            cache.clear_l1()
            assert (await cache.llm.check(HELLO)).degraded
        for write in (
            lambda: cache.kv.set("k", 1),
            lambda: cache.kv.delete("k"),
            lambda: cache.llm.store(HELLO, "x"),
            lambda: cache.session.set("thread", "field", "x"),
            lambda: cache.session.get("thread", "field"),
            lambda: cache.session.get_all("thread"),
            lambda: cache.invalidate_tag("tag"),
            lambda: cache.stats(),
        ):
            with pytest.raises(L2CommandError):
                await write()
        await cache.flush_writes()
        assert cache.local_stats().degraded
        assert refused_logins(user) == 1
    assert len(caplog.records) == 1
    assert "credentials" in caplog.text


async def test_refused_login_is_tried_at_most_once_a_pause(user_url: str, user: valkey.Valkey) -> None:
    async with AgentCache.from_url(user_url, name="test", resilience=ResilienceOptions(breaker_pause=0.2)) as cache:
        began = time.monotonic()
        change_password(user)
        while refused_logins(user) < 3:
            await asyncio.gather(*(load(cache) for load in LOADS.values()))
            with pytest.raises(L2CommandError):
                await cache.kv.set("k", 1)
            await asyncio.sleep(0.01)
        count = refused_logins(user)
        assert count <= (time.monotonic() - began) / 0.2 + 1


async def test_cache_recovers_by_itself_when_the_login_is_accepted_again(
    user_url: str, user: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tiercache")
    async with AgentCache.from_url(user_url, name="test", resilience=SHORT) as cache:
        await cache.kv.set("k", "older")
        connection = internals(cache).store.writer_connection
        change_password(user)
        await until(lambda: not connection.is_open, 20)
        with pytest.raises(L2CommandError):
            await cache.kv.delete("k")
        # The refused invalidation is repeated: until then no reader of this process gets the older value.
        assert await cache.kv.get("k") is None
        assert (await cache.llm.check(HELLO)).degraded
        user.execute_command("ACL", "SETUSER", USER, ">pw")
        await until(lambda: not internals(cache).has_pending_invalidations, 20)
        assert user.get("test:__tc:kv:kv:k") is None
        await until(lambda: not cache.local_stats().degraded, 20)
        await cache.kv.set("k", "newer")
        assert await cache.kv.get("k") == "newer"
        await until(lambda: _is_trusted(cache), 20)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def _is_trusted(cache: AgentCache) -> bool:
    return (await cache.kv.explain("k")).trusted


async def test_refused_login_of_the_writer_keeps_an_open_breaker_open(user_url: str, user: valkey.Valkey) -> None:
    async with AgentCache.from_url(user_url, name="test", resilience=LONG) as cache:
        change_password(user)
        assert (await cache.llm.check(HELLO)).degraded
        with pytest.raises(L2CommandError):
            await cache.kv.set("k", 1)
        assert internals(cache).breaker.is_open


async def test_wrong_credentials_raise_when_the_cache_opens(url: str, user: valkey.Valkey) -> None:
    cache = AgentCache.from_url(f"{url}?username={USER}&password=wrong", name="test")
    for _ in range(3):
        with pytest.raises(L2CommandError, match="credentials"):
            await cache.kv.get_or_load("k", lambda: "loaded")
    assert refused_logins(user) == 1
    await cache.aclose()


async def test_server_that_begins_to_ask_for_credentials_degrades_lookups(
    url: str, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with AgentCache.from_url(url, name="test", resilience=LONG) as cache:
        plain.execute_command("CONFIG", "SET", "requirepass", "pw")
        plain.execute_command("AUTH", "pw")
        plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            for _ in range(20):
                cache.clear_l1()
                assert await LOADS["kv"](cache) == "loaded"
                assert await cache.kv.get_many(["a", "b"]) == {"a": None, "b": None}
            with pytest.raises(L2CommandError):
                await cache.kv.set("k", 1)
            connected = plain.info("stats")["total_connections_received"]
            for n in range(20):
                with pytest.raises(L2CommandError):
                    await cache.kv.set("k", n)
            assert plain.info("stats")["total_connections_received"] == connected
        finally:
            plain.execute_command("CONFIG", "SET", "requirepass", "")
    assert sum("credentials" in record.message for record in caplog.records) == 1


RIGHTS = {
    "GET": ("-get", "-mget", "-getrange"),
    "scripts": ("-eval", "-eval_ro", "-evalsha", "-evalsha_ro"),
    "SET": ("-set", "-delifeq"),
    "PUBLISH": ("-publish",),
    "SUBSCRIBE": ("resetchannels", "-subscribe"),
    "ZADD": ("-zadd",),
    "PTTL": ("-pttl",),
    "everything": ("-@all",),
    "keys": ("resetkeys",),
}


@pytest.mark.parametrize("multiplexed", [True, False])
@pytest.mark.parametrize("right", RIGHTS)
async def test_lookups_and_loads_degrade_without_a_right_and_log_once(
    user_url: str, user: valkey.Valkey, caplog: pytest.LogCaptureFixture, right: str, multiplexed: bool
) -> None:
    caplog.set_level(logging.WARNING, "tiercache")
    options: dict[str, Any] = {"resilience": SHORT, "connection": ConnectionOptions(multiplexed=multiplexed)}
    async with AgentCache.from_url(user_url, name="test", **options) as cache:
        user.execute_command("ACL", "SETUSER", USER, *RIGHTS[right])
        for _ in range(3):
            cache.clear_l1()
            results = await asyncio.gather(*(look(cache) for look in LOOKUPS.values()))
            # A load of an earlier round may have stored its value.
            assert all(result in (None, [None] * 2, False, True, "loaded", ["loaded"] * 2) for result in results)
            loaded = await asyncio.gather(*(load(cache) for load in LOADS.values()))
            assert loaded == ["loaded"] * 8 + [["loaded", "loaded"], "loaded"]
            await cache.flush_writes()
    messages = [record.message for record in caplog.records]
    assert len(messages) == len(set(messages)) <= 5
    if right in ("GET", "everything", "keys"):
        assert sum("refuses lookups" in message for message in messages) == 1


async def test_refused_lookup_is_counted_and_degraded(user_url: str, user: valkey.Valkey) -> None:
    async with AgentCache.from_url(user_url, name="test", resilience=SHORT) as cache:
        user.execute_command("ACL", "SETUSER", USER, "-get", "-getrange")
        result = await cache.llm.get_or_load(HELLO, Loader())
        assert (result.response, result.source, result.degraded) == ("answer", "loader", True)
        checked = await cache.tool.check("t", {})
        assert (checked.hit, checked.degraded) == (False, True)
        assert cache.local_stats().tiers["llm"].l2_errors == 1
        assert cache.local_stats().tiers["tool"].l2_errors == 1
        with pytest.raises(L2CommandError):
            await cache.session.get("thread", "field")


async def test_loads_get_their_value_from_keys_and_indexes_of_another_type(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    for key in ("k", "t", "a", "b"):
        plain.hset(f"test:__tc:kv:kv:{key}", "a", "b")
    plain.set("test:__tc:idx:tag:tag", "no index")
    plain.set("test:__tc:idx:model:gpt-4o", "no index")
    for name, load in LOADS.items():
        assert await load(cache) in ("loaded", ["loaded", "loaded"]), name
    assert await cache.kv.get_many(["a", "b"]) == {"a": "loaded", "b": "loaded"}


async def test_loads_get_their_value_from_a_server_without_memory(
    make_cache: Any, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.config_set("maxmemory", "1mb")
    try:
        cache = make_cache(name="test", resilience=SHORT)
        for _ in range(3):
            cache.clear_l1()
            for name, load in LOADS.items():
                assert await load(cache) in ("loaded", ["loaded", "loaded"]), name
            for look in LOOKUPS.values():
                await look(cache)
        with pytest.raises(L2CommandError):
            await cache.kv.set("k", "x" * 10_000)
        await cache.flush_writes()
    finally:
        plain.config_set("maxmemory", "0")
    messages = [record.message for record in caplog.records]
    assert len(messages) == len(set(messages))


async def test_writer_hands_a_refused_login_to_every_write_as_its_result(user_url: str, user: valkey.Valkey) -> None:
    async with AgentCache.from_url(user_url, name="test", resilience=LONG) as cache:
        connection = internals(cache).store.writer_connection
        change_password(user)
        await until(lambda: not connection.is_open, 20)
        results = await internals(cache).unguarded_level2.apply([WriteSet("a", b"v", None), WriteSet("b", b"v", None)])
        assert [type(result).__name__ for result in results] == ["L2LoginError"] * 2
        assert not isinstance(results[0], L2UnavailableError)
