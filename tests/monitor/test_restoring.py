"""Restoring: the registration returns at once after other software has removed or overwritten it.

Registrations are half a minute apart here, and no test waits that long: whatever returns was restored.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import valkey

from tests.peers import betterdb_cache
from tests.requests import turns
from tests.seams import monitor_intervals, set_intervals
from tests.support import UNTRACKED, MakeCache, until
from tiercache import AgentCache

HEARTBEAT = "__betterdb:heartbeat:test"
REGISTRY = "__betterdb:caches"
FOREIGN = json.dumps({"type": "agent_cache", "prefix": "test", "version": "0.12.0"})
SECONDS = 10.0


@pytest.fixture(autouse=True)
def _registrations_are_far_apart() -> None:
    assert monitor_intervals().beat > 2 * SECONDS


def engine_of(plain: valkey.Valkey) -> object:
    """Return the library that has written the marker."""
    marker = plain.hget(REGISTRY, "test")
    return marker and json.loads(marker).get("engine")


async def opened(make_cache: MakeCache, count: int, **options: object) -> list[AgentCache]:
    caches = [make_cache(name="test", **options) for _ in range(count)]
    for cache in caches:
        await cache.open()
    return caches


@pytest.mark.parametrize("count", [1, 3])
async def test_heartbeat_that_is_deleted_returns_at_once(
    make_cache: MakeCache, plain: valkey.Valkey, count: int
) -> None:
    await opened(make_cache, count)
    for _ in range(3):
        assert plain.delete(HEARTBEAT) == 1
        await until(lambda: plain.exists(HEARTBEAT), SECONDS)
        assert 55 < plain.ttl(HEARTBEAT) <= 60


async def test_heartbeat_returns_after_a_process_of_betterdb_has_closed(
    make_cache: MakeCache, plain: valkey.Valkey, url: str
) -> None:
    await opened(make_cache, 1)
    async with betterdb_cache(url) as peer:
        await peer.tool.store("t", {}, "x")
        await until(lambda: engine_of(plain) != "tiercache", SECONDS)
    await until(lambda: plain.exists(HEARTBEAT), SECONDS)


async def test_heartbeat_returns_while_other_processes_live_on(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    first, second = await opened(make_cache, 2)
    # A flush removes the list of the processes. The process that restores the registration adds itself alone, and
    # deletes the heartbeat when it leaves.
    plain.flushall()
    await until(lambda: plain.exists(HEARTBEAT), SECONDS)
    await first.aclose()
    await until(lambda: plain.exists(HEARTBEAT), SECONDS)
    await second.aclose()
    assert not plain.exists(HEARTBEAT)


async def test_whole_registration_returns_after_a_flush(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    await opened(make_cache, 2)
    for flush in (plain.flushall, plain.flushdb):
        flush()
        keys = (HEARTBEAT, REGISTRY, "__betterdb:protocol", "test:__tc:alive")
        await until(lambda: plain.exists(*keys) == len(keys), SECONDS)  # noqa: B023 - awaited in this round


async def test_flush_leaves_other_software_half_a_minute_before_the_indexes_count_as_complete(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, send=0.01)
    await opened(make_cache, 1)
    await until(lambda: plain.exists("test:__tc:indexed"))
    plain.flushall()
    await until(lambda: plain.exists(REGISTRY, HEARTBEAT) == 2, SECONDS)
    for _ in range(3):
        plain.delete(HEARTBEAT)
        await until(lambda: plain.exists(HEARTBEAT), SECONDS)
    assert not plain.exists("test:__tc:indexed")


@pytest.mark.parametrize("overwrite", ["another", "none"])
async def test_marker_returns_with_the_next_change_of_the_heartbeat(
    make_cache: MakeCache, plain: valkey.Valkey, overwrite: str
) -> None:
    await opened(make_cache, 2)
    if overwrite == "another":
        plain.hset(REGISTRY, "test", FOREIGN)
    else:
        plain.hdel(REGISTRY, "test")
    plain.set(HEARTBEAT, "now", ex=60)

    await until(lambda: engine_of(plain) == "tiercache", SECONDS)
    # The other software may still be writing, and its entries are in no index.
    assert bool(plain.exists("test:__tc:others")) == (overwrite == "another")


async def test_heartbeat_returns_with_the_next_registration_without_tracking(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, beat=0.05, send=0.01)
    await opened(make_cache, 1, coherence=UNTRACKED)
    plain.delete(HEARTBEAT)
    await until(lambda: plain.exists(HEARTBEAT), SECONDS)


async def test_heartbeat_of_a_cache_with_a_longer_name_is_left_alone(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    await opened(make_cache, 1)
    plain.set(HEARTBEAT + "2", "now")
    plain.delete(HEARTBEAT + "2")
    plain.delete(HEARTBEAT)
    await until(lambda: plain.exists(HEARTBEAT), SECONDS)
    assert not plain.exists(HEARTBEAT + "2")


async def test_restoring_causes_no_endless_exchange_between_processes(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, send=0.01, page=600)
    await opened(make_cache, 3)
    plain.delete(HEARTBEAT)
    await until(lambda: plain.exists(HEARTBEAT), SECONDS)

    def sets() -> Counter[str]:
        stats = plain.info("commandstats")
        return Counter({name: stats[f"cmdstat_{name}"]["calls"] for name in ("set", "hget", "ping")})

    # Wait until the processes have looked at the last change, and for a while after that: the PINGs go on.
    await until(lambda: sets()["ping"] > 0)
    began = sets()
    await until(lambda: (sets() - began)["ping"] >= 9, SECONDS)
    settled = sets()
    await until(lambda: (sets() - settled)["ping"] >= 9, SECONDS)
    assert (sets() - settled)["set"] == 0
    assert (sets() - settled)["hget"] == 0


async def test_policy_of_the_monitor_applies_within_a_round_without_tracking(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    (cache,) = await opened(make_cache, 1, coherence=UNTRACKED)
    await turns()
    plain.hset("test:__tool_policies", "search", '{"ttl":600}')
    await until(lambda: cache.tool.get_policy("search") is not None, SECONDS)
    plain.hdel("test:__tool_policies", "search")
    await until(lambda: cache.tool.get_policy("search") is None, SECONDS)
