"""BetterDB Monitor, played by plain commands against live caches."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, asking
from tests.seams import count_exchanges, internals, lose_command_replies, monitor_intervals, set_intervals
from tests.support import run_in_thread
from tiercache import AgentCache, DiscoveryOptions, L2UnavailableError, TierOptions, ToolPolicy, UsageError

MakeCache = Callable[..., AgentCache]
HEARTBEAT = "__betterdb:heartbeat:test"


def marker_of(plain: valkey.Valkey, name: str = "test") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plain.hget("__betterdb:caches", name))
    return found


def stats_of(plain: valkey.Valkey, name: str = "test") -> dict[str, int]:
    return {field.decode(): int(value) for field, value in plain.hgetall(f"{name}:__stats").items()}


def test_statistics_are_sent_in_a_second_run(url: str, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture) -> None:
    cache = AgentCache.from_url(url, name="test")

    async def miss(expected: int) -> None:
        await cache.llm.check(HELLO)
        await until(lambda: stats_of(plain).get("llm:misses") == expected)

    def work() -> None:
        asyncio.run(miss(1))
        asyncio.run(miss(2))

    run_in_thread(work)
    assert not caplog.records


async def test_marker_describes_the_cache(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    plain.hset("test:__tool_policies", "search", '{"ttl":5}')
    cache = make_cache(name="test", default_ttl="1h", tool=TierOptions(ttl=90))
    await cache.open()
    await cache.tool.set_policy("lookup", ToolPolicy(5))
    marker = marker_of(plain)
    assert datetime.fromisoformat(marker.pop("started_at")).tzinfo == UTC
    assert marker.pop("version").count(".") >= 1
    assert marker == {
        "type": "agent_cache",
        "prefix": "test",
        "protocol_version": 1,
        "capabilities": ["tool_ttl_adjust", "invalidate_by_tool", "tool_effectiveness"],
        "stats_key": "test:__stats",
        "tiers": {
            "llm": {"enabled": True, "ttl_default": 3600},
            "tool": {"enabled": True, "ttl_default": 90},
            "session": {"enabled": True, "ttl_default": 3600},
        },
        "has_cost_table": True,
        "uses_default_cost_table": True,
        "pid": os.getpid(),
        "hostname": socket.gethostname(),
        "tool_policies": [],
        "engine": "tiercache",
    }
    assert plain.get("__betterdb:protocol") == b"1"
    assert plain.ttl("__betterdb:protocol") == -1
    assert 55 < plain.ttl(HEARTBEAT) <= 60
    assert datetime.fromisoformat(plain.get(HEARTBEAT).decode()).tzinfo == UTC


async def test_registration_rewrites_the_marker_and_all_flushed_keys(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, send=0.01, beat=0.02)
    cache = make_cache(name="test")
    await cache.open()
    await cache.tool.set_policy("search", ToolPolicy(5))
    await until(lambda: marker_of(plain)["tool_policies"] == ["search"])
    plain.flushall()
    await until(lambda: plain.exists(HEARTBEAT, "__betterdb:caches", "__betterdb:protocol", "test:__tc:alive") == 4)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for happens on the server
            await asyncio.sleep(0.01)


async def test_marker_names_at_most_five_hundred_policies(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    plain.hset("test:__tool_policies", mapping={f"t{n:03}": '{"ttl":5}' for n in range(501)})
    cache = make_cache(name="test")
    await cache.open()
    await internals(cache).write_marker()
    marker = marker_of(plain)
    assert (len(marker["tool_policies"]), marker["tool_policies_truncated"]) == (500, True)


async def test_heartbeat_is_rewritten_only_after_a_quarter_of_its_life(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """The server reports each write to every process: N processes that each write would cause N x N messages."""
    caches = [make_cache(name="test") for _ in range(3)]
    for cache in caches:
        await cache.open()
        plain.set(HEARTBEAT, "written", ex=60, xx=True)
    for cache in caches:
        await internals(cache).write_marker()
    assert plain.get(HEARTBEAT) == b"written"
    plain.pexpire(HEARTBEAT, 44_000)
    await internals(caches[0]).write_marker()
    assert plain.get(HEARTBEAT) != b"written"
    assert plain.pttl(HEARTBEAT) > 59_000


async def test_heartbeat_is_deleted_by_the_last_process_that_leaves(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    caches = [make_cache(name="test") for _ in range(3)]
    for cache in caches:
        await cache.open()
    for cache in caches:
        assert plain.exists(HEARTBEAT)
        await cache.aclose()
    assert not plain.exists(HEARTBEAT)
    assert plain.hexists("__betterdb:caches", "test")


async def test_heartbeat_does_not_outlive_a_dead_process(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    await cache.open()
    plain.zadd("test:__tc:alive", {"died long ago": 1})
    await cache.aclose()
    assert not plain.exists(HEARTBEAT)


async def test_registration_refuses_a_name_of_another_kind_of_cache(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    plain.hset("__betterdb:caches", "test", '{"type":"semantic_cache"}')
    cache = make_cache(name="test")
    with pytest.raises(UsageError, match="semantic_cache"):
        await cache.open()
    with pytest.raises(UsageError, match="semantic_cache"):
        await cache.llm.store(HELLO, "x")
    assert plain.hget("__betterdb:caches", "test") == b'{"type":"semantic_cache"}'
    assert plain.dbsize() == 1


@pytest.mark.parametrize("marker", ["junk", "[]", "5", "{}", '{"type":"agent_cache","version":"0.0.1"}', "\ufffd"])
async def test_registration_overwrites_an_own_or_unreadable_marker(
    make_cache: MakeCache, plain: valkey.Valkey, marker: str
) -> None:
    plain.hset("__betterdb:caches", "test", marker)
    await make_cache(name="test").open()
    assert marker_of(plain)["engine"] == "tiercache"


async def test_registration_can_be_off(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", discovery=DiscoveryOptions(enabled=False))
    await cache.open()
    await cache.aclose()
    assert plain.keys() == [b"test:__tc:sequence"]  # The counter of changes.


@pytest.mark.parametrize("channels", [["*"], []])
async def test_registration_is_counted_as_failed_without_permission_and_the_cache_works(
    url: str, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture, channels: list[str]
) -> None:
    plain.acl_setuser("own", enabled=True, passwords=["+pw"], categories=["+@all"], keys=["test:*"], channels=channels)
    try:
        async with AgentCache.from_url(f"{url}?username=own&password=pw", name="test") as cache:
            await cache.llm.store(HELLO, "x")
            assert (await cache.llm.check(HELLO)).hit
            parts = internals(cache)
        assert {record.levelname for record in caplog.records} == {"WARNING"}
        logged = [record.getMessage() for record in caplog.records]
        assert logged[0].startswith("cache 'test': cannot read the registry of caches")
        # Without channels the cache cannot subscribe either, which is a second warning.
        assert len(logged) == 1 + (not channels)
        assert all("max_staleness" in text for text in logged[1:])
        assert parts.discovery_write_failed_count >= 2
    finally:
        plain.acl_deluser("own")


async def test_statistics_equal_the_counts_of_the_test(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """Count 10,000 L1 hits, 2,000 L2 hits and 500 misses of three tools, and the savings to a millionth of a dollar."""
    cache, reader = make_cache(name="test"), make_cache(name="test", tool=TierOptions(l1=False))
    tools = {"a": 0.25, "b": 0.000001, "c": None}
    expected = {tool: {"hits": 0, "misses": 0} for tool in tools}
    for tool, cost in tools.items():
        await cache.tool.store(tool, {}, "x", cost=cost)
    for n in range(10_000):
        tool = "abc"[n % 3]
        assert (await cache.tool.check(tool, {})).source == "l1"
        expected[tool]["hits"] += 1
    for n in range(2_000):
        tool = "abc"[n % 3]
        assert (await reader.tool.check(tool, {})).source == "l2"
        expected[tool]["hits"] += 1
    for n in range(500):
        tool = "abc"[n % 3]
        assert not (await cache.tool.check(tool, {"n": n})).hit
        expected[tool]["misses"] += 1
    await cache.aclose()
    await reader.aclose()
    fields = stats_of(plain)
    assert fields["tool:hits"] == 12_000
    assert fields["tool:misses"] == 500
    for tool, counts in expected.items():
        assert fields[f"tool:{tool}:hits"] == counts["hits"]
        assert fields[f"tool:{tool}:misses"] == counts["misses"]
    saved = {"a": 250_000 * expected["a"]["hits"], "b": expected["b"]["hits"]}
    assert {tool: fields.get(f"tool:{tool}:cost_saved_micros") for tool in "abc"} == {**saved, "c": None}
    assert fields["cost_saved_micros"] == sum(saved.values())
    assert not {"hits", "misses", "total"} & fields.keys()


async def test_statistics_count_llm_answers_and_a_coalesced_caller_as_a_miss(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", prices={"m": (1000.0, 0.0)})
    # These tokens cost 12 dollars.
    await cache.llm.store(asking("x", model="m"), "x", tokens={"input": 12, "output": 0})
    assert (await cache.llm.check(asking("x", model="m"))).hit
    release = asyncio.Event()

    async def load() -> str:
        await release.wait()
        return "x"

    loading = [asyncio.create_task(cache.llm.get_or_load(HELLO, load)) for _ in range(5)]
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(*loading)
    for mode in ("refresh", "bypass", "store_only"):
        await cache.llm.get_or_load(HELLO, lambda: "x", mode=mode)  # type: ignore[arg-type]
    await cache.aclose()
    assert stats_of(plain) == {
        "llm:hits": 1,
        "llm:misses": 5,
        "tc:llm:coalesced": 4,
        "cost_saved_micros": 12_000_000,
    }


async def test_statistics_take_at_most_two_exchanges_per_second(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.llm.store(HELLO, "x")
    exchanges = count_exchanges(monkeypatch)
    began = asyncio.get_running_loop().time()
    for n in range(10_000):
        assert (await cache.llm.check(HELLO)).source == "l1"
        if n % 100 == 0:
            await asyncio.sleep(0.025)
    seconds = asyncio.get_running_loop().time() - began
    assert 1 <= exchanges[True] <= 2 * seconds
    # The subscription needs two requests: the number of the last change, and the state of the server's tracking.
    assert exchanges[False] <= 2 * (seconds + 1)


def test_statistics_are_sent_during_a_second_run(
    url: str, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, send=0.01)

    def work() -> None:
        cache = AgentCache.from_url(url, name="test")

        async def look_up(expected: int) -> None:
            await cache.llm.check(HELLO)
            # The cache is open: its end does not send these.
            await until(lambda: stats_of(plain).get("llm:misses") == expected)

        for expected in (1, 2):
            asyncio.run(look_up(expected))

    run_in_thread(work)


async def test_statistics_send_an_increment_once_even_if_its_answer_is_lost(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test")
    await cache.llm.store(HELLO, "x")
    await cache.llm.check(HELLO)
    with monkeypatch.context() as patch:
        lose_command_replies(patch)
        with pytest.raises(L2UnavailableError):
            await cache.stats()
    await cache.llm.check(HELLO)
    assert (await cache.stats()).llm.hits == 2
    await cache.aclose()
    assert stats_of(plain)["llm:hits"] == 2


async def test_statistics_cover_the_whole_fleet(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    one, other = make_cache(name="test"), make_cache(name="test")
    await one.tool.set_policy("search", ToolPolicy(60))
    await one.tool.get_or_load("search", {}, lambda: "x", cost=0.5)
    await one.flush_writes()
    await other.tool.get_or_load("search", {}, lambda: "x")
    await other.stats()  # This call sends the counts of ``other``.
    plain.hset("test:__stats", "tool:broken:hits", "many")
    plain.hset("test:__stats", b"\xff", "1")
    stats = await one.stats()
    assert (stats.tool.hits, stats.tool.misses, stats.tool.total, stats.tool.hit_rate) == (1, 1, 2, 0.5)
    assert stats.cost_saved_micros == 500_000
    assert stats.per_tool["search"].ttl == 60
    assert (stats.per_tool["search"].hits, stats.per_tool["search"].cost_saved_micros) == (1, 500_000)
    assert "broken" not in stats.per_tool
    assert (stats.llm.total, stats.llm.hit_rate) == (0, 0.0)


async def test_statistics_exist_without_valkey() -> None:
    async with AgentCache.in_memory() as cache:
        for _ in range(4):
            await cache.tool.get_or_load("t", {}, lambda: "x", cost=1)
        for _ in range(2):
            stats = await cache.stats()
            assert (stats.tool.hits, stats.tool.misses, stats.cost_saved_micros) == (3, 1, 3_000_000)


@pytest.mark.parametrize(
    ("hits", "misses", "ttl", "expected"),
    [
        (9, 1, 60, "increase_ttl"),
        (9, 1, 3600, "optimal"),
        (9, 1, None, "optimal"),
        (8, 2, 60, "optimal"),
        (4, 6, 60, "optimal"),
        (3, 7, 60, "decrease_ttl_or_disable"),
        (0, 1, None, "decrease_ttl_or_disable"),
    ],
)
async def test_effectiveness_recommends_as_the_monitor_does(
    make_cache: MakeCache, plain: valkey.Valkey, hits: int, misses: int, ttl: int | None, expected: str
) -> None:
    cache = make_cache(name="test", tool=TierOptions(ttl=ttl))
    plain.hset("test:__stats", mapping={"tool:t:hits": hits, "tool:t:misses": misses, "tool:t:cost_saved_micros": 5})
    plain.hset("test:__stats", mapping={"tool:rich:hits": 1, "tool:rich:misses": 0, "tool:rich:cost_saved_micros": 9})
    rich, plain_tool = await cache.tool_effectiveness()
    assert (rich.tool, plain_tool.tool) == ("rich", "t")  # The tool with the most savings is first.
    assert plain_tool.recommendation == expected
    assert (plain_tool.hit_rate, plain_tool.cost_saved) == (hits / (hits + misses), 0.000005)
    judged = [verdict.tool for verdict in await cache.tool_effectiveness(min_samples=2)]
    assert judged == (["t"] if hits + misses > 1 else [])
    with pytest.raises(UsageError, match="min_samples"):
        await cache.tool_effectiveness(min_samples=0)


async def test_effectiveness_uses_the_ttl_of_the_policy_before_the_tiers(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", tool=TierOptions(ttl=60))
    plain.hset("test:__stats", mapping={"tool:t:hits": 9, "tool:t:misses": 1})
    await cache.tool.set_policy("t", ToolPolicy("2h"))
    assert [verdict.recommendation for verdict in await cache.tool_effectiveness()] == ["optimal"]


async def test_lookup_in_valkey_misses_after_the_monitor_deleted_the_keys(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", tool=TierOptions(l1=False))
    for n in range(10):
        await cache.tool.store("search", {"n": n}, "x")
    await cache.tool.store("other", {}, "x")
    assert plain.delete(*plain.scan_iter("test:tool:search:*")) == 10
    assert not (await cache.tool.check("search", {"n": 1})).hit
    assert (await cache.tool.check("other", {})).hit


def test_heartbeat_lives_longer_than_the_interval_of_registrations() -> None:
    assert monitor_intervals() == (60, 30)
