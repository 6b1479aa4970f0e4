"""betterdb's option objects: what they set, what is refused, and what is logged because it is not used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import betterdb_agent_cache as betterdb
import prometheus_client
import pytest
import valkey
import valkey.asyncio
from valkey.asyncio.cluster import ValkeyCluster

from tests.requests import HELLO, asking
from tests.support import entry_keys
from tiercache import AgentCache, L2CommandError
from tiercache.compat import betterdb as compat
from tiercache.compat.betterdb.adapters.openai_responses import prepare_params
from tiercache.compat.betterdb.types import AnalyticsOptions, TelemetryOptions

MakeCompat = Callable[..., compat.AgentCache]


async def test_compat_takes_lifetimes_from_call_tier_and_cache_in_this_order(
    make_compat: MakeCompat, plain: valkey.Valkey
) -> None:
    cache = make_compat(default_ttl=100, tier_defaults={"llm": compat.TierDefaults(ttl=200), "tool": None})
    await cache.llm.store(HELLO, "x", compat.LlmStoreOptions(ttl=300))
    await cache.llm.store(asking("tier"), "x")
    await cache.tool.store("t", {}, "x")
    await cache.session.set("t", "f", "x")
    keys = [cache.tiercache.llm.key(HELLO).key, cache.tiercache.llm.key(asking("tier")).key]
    keys += [cache.tiercache.tool.key("t", {}).key, "test:session:t:f"]
    assert [round(plain.ttl(key), -1) for key in keys] == [300, 200, 100, 100]


async def test_compat_entries_without_a_lifetime_do_not_expire(make_compat: MakeCompat, plain: valkey.Valkey) -> None:
    cache = make_compat()
    assert plain.ttl(await cache.llm.store(HELLO, "x")) == -1


@pytest.mark.parametrize(("use_default", "saved"), [(True, 2), (False, 0)])
async def test_compat_takes_prices(make_compat: MakeCompat, use_default: bool, saved: int) -> None:
    mine = compat.ModelCost(input_per_1k=1.0, output_per_1k=0.0)
    cache = make_compat(cost_table={"mine": mine}, use_default_cost_table=use_default)
    options = compat.LlmStoreOptions(tokens={"input": 1000, "output": 0})
    for model in ("mine", "gpt-4o"):
        await cache.llm.store(asking("x", model), "x", options)
        await cache.llm.check(asking("x", model))
    bundled = compat.DEFAULT_COST_TABLE["gpt-4o"].input_per_1k if use_default else 0
    assert (await cache.stats()).cost_saved_micros == round((1.0 + bundled) * 1e6)
    assert bool(saved) == bool(bundled)


async def test_compat_reports_metrics_under_the_given_names(make_compat: MakeCompat) -> None:
    registry = prometheus_client.CollectorRegistry()
    cache = make_compat(telemetry=TelemetryOptions(metrics_prefix="mine", registry=registry))
    await cache.llm.check(HELLO)
    labels = {"cache_name": "test", "tier": "llm", "result": "miss", "tool_name": ""}
    assert registry.get_sample_value("mine_requests_total", labels) == 1


@pytest.mark.parametrize("enabled", [True, False])
async def test_compat_registers_for_the_monitor_unless_it_is_told_not_to(
    make_compat: MakeCompat, plain: valkey.Valkey, enabled: bool
) -> None:
    cache = make_compat(discovery=compat.DiscoveryOptions(enabled=enabled))
    await cache.ensure_discovery_ready()
    assert plain.hexists("__betterdb:caches", "test") == enabled


async def test_compat_refuses_a_name_of_another_kind_of_cache(make_compat: MakeCompat, plain: valkey.Valkey) -> None:
    plain.hset("__betterdb:caches", "test", '{"type": "semantic_cache"}')
    with pytest.raises(compat.AgentCacheUsageError, match="semantic_cache"):
        await make_compat().ensure_discovery_ready()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config_refresh": compat.ConfigRefreshOptions(interval_ms=1000)}, "config_refresh"),
        ({"config_refresh": compat.ConfigRefreshOptions(enabled=False)}, "config_refresh"),
        ({"discovery": compat.DiscoveryOptions(heartbeat_interval_ms=5)}, "heartbeat_interval_ms"),
        ({"discovery": compat.DiscoveryOptions(include_tool_policies=False)}, "include_tool_policies"),
        ({"discovery": compat.DiscoveryOptions(enabled=False), "analytics": AnalyticsOptions(True, 5.0)}, None),
    ],
)
async def test_compat_logs_an_option_that_it_does_not_use(
    make_compat: MakeCompat, caplog: pytest.LogCaptureFixture, options: dict[str, Any], said: str | None
) -> None:
    with caplog.at_level(logging.WARNING):
        make_compat(**options)
    assert [said in message for message in caplog.messages] == ([] if said is None else [True])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"client": None}, "client must be a valkey.asyncio.Valkey; for memory alone"),
        ({"client": "valkey://localhost"}, "client must be a valkey.asyncio.Valkey"),
        ({"name": "a:b"}, "name"),
        ({"tier_defaults": {"sessions": compat.TierDefaults(ttl=5)}}, "tier_defaults must be for llm, tool, session"),
        ({"default_ttl": 0}, "default_ttl"),
        ({"cost_table": {"m": "dear"}}, "prices"),
    ],
)
def test_compat_refuses_a_wrong_option(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(compat.AgentCacheUsageError, match=reason):
        compat.AgentCache(compat.AgentCacheOptions(**{"client": valkey.asyncio.Valkey(), **options}))


def test_compat_refuses_options_of_the_other_library() -> None:
    theirs: Any = betterdb.AgentCacheOptions(client=valkey.asyncio.Valkey())
    with pytest.raises(compat.AgentCacheUsageError, match=r"not betterdb_agent_cache\.types\.AgentCacheOptions"):
        compat.AgentCache(theirs)


def test_compat_refuses_a_cluster() -> None:
    with pytest.raises(compat.AgentCacheUsageError, match="ValkeyCluster"):
        compat.AgentCache(compat.AgentCacheOptions(client=object.__new__(ValkeyCluster)))


async def test_compat_stands_on_a_cache_with_options_of_tiercache() -> None:
    async with AgentCache.in_memory() as memory:
        cache = compat.AgentCache(memory)
        assert cache.tiercache is memory
        await cache.llm.store(HELLO, "Hi")
        assert (await memory.llm.check(HELLO)).response == "Hi"
        assert (await cache.session.get_all("t")) == {}


@pytest.mark.parametrize(("state", "is_stored"), [({}, True), ({"previous_response_id": "resp_1"}, False)])
async def test_compat_stores_no_answer_that_depends_on_more_than_its_request(
    make_compat: MakeCompat, plain: valkey.Valkey, state: dict[str, str], is_stored: bool
) -> None:
    cache = make_compat()
    params = await prepare_params({"model": "gpt-4o", "input": "And of Romania?", **state})
    await cache.llm.store(params, "Bucharest")
    await cache.llm.store_multipart(params, [{"type": "text", "text": "Bucharest"}])
    assert bool(entry_keys(plain)) == is_stored
    assert (await cache.llm.check(params)).hit == is_stored


async def test_compat_leaves_the_client_open(make_compat: MakeCompat, url: str) -> None:
    async with valkey.asyncio.Valkey.from_url(url) as client:
        cache = make_compat(client=client)
        await cache.llm.check(HELLO)
        await cache.shutdown()
        assert await client.ping()


def test_compat_error_names_the_command_and_its_cause() -> None:
    cause = L2CommandError("OOM")
    error = compat.ValkeyCommandError("SET", cause)
    assert (str(error), error.command, error.__cause__) == ("Valkey did not carry out SET: OOM", "SET", cause)
    assert isinstance(error, compat.AgentCacheError)


async def test_compat_analytics_report_nothing() -> None:
    analytics = compat.Analytics()
    await analytics.init(None, "test")
    analytics.capture("event", {"a": 1})
    analytics.flush()
    await analytics.shutdown()
    assert vars(analytics) == {}
