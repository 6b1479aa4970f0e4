"""Tracking: a change by another client drops the L1 entry at once, and a loss of tracking is noticed."""

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
from tests.seams import in_l1, internals
from tests.support import distrusted, until
from tiercache import AgentCache, CoherenceOptions, L2CommandError, TierOptions, ToolPolicy
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

MakeCache = Callable[..., AgentCache]

KEY = "test:__tc:kv:kv:k"


async def warm(cache: AgentCache, plain: valkey.Valkey, value: bytes = b"solder") -> None:
    """Let ``cache`` keep a value in L1 that another client has written."""
    await cache.open()
    if value:
        plain.set(KEY, value)
    # Wait until the tracking invalidation for that write has arrived too, and L1 keeps the value that is read.
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
async def test_tracking_drops_an_l1_entry_when_another_client_changes_its_key(
    cache: AgentCache, plain: valkey.Valkey, change: str
) -> None:
    await warm(cache, plain)
    FOREIGN[change](plain)
    if change == "expiry":  # The server reports it when it looks for expired keys, ten times a second.
        await until(lambda: not plain.exists(KEY))
    await until(lambda: not in_l1(cache, KEY), seconds=0.5)
    assert await cache.kv.get("k") == ("newer" if change in ("SET", "a script") else None)


async def test_tracking_drops_l1_entries_of_every_tier(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("thread", "field", "x")
    keys = [await cache.llm.store(HELLO, "x"), await cache.tool.store("t", {}, "x"), "test:session:thread:field"]
    await cache.tier("named").set("k", "x")
    keys.append("test:__tc:kv:named:k")
    with cache.calls(scope="alice"):
        await cache.kv.set("k", "x")
    keys.append("test:__tc:kvs:kv:alice:k")
    assert all(in_l1(cache, key) for key in keys)
    for key in keys:
        plain.delete(key)
        await until(lambda key=key: not in_l1(cache, key), seconds=0.5)  # type: ignore[misc]


async def test_tracking_keeps_l1_entries_that_the_process_wrote_itself(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", "v")
    await cache.llm.store(HELLO, "x")
    await cache.session.set("thread", "field", "x")
    for number in range(10):
        await cache.kv.get_or_load(f"l{number}", Loader())
    await cache.flush_writes()
    # The server reports changes in order: after the report for this key, no report is outstanding.
    await cache.kv.set("last", 1)
    assert in_l1(cache, "test:__tc:kv:kv:last")
    plain.delete("test:__tc:kv:kv:last")
    await until(lambda: not in_l1(cache, "test:__tc:kv:kv:last"))
    assert (await cache.kv.get_or_load("k", Loader())).source == "l1"
    assert (await cache.llm.check(HELLO)).source == "l1"
    assert all([(await cache.kv.get_or_load(f"l{n}", Loader())).source == "l1" for n in range(10)])
    assert in_l1(cache, "test:session:thread:field")


async def test_fill_by_another_process_is_read_from_l2(make_cache: MakeCache) -> None:
    a, b = (make_cache(name="test") for _ in range(2))
    await a.open()
    await b.kv.get_or_load("k", Loader())
    await b.flush_writes()
    assert (await a.kv.get_or_load("k", Loader())).source == "l2"


async def test_tracking_reports_a_tool_policy_that_another_client_sets(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.open()
    plain.hset("test:__tool_policies", "t", '{"ttl": 7}')
    await until(lambda: cache.tool.get_policy("t") == ToolPolicy(7), seconds=2)
    plain.delete("test:__tool_policies")
    await until(lambda: cache.tool.get_policy("t") is None, seconds=2)


# The end of tracking


async def is_notified(cache: AgentCache, plain: valkey.Valkey) -> bool:
    """Return whether the server reports a change to ``cache`` now."""
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


@pytest.mark.parametrize("of_writer", [True, False])
async def test_tracking_restarts_within_two_seconds_after_a_connection_ended(
    make_cache: MakeCache, plain: valkey.Valkey, of_writer: bool
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(max_staleness=300))
    await warm(cache, plain)
    before, subscriber = distrusted(cache), internals(cache).subscriber_id
    plain.client_kill_filter(_id=internals(cache).store.writer_connection_id if of_writer else subscriber)
    plain.set(KEY, b"snewer")  # The server reports this change to no process.
    began = time.monotonic()
    await until(lambda: distrusted(cache) > before, seconds=2.5)
    assert await cache.kv.get("k") == "newer"
    await until(lambda: is_notified(cache, plain), seconds=max(0.1, began + 2.5 - time.monotonic()))
    assert (internals(cache).subscriber_id == subscriber) == of_writer


async def test_tracking_restarts_after_a_subscription_ended_unnoticed(
    url: str, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """The server has ended the subscription, but its end is held up on the way. Until then tracking has no target."""
    async with ChaosProxy(url) as proxy:
        options = CoherenceOptions(max_staleness=0.9)
        async with AgentCache.from_url(proxy.url, name="test", coherence=options) as cache:
            await warm(cache, plain)
            subscriber = internals(cache).subscriber_id
            proxy.stall("to_client", lane="bus")
            plain.client_kill_filter(_id=subscriber)
            plain.set(KEY, b"snewer")  # Now the server notices that the redirection has no target.
            # The listener gives the subscription up, because its pings have no answer.
            await until(lambda: internals(cache).subscriber_id is None, seconds=3)
            proxy.heal()
            await until(lambda: internals(cache).subscriber_id not in (None, subscriber))
            assert "CLIENT TRACKING" not in caplog.text
            await until(lambda: is_notified(cache, plain), seconds=1)


# Without tracking


async def test_l1_serves_a_stale_entry_until_the_l1_ttl_without_tracking(
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
    """Make clients of a user with all permissions except those in ``without``, and except other ``channels``."""

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
    "the tracking channel": {"channels": ("test:__tc:bus:*",)},
}


def refused(untrusted: Callable[..., valkey.asyncio.Valkey], refusal: str) -> valkey.asyncio.Valkey:
    options = REFUSALS[refusal]
    return untrusted(*options.get("without", ()), channels=options.get("channels", ("*",)))


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_tracking_refusal_is_logged_once_and_the_cache_works(
    make_cache: MakeCache,
    plain: valkey.Valkey,
    untrusted: Callable[..., valkey.asyncio.Valkey],
    caplog: pytest.LogCaptureFixture,
    refusal: str,
) -> None:
    options = CoherenceOptions(max_staleness=0.6)
    replica = make_cache(name="test", coherence=options)
    await replica.open()
    async with AgentCache(
        refused(untrusted, refusal), name="test", coherence=options, kv=TierOptions(l1_ttl=1)
    ) as cache:
        await cache.kv.set("k", "v")
        began = time.monotonic()
        assert (await cache.kv.get_or_load("k", Loader())).source == "l1"
        plain.delete(KEY)

        async def is_gone() -> bool:
            return await cache.kv.get("k") is None

        await until(is_gone, seconds=2)
        # L1 keeps the entry for ``l1_ttl``: announcements arrive, so that trust lasts longer than ``max_staleness``.
        assert time.monotonic() >= began + 1 - 0.05
        # The backplane works too.
        await replica.kv.set("l", "older")
        assert await cache.kv.get("l") == "older"
        await until(lambda: cache.local_stats().heard_count > 0, seconds=1)
        await replica.kv.set("l", "newer")
        await until(lambda: not in_l1(cache, "test:__tc:kv:kv:l"), seconds=0.5)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "CLIENT TRACKING" in warnings[0]


@pytest.mark.parametrize("tracking", ["interest", "broadcast"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_tracking_refusal_fails_opening_if_the_caller_has_chosen_a_kind(
    url: str, untrusted: Callable[..., valkey.asyncio.Valkey], refusal: str, tracking: Any
) -> None:
    cache = AgentCache(refused(untrusted, refusal), name="test", coherence=CoherenceOptions(tracking=tracking))
    with pytest.raises(L2CommandError):
        await cache.open()
    await cache.aclose()
