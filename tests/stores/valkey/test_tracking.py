"""The server's own word: what others than tiercache change is seen at once, and what it cannot tell is known too."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import valkey
import valkey.asyncio

from tests.requests import HELLO, Loader
from tests.seams import in_l1
from tests.support import distrusted, until
from tiercache import AgentCache, CoherenceOptions, L2CommandError, TierOptions, ToolPolicy
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

MakeCache = Callable[..., AgentCache]

KEY = "test:__tc:kv:kv:k"


async def warm(cache: AgentCache, plain: valkey.Valkey, value: bytes = b"solder") -> None:
    """Have ``cache`` keep what somebody else has written."""
    await cache.open()
    if value:
        plain.set(KEY, value)
    # Until the server's word of that write has arrived too, and memory keeps what is read.
    began = time.monotonic()

    async def stays() -> bool:
        return (await cache.kv.get_or_load("k", Loader())).source == "l1" and time.monotonic() > began + 0.1

    await until(stays)


FOREIGN: dict[str, Callable[[valkey.Valkey], Any]] = {
    "SET": lambda plain: plain.set(KEY, b"snewer"),
    "DEL": lambda plain: plain.delete(KEY),
    "UNLINK": lambda plain: plain.unlink(KEY),
    "EXPIRE 0": lambda plain: plain.expire(KEY, 0),
    "expiry": lambda plain: plain.pexpire(KEY, 20),
    "RENAME": lambda plain: plain.rename(KEY, "elsewhere"),
    "FLUSHALL": lambda plain: plain.flushall(),
    "FLUSHDB": lambda plain: plain.flushdb(),
    "a script": lambda plain: plain.eval("return redis.call('SET', KEYS[1], 'snewer')", 1, KEY),
}


@pytest.mark.parametrize("change", FOREIGN)
async def test_what_somebody_else_changes_leaves_memory_at_once(
    cache: AgentCache, plain: valkey.Valkey, change: str
) -> None:
    await warm(cache, plain)
    FOREIGN[change](plain)
    if change == "expiry":  # Seen when the server looks for what has ended, ten times a second.
        await until(lambda: not plain.exists(KEY))
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)
    assert await cache.kv.get("k") == ("newer" if change in ("SET", "a script") else None)


async def test_every_tier_follows_the_server(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("thread", "field", "x")
    keys = [await cache.llm.store(HELLO, "x"), await cache.tool.store("t", {}, "x"), "test:session:thread:field"]
    await cache.tier("named").set("k", "x")
    keys.append("test:__tc:kv:named:k")
    assert all(in_l1(cache, key) for key in keys)
    for key in keys:
        plain.delete(key)
        await until(lambda key=key: not in_l1(cache, key), seconds=0.5)  # type: ignore[misc]


async def test_what_a_process_writes_itself_does_not_come_back_to_it(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", "v")
    await cache.llm.store(HELLO, "x")
    await cache.session.set("thread", "field", "x")
    for number in range(10):
        await cache.kv.get_or_load(f"l{number}", Loader())
    await cache.flush_writes()
    # What the server says is in order: behind this there is nothing left to come.
    await cache.kv.set("last", 1)
    assert in_l1(cache, "test:__tc:kv:kv:last")
    plain.delete("test:__tc:kv:kv:last")
    await until(lambda: not in_l1(cache, "test:__tc:kv:kv:last"))
    assert (await cache.kv.get_or_load("k", Loader())).source == "l1"
    assert (await cache.llm.check(HELLO)).source == "l1"
    assert all([(await cache.kv.get_or_load(f"l{n}", Loader())).source == "l1" for n in range(10)])
    assert in_l1(cache, "test:session:thread:field")


async def test_a_fill_by_another_replica_leaves_memory_too_and_costs_no_more_than_a_read(make_cache: MakeCache) -> None:
    a, b = (make_cache(name="test") for _ in range(2))
    await a.open()
    await b.kv.get_or_load("k", Loader())
    await b.flush_writes()
    assert (await a.kv.get_or_load("k", Loader())).source == "l2"


async def test_a_policy_that_the_monitor_sets_is_known_soon(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.open()
    plain.hset("test:__tool_policies", "t", '{"ttl": 7}')
    await until(lambda: cache.tool.get_policy("t") == ToolPolicy(7), seconds=2)
    plain.delete("test:__tool_policies")
    await until(lambda: cache.tool.get_policy("t") is None, seconds=2)


# When it ends


def writer_id(cache: AgentCache) -> int:
    found: int = cache._engine.runtime.level2._level2._writer._line_id  # type: ignore[union-attr, attr-defined]
    return found


def subscriber_id(cache: AgentCache) -> int | None:
    subscription = cache._engine.runtime.l2.listener._subscription  # type: ignore[union-attr]
    return None if subscription is None else subscription.id


async def is_told(cache: AgentCache, plain: valkey.Valkey) -> bool:
    """Return whether the server tells ``cache`` of a change now."""
    plain.set(KEY, b"sv")

    async def stays() -> bool:
        await cache.kv.get("k")
        await asyncio.sleep(0.01)
        return in_l1(cache, KEY)

    await until(stays)
    plain.delete(KEY)
    for _ in range(20):
        await asyncio.sleep(0.005)
        if not in_l1(cache, KEY):
            return True
    return False


@pytest.mark.parametrize("connection", [writer_id, subscriber_id])
async def test_a_connection_that_the_server_ends_costs_memory_and_two_seconds_at_most(
    make_cache: MakeCache, plain: valkey.Valkey, connection: Callable[[AgentCache], int]
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=300))
    await warm(cache, plain)
    before, subscriber = distrusted(cache), subscriber_id(cache)
    plain.client_kill_filter(_id=connection(cache))
    plain.set(KEY, b"snewer")  # Told to nobody.
    began = time.monotonic()
    await until(lambda: distrusted(cache) > before, seconds=2.5)
    assert await cache.kv.get("k") == "newer"
    await until(lambda: is_told(cache, plain), seconds=max(0.1, began + 2.5 - time.monotonic()))
    assert (subscriber_id(cache) == subscriber) == (connection is writer_id)


async def test_a_subscription_whose_end_is_not_noticed_at_once_does_not_end_tracking_for_good(
    url: str, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """The server has ended it; the news is held up on the way. Meanwhile the server redirects to nobody."""
    async with ChaosProxy(url) as proxy:
        options = CoherenceOptions(max_staleness=0.9)
        async with AgentCache.from_url(proxy.url, name="test", coherence=options) as cache:
            await warm(cache, plain)
            subscriber = subscriber_id(cache)
            proxy.stall("to_client", lane="bus")
            plain.client_kill_filter(_id=subscriber)
            plain.set(KEY, b"snewer")  # Now the server notices that there is nobody to tell.
            # It is given up for want of answers.
            await until(lambda: subscriber_id(cache) is None, seconds=3)
            proxy.heal()
            await until(lambda: subscriber_id(cache) not in (None, subscriber))
            assert "CLIENT TRACKING" not in caplog.text
            await until(lambda: is_told(cache, plain), seconds=1)


# Where it is not to be had


async def test_without_tracking_a_foreign_change_is_seen_after_the_l1_ttl(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking="off"), kv=TierOptions(l1_ttl=0.4))
    await cache.kv.set("k", "v")
    began = time.monotonic()
    plain.delete(KEY)
    assert await cache.kv.get("k") == "v"

    async def is_gone() -> bool:
        return await cache.kv.get("k") is None

    await until(is_gone, seconds=1)
    assert time.monotonic() >= began + 0.4 - 0.05


@pytest.fixture
def untrusted(server: EmbeddedValkey, plain: valkey.Valkey) -> Iterator[Callable[..., valkey.asyncio.Valkey]]:
    """Make clients of a user who may do everything but what is taken from him."""

    def make(*without: str, channels: tuple[str, ...] = ("*",)) -> valkey.asyncio.Valkey:
        plain.acl_setuser(
            "untrusted",
            enabled=True,
            passwords=["+secret"],
            keys=["*"],
            channels=list(channels),
            commands=["+@all", *without],
            reset=True,
        )
        path = server.url.removeprefix("unix://")
        return valkey.asyncio.Valkey(unix_socket_path=path, username="untrusted", password="secret")

    yield make
    plain.acl_deluser("untrusted")


REFUSALS: dict[str, dict[str, Any]] = {
    "CLIENT TRACKING": {"without": ["-client|tracking"]},
    "CLIENT ID": {"without": ["-client|id"]},
    "CLIENT": {"without": ["-client"]},
    "the channel of the server's word": {"channels": ("test:__tc:bus:*",)},
}


def refused(untrusted: Callable[..., valkey.asyncio.Valkey], what: str) -> valkey.asyncio.Valkey:
    how = REFUSALS[what]
    return untrusted(*how.get("without", ()), channels=how.get("channels", ("*",)))


@pytest.mark.parametrize("what", REFUSALS)
async def test_a_user_who_may_not_track_is_warned_once_and_served(
    make_cache: MakeCache,
    plain: valkey.Valkey,
    untrusted: Callable[..., valkey.asyncio.Valkey],
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    options = CoherenceOptions(max_staleness=0.6)
    replica = make_cache(name="test", coherence=options)
    await replica.open()
    async with AgentCache(refused(untrusted, what), name="test", coherence=options, kv=TierOptions(l1_ttl=1)) as cache:
        await cache.kv.set("k", "v")
        began = time.monotonic()
        assert (await cache.kv.get_or_load("k", Loader())).source == "l1"
        plain.delete(KEY)

        async def is_gone() -> bool:
            return await cache.kv.get("k") is None

        await until(is_gone, seconds=2)
        # Kept as long as l1_ttl says: what other replicas say is heard, so it is believed longer than max_staleness.
        assert time.monotonic() >= began + 1 - 0.05
        # And the bus works.
        await replica.kv.set("l", "older")
        assert await cache.kv.get("l") == "older"
        await until(lambda: cache.local_stats().heard_count > 0, seconds=1)
        await replica.kv.set("l", "newer")
        await until(lambda: not in_l1(cache, "test:__tc:kv:kv:l"), seconds=0.5)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "CLIENT TRACKING" in warnings[0]


@pytest.mark.parametrize("what", REFUSALS)
async def test_a_user_who_may_not_track_and_has_to_cannot_open(
    url: str, untrusted: Callable[..., valkey.asyncio.Valkey], what: str
) -> None:
    cache = AgentCache(refused(untrusted, what), name="test", coherence=CoherenceOptions(tracking="on"))
    with pytest.raises(L2CommandError):
        await cache.open()
    await cache.aclose()
