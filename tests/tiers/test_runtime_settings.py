"""Settings at run time: tiers and tools that are disabled and configured in every process, read tolerantly."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
import valkey

from tests.requests import Loader
from tests.seams import (
    HeldCommands,
    HeldPings,
    HeldReads,
    JobDefect,
    fail_commands,
    internals,
    set_intervals,
    without_hand_over,
    without_switch_at_fills,
)
from tests.support import MakeCache, until
from tiercache import (
    MISS,
    NO_EXPIRY,
    AgentCache,
    CoherenceOptions,
    L2UnavailableError,
    RuntimeSettings,
    TierOptions,
    ToolPolicy,
    UsageError,
)
from tiercache.testing import ChaosProxy

KEY = "test:__tc:settings"
OFF = RuntimeSettings(enabled=False)
PARAMS = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


async def load(cache: AgentCache, tier: str, value: str = "x") -> Any:
    """Load an entry of ``tier``, and return the result."""
    if tier == "llm":
        return await cache.llm.get_or_load(PARAMS, lambda: value)
    if tier == "tool":
        return await cache.tool.get_or_load("search", {"q": 1}, lambda: value)
    return await cache.tier(tier).get_or_load("key", lambda: value)


def entries(plain: valkey.Valkey) -> list[bytes]:
    """Return the keys of the entries in Valkey."""
    found = [key for kind in ("llm", "tool", "__tc:kv") for key in plain.scan_iter(f"test:{kind}:*")]
    return sorted(key for key in found if not key.startswith(b"test:__tc:kvs"))


each_tier = pytest.mark.parametrize("tier", ["llm", "tool", "kv", "named"])


@each_tier
async def test_settings_disable_tier_at_run_time_in_a_second_process(
    make_cache: MakeCache, plain: valkey.Valkey, tier: str
) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    await load(cache, tier)
    assert (await load(other, tier)).source == "l2"
    assert (await load(other, tier)).source == "l1"
    await cache.configure(tier, OFF)
    assert plain.hgetall(KEY) == {f"tier:{tier}".encode(): b'{"enabled":false}'}
    await until(lambda: other.settings(tier) == OFF)
    before = entries(plain)
    for each in (cache, other):
        counts = each.local_stats().tiers[tier]
        hits = counts.l1_hits + counts.l2_hits
        assert (await load(each, tier, "y")).source == "loader"
        assert (await load(each, tier, "z")).source == "loader"
        counts = each.local_stats().tiers[tier]
        assert counts.l1_hits + counts.l2_hits == hits
        await each.flush_writes()
    assert entries(plain) == before  # Nothing is stored.
    await cache.configure(tier, None)
    assert not plain.exists(KEY)
    assert (await load(cache, tier, "y")).source == "l2"
    await until(lambda: other.settings(tier) is None)
    assert (await load(other, tier, "y")).source == "l2"


async def test_settings_disable_one_tool_and_no_other(cache: AgentCache) -> None:
    for tool in ("search", "weather"):
        await cache.tool.store(tool, {}, "old")
    await cache.configure("tool", OFF, tool="search")
    assert not (await cache.tool.check("search", {})).hit
    assert (await cache.tool.check("weather", {})).source == "l1"
    explanation = await cache.tool.explain("search", {})
    assert (explanation.enabled, explanation.source, explanation.l2) == (False, None, "hit")
    assert "disabled at run time" in str(explanation)
    assert (await cache.tool.explain("weather", {})).enabled


async def test_settings_disable_the_pins_of_a_tool_too(cache: AgentCache) -> None:
    await cache.tool.pin("search", {}, "approved")
    assert (await cache.tool.check("search", {})).source == "pin"
    await cache.configure("tool", OFF, tool="search")
    assert not (await cache.tool.check("search", {})).hit
    assert (await cache.tool.get_or_load("search", {}, lambda: "x")).response == "x"
    assert (await cache.tool.explain("search", {})).source is None
    await cache.configure("tool", None, tool="search")
    assert (await cache.tool.check("search", {})).source == "pin"


@pytest.mark.parametrize("memory_only", [False, True])
async def test_settings_drop_stores_of_a_disabled_tier_and_the_older_value(
    cache: AgentCache, memory: AgentCache, memory_only: bool
) -> None:
    cache = memory if memory_only else cache
    await cache.kv.set("key", "old")
    await cache.kv.set_many({"a": "old", "b": "old"})
    await cache.tool.store("search", {}, "kept")
    await cache.configure("kv", OFF)
    await cache.kv.set("key", "new")
    await cache.kv.set_many({"a": "new"})
    assert (await cache.kv.get_or_load("b", lambda: "new", mode="refresh")).value == "new"
    assert await cache.kv.get_many(["key", "a", "b"], MISS) == {"key": MISS, "a": MISS, "b": MISS}
    await cache.configure("kv", None)
    # No lookup may find a value from before the last store.
    assert await cache.kv.get_many(["key", "a", "b"], MISS) == {"key": MISS, "a": MISS, "b": MISS}
    assert (await cache.tool.check("search", {})).hit


async def test_settings_keep_single_flight_of_a_disabled_tier(cache: AgentCache) -> None:
    await cache.configure("kv", OFF)
    loads = []

    async def loader() -> str:
        loads.append(1)
        await asyncio.sleep(0)
        return "x"

    results = await asyncio.gather(*(cache.kv.get_or_load("key", loader) for _ in range(10)))
    assert [result.value for result in results] == ["x"] * 10
    assert len(loads) == 1
    assert (await cache.kv.get_or_load_many(["key", "b"], lambda keys: dict.fromkeys(keys, 1))) == {"key": 1, "b": 1}
    assert await cache.kv.get("b") is None


async def disable_during_load(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Disable the tier while a load waits for Valkey; return the value of a lookup afterwards, in the same process."""
    reads = HeldReads(monkeypatch)
    loading = asyncio.create_task(cache.kv.get_or_load("key", lambda: "x"))
    await reads.answered.wait()
    await cache.configure("kv", OFF)
    # This lookup breaks the fence of the load, and the load renews its fence before it calls the loader.
    assert await cache.kv.get("other") is None
    reads.release.set()
    assert (await loading).value == "x"
    await cache.flush_writes()
    return await cache.kv.get("key")


async def test_settings_keep_a_load_under_way_out_of_the_cache(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await disable_during_load(cache, monkeypatch) is None
    assert entries(plain) == []


async def test_settings_keep_a_load_under_way_without_switch_at_fills(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_switch_at_fills(cache)
    assert await disable_during_load(cache, monkeypatch) == "x"


async def test_settings_that_changed_while_there_was_no_subscription_are_read(
    make_cache: MakeCache, proxy: ChaosProxy
) -> None:
    other = make_cache(name="test")
    async with AgentCache.from_url(proxy.url, name="test") as cache:
        proxy.refuse()
        proxy.kill()
        await other.configure("kv", OFF)
        proxy.refuse(False)
        # A registration, which reads the settings too, follows only half a minute later.
        await until(lambda: cache.settings("kv") == OFF, 10)


async def test_settings_are_read_again_soon_after_a_read_that_failed(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tiercache")
    await cache.open()
    with monkeypatch.context() as patch:
        fail_commands(patch)
        plain.hset(f"{cache.name}:__tc:settings", "tier:kv", '{"enabled":false}')
        await until(lambda: "cannot read the settings" in caplog.text)
    await until(lambda: cache.settings("kv") == OFF, 10)


async def test_settings_end_the_search_of_a_load_for_its_lease(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    await cache.kv.set("stored", "x")
    release = asyncio.Event()

    async def load_slowly() -> str:
        await release.wait()
        return "from the other process"

    holding = asyncio.create_task(other.kv.get_or_load("key", load_slowly))
    await until(lambda: plain.exists("test:__tc:kv:kv:key"))
    waiting = asyncio.create_task(cache.kv.get_or_load("key", lambda: "loaded"))
    await until(lambda: cache.local_stats().tiers["kv"].lease_waits == 1)
    await cache.configure("kv", OFF)
    # A value in Valkey, which no lookup may read, and which the search must not wait for.
    plain.set("test:__tc:kv:kv:key", plain.get("test:__tc:kv:kv:stored"))
    async with asyncio.timeout(5):
        assert (await waiting).value == "loaded"
    release.set()
    await holding


async def test_settings_serve_an_entry_of_l1_without_hand_over(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_hand_over(monkeypatch)
    await cache.kv.set("key", "x")
    await cache.configure("kv", OFF)
    assert await cache.kv.get("key") == "x"


async def test_settings_let_a_disabled_tier_remember_no_error(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", kv=TierOptions(cache_errors={KeyError: 60}))
    await cache.configure("kv", OFF)
    loader = Loader(KeyError("k"))
    for _ in range(2):
        with pytest.raises(KeyError):
            await cache.kv.get_or_load("key", loader)
    assert loader.calls == 2


async def test_settings_of_the_sync_face_reach_the_async_face_at_once(cache: AgentCache) -> None:
    await cache.kv.set("key", "x")
    await asyncio.to_thread(cache.sync.configure, "kv", OFF)
    assert cache.settings("kv") == OFF
    assert await cache.kv.get("key") is None
    assert cache.sync.settings("kv") == OFF
    await cache.configure("kv", None)
    await cache.kv.set("key", "y")
    assert await asyncio.to_thread(cache.sync.kv.get, "key") == "y"
    assert await asyncio.to_thread(cache.sync.refresh_settings)


async def test_settings_ttl_stands_between_the_call_and_the_options(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", default_ttl=100, tool=TierOptions(ttl=200))

    async def ttl(**wish: Any) -> int:
        return int(plain.ttl(await cache.tool.store("search", {}, "x", **wish)))

    await cache.configure("tool", RuntimeSettings(ttl=300))
    assert await ttl() == 300
    await cache.tool.set_policy("search", ToolPolicy(400))
    assert await ttl() == 400
    await cache.configure("tool", RuntimeSettings(ttl="500s"), tool="search")
    assert await ttl() == 500
    assert await ttl(ttl=600) == 600
    await cache.configure("kv", RuntimeSettings(ttl=timedelta(seconds=70)))
    await cache.kv.set("key", 1)
    assert plain.ttl("test:__tc:kv:kv:key") == 70
    await cache.configure("kv", None)
    await cache.kv.set("key", 1)
    assert plain.ttl("test:__tc:kv:kv:key") == 100


async def test_settings_in_valkey_apply_to_the_first_call(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    plain.hset(KEY, mapping={"tier:kv": '{"ttl": 60, "note": "of an operator"}', "tool:search": '{"enabled":false}'})
    await make_cache(name="test").kv.set_many({"a": 1})
    assert plain.ttl("test:__tc:kv:kv:a") == 60
    await make_cache(name="test").tool.store("search", {}, "x")
    assert entries(plain) == [b"test:__tc:kv:kv:a"]


async def test_settings_cost_counts_for_calls_without_a_cost(cache: AgentCache) -> None:
    await cache.configure("tool", RuntimeSettings(cost=0.25))
    await cache.configure("tool", RuntimeSettings(cost=0.5), tool="search")
    for tool, cost in (("search", None), ("weather", None), ("search", 0.125)):
        await cache.tool.store(tool, {"of": cost}, "x", cost=cost)
        await cache.tool.check(tool, {"of": cost})
    assert cache.local_stats().tiers["tool"].saved_micros == 875_000


async def test_settings_of_an_operator_are_visible_after_a_refresh(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("key", "x")
    plain.hset(KEY, "tier:kv", '{"enabled":false}')
    assert await cache.refresh_settings()
    assert cache.settings("kv") == OFF
    assert await cache.kv.get("key") is None
    plain.hdel(KEY, "tier:kv")
    await until(lambda: cache.settings("kv") is None)  # The server reports the change.
    assert await cache.kv.get("key") == "x"


BAD = [
    b"[1]", b"5", b"null", b"junk", b"", b"\xff", b'{"ttl":0}', b'{"ttl":"60s"}', b'{"ttl":true}', b'{"ttl":1e99}',
    b'{"enabled":0}', b'{"enabled":null}', b'{"stale_for":-1}', b'{"stale_for":NaN}', b'{"cost":"1"}', b"[" * 100_000,
]  # fmt: skip
BAD_FIELDS = [b"\xff", b"tier:", b"tool:", b"tool:a:b", b"tier:session", b"tier:a b", b"kv", b"group:kv"]


async def test_settings_that_are_malformed_are_counted_and_the_loop_goes_on(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.hset(KEY, mapping={f"tier:bad{n}": value for n, value in enumerate(BAD)})
    plain.hset(KEY, mapping=dict.fromkeys(BAD_FIELDS, '{"enabled":false}'))
    plain.hset(KEY, "tier:kv", '{"ttl":600}')
    await until(lambda: cache.settings("kv") == RuntimeSettings(ttl=600))  # By the background loop.
    for _ in range(3):
        assert await cache.refresh_settings()
    assert all(cache.settings(f"bad{n}") is None for n in range(len(BAD)))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(BAD) + len(BAD_FIELDS)  # Each field is logged once, and not at each refresh.
    plain.hset(KEY, "tier:kv", '{"ttl":700}')
    await until(lambda: cache.settings("kv") == RuntimeSettings(ttl=700))


async def test_settings_removed_during_a_refresh_stay_removed(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.configure("kv", OFF)
    await until(lambda: cache.settings("kv") == OFF)
    refresh = HeldCommands(monkeypatch, "HGETALL")
    refreshing = asyncio.create_task(cache.refresh_settings())
    await refresh.answered.wait()
    await cache.configure("kv", None)
    refresh.release.set()
    assert await refreshing
    assert cache.settings("kv") is None


async def test_settings_stay_known_while_valkey_is_unavailable(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.configure("kv", OFF)
    with monkeypatch.context() as patch:
        fail_commands(patch)
        assert not await cache.refresh_settings()
        with pytest.raises(L2UnavailableError):
            await cache.configure("kv", None)
    assert cache.settings("kv") == OFF


async def test_settings_that_change_in_an_outage_are_read_after_it(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one report of the change has come, and the read that it caused got no answer."""
    set_intervals(monkeypatch, send=0.01)
    rounds, reads = JobDefect(monkeypatch, "service"), JobDefect(monkeypatch, "settings")
    rounds.is_on = reads.is_on = False
    cache = make_cache(name="test")
    await cache.open()
    pings = HeldPings(monkeypatch)
    with monkeypatch.context() as patch:
        fail_commands(patch)
        read_count = reads.count
        plain.hset(KEY, "tier:kv", '{"enabled":false}')
        await until(lambda: reads.count > read_count)
        internals(cache).breaker.trip(L2UnavailableError("away"))
        round_count = rounds.count
        await until(lambda: rounds.count >= round_count + 2)
    assert cache.settings("kv") is None
    pings.release.set()
    await until(lambda: cache.settings("kv") == OFF)


async def test_settings_of_an_operator_are_read_each_round_without_tracking(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, send=0.01)
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    await cache.open()
    plain.hset(KEY, "tier:kv", '{"enabled":false}')
    await until(lambda: cache.settings("kv") == OFF)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("enabled", 1), ("ttl", 0), ("ttl", NO_EXPIRY), ("ttl", "x"), ("stale_for", -1), ("stale_for", True),
        ("stale_for", float("nan")), ("cost", -1), ("cost", "1"), ("cost", 1e9),
    ],
)  # fmt: skip
def test_settings_refuse_a_wrong_value_by_its_name(setting: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"RuntimeSettings\.{setting} must be"):
        RuntimeSettings(**{setting: value})


async def test_settings_refuse_sessions_and_wrong_names(cache: AgentCache, plain: valkey.Valkey) -> None:
    for tier in ("session", "", "a:b", None):
        with pytest.raises(UsageError, match="tier must"):
            await cache.configure(tier, OFF)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="tier must"):
            cache.settings(tier)  # type: ignore[arg-type]
    for tool in ("", "a:b", 5):
        with pytest.raises(UsageError, match="tool "):
            await cache.configure("tool", OFF, tool=tool)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="tool must be None for the tier 'kv'"):
        await cache.configure("kv", OFF, tool="search")
    with pytest.raises(UsageError, match=r"settings\.cost must be None"):
        await cache.configure("llm", RuntimeSettings(cost=1))
    with pytest.raises(UsageError, match="settings must be RuntimeSettings"):
        await cache.configure("kv", {"enabled": False})  # type: ignore[arg-type]
    assert not plain.exists(KEY)
