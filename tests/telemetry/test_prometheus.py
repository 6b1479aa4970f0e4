"""Prometheus: the metrics in a scrape over HTTP."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from typing import Any

os.environ["BETTERDB_TELEMETRY"] = "false"

import betterdb_agent_cache as betterdb
import prometheus_client
import pytest
import valkey
import valkey.asyncio
from betterdb_agent_cache.types import TelemetryOptions as PeerTelemetryOptions
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from tests.requests import HELLO, Loader, asking
from tests.seams import TelemetryView, act_during_snapshot, close_engine, internals, tier_counters, weak_references
from tests.support import kept_registry, until
from tiercache import AgentCache, LlmResponse, TelemetryOptions, UsageError
from tiercache.engine.entries.operation import OperationLog
from tiercache.engine.hooks.calls import HookCalls
from tiercache.engine.hooks.registry import HookRegistry
from tiercache.log import CacheLog
from tiercache.telemetry import names
from tiercache.testing import FakeClock

MakeCache = Callable[..., AgentCache]


@pytest.fixture(params=[False, True], ids=["plain", "auto_describe"])
def registry(request: pytest.FixtureRequest) -> CollectorRegistry:
    return kept_registry(auto_describe=request.param)


def on(registry: Any, **options: Any) -> TelemetryOptions:
    return TelemetryOptions(registry=registry, **options)


@pytest.fixture(scope="module", autouse=True)
def metrics_server() -> Iterator[None]:
    """Start the HTTP server of prometheus_client, which ``Scrape`` reads."""
    Scrape.server, thread = start_http_server(0, "127.0.0.1")
    yield
    Scrape.server.shutdown()
    Scrape.server.server_close()
    thread.join()


class Scrape:
    """One scrape over HTTP, and its samples."""

    server: Any

    def __init__(self, registry: Any) -> None:
        self.server.set_app(prometheus_client.make_wsgi_app(registry))
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.server_port}/metrics") as reply:
            self.text = reply.read().decode()
        self.server.set_app(None)  # The server must not keep the registry alive.
        self.families: list[Family] = list(text_string_to_metric_families(self.text))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def get(self, name: str, /, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def total(self, name: str, /, **labels: str) -> float:
        return sum(
            value for key, value in self.samples.items() if key[0] == name and labels.items() <= dict(key[1]).items()
        )

    def values_of(self, name: str, label: str) -> set[str]:
        return {dict(labels)[label] for sample, labels in self.samples if sample == name}


async def test_metrics_count_llm_and_tool_calls(
    make_cache: MakeCache, registry: CollectorRegistry, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="c", telemetry=on(registry), prices={"m": (1.0, 1.0)})
    params = {**HELLO, "model": "m"}
    # These tokens cost a quarter of a dollar.
    loader = Loader(LlmResponse("Hi", tokens={"input": 100, "output": 150}), held=True)
    waiting = [asyncio.ensure_future(cache.llm.get_or_load(params, loader)) for _ in range(3)]
    await loader.started.wait()
    loader.release()
    key = (await asyncio.gather(*waiting))[0].key
    await cache.llm.check(params)
    await cache.flush_writes()
    cache.clear_l1()
    await cache.llm.check(params)
    with pytest.raises(ZeroDivisionError):
        await cache.llm.get_or_load(asking("x"), lambda: str(1 // 0))
    await cache.tool.store("weather", {"city": "Sofia"}, "sunny", cost=0.5)
    await cache.tool.check("weather", {"city": "Sofia"})
    await cache.tool.check("rates", None)

    scrape = Scrape(registry)
    shown = {family.name: family for family in scrape.families}
    for metric in names.METRICS:
        family = shown.pop(f"agent_cache_{metric.name.removesuffix('_total')}")
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert family.samples
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
            assert sample.labels["cache_name"] == "c"
    assert not shown

    def get(name: str, **labels: str) -> float | None:
        return scrape.get(f"agent_cache_{name}", cache_name="c", **labels)

    assert get("requests_total", tier="llm", result="hit", tool_name="") == 2
    assert get("requests_total", tier="llm", result="miss", tool_name="") == 4
    assert get("requests_total", tier="tool", result="hit", tool_name="weather") == 1
    assert get("requests_total", tier="tool", result="miss", tool_name="weather") == 0
    assert get("requests_total", tier="tool", result="miss", tool_name="rates") == 1
    assert get("cost_saved_total", tier="llm", model="m", tool_name="") == 0.5
    assert get("cost_saved_total", tier="tool", model="", tool_name="weather") == 0.5
    assert get("level_hits_total", tier="llm", level="l1") == get("level_hits_total", tier="llm", level="l2") == 1
    assert get("level_hits_total", tier="tool", level="l1") == 1
    for name, count in {"loads": 2, "load_errors": 1, "coalesced": 2, "overtaken": 0, "l2_errors": 0}.items():
        assert get(f"{name}_total", tier="llm") == count, name
    assert get("stored_bytes_total", tier="llm") == plain.strlen(key)
    assert get("operation_errors_total", tier="llm", operation="get_or_load") == 1
    assert get("l1_entries") == 2
    assert get("l1_bytes") == cache.local_stats().l1_bytes > 0
    assert get("l1_evictions_total") == get("write_queue_depth") == get("breaker_open") == get("active_sessions") == 0
    assert get("config_refresh_failed_total") == get("discovery_write_failed_total") == 0

    duration = "operation_duration_seconds"
    of = {"tier": "llm", "operation": "check"}
    les = [1e-05, 2.5e-05, 5e-05, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]
    buckets = [get(f"{duration}_bucket", **of, le=le) for le in [*map(str, les), "+Inf"]]
    assert buckets == sorted(buckets)  # type: ignore[type-var]
    assert buckets[0] == 0
    assert buckets[-1] == get(f"{duration}_count", **of) == 1  # L1 answered the other check.
    assert 0 < (get(f"{duration}_sum", **of) or 0) < 1
    assert get(f"{duration}_count", tier="llm", operation="get_or_load") == 4
    assert get(f"{duration}_count", tier="tool", operation="store") == 1


async def test_metric_counts_the_active_sessions(make_cache: MakeCache, registry: CollectorRegistry) -> None:
    clock = FakeClock()
    cache = make_cache(name="c", telemetry=on(registry), clock=clock.clock)
    await cache.session.set("one", "field", "x", ttl=10)
    await cache.session.set("two", "field", "x", ttl=100)
    assert Scrape(registry).get("agent_cache_active_sessions", cache_name="c") == 2
    clock.advance(50)
    assert Scrape(registry).get("agent_cache_active_sessions", cache_name="c") == 1
    await cache.session.destroy_thread("two")
    scrape = Scrape(registry)
    assert scrape.get("agent_cache_active_sessions", cache_name="c") == 0
    assert scrape.total("agent_cache_stored_bytes_total", tier="session") == 2


async def test_metrics_count_unanswered_calls_of_valkey(registry: CollectorRegistry) -> None:
    cache = AgentCache.from_url("valkey://127.0.0.1:1", name="c", telemetry=on(registry))
    for _ in range(5):
        await cache.llm.check(HELLO)
    await cache.llm.get_or_load(HELLO, Loader())
    assert not await cache.tool.refresh_policies()
    internals(cache).add_failed_registrations(3)
    scrape = Scrape(registry)
    await cache.aclose()
    assert scrape.get("agent_cache_l2_errors_total", cache_name="c", tier="llm") == 6
    assert scrape.get("agent_cache_fills_dropped_total", cache_name="c", tier="llm") == 1
    assert scrape.get("agent_cache_stored_bytes_total", cache_name="c", tier="llm") == 0
    assert scrape.get("agent_cache_breaker_open", cache_name="c") == 1
    assert scrape.total("agent_cache_config_refresh_failed_total") > 0
    assert scrape.total("agent_cache_discovery_write_failed_total") >= 3


async def test_collector_reports_all_caches_of_a_registry(registry: CollectorRegistry) -> None:
    caches = [AgentCache.in_memory(name=name, telemetry=on(registry)) for name in ("a", "a", "b")]
    for cache in caches:
        await cache.tool.store("t", None, "x")
        await cache.tool.check("t", None)
    scrape = Scrape(registry)
    assert len({family.name for family in scrape.families}) == len(scrape.families) == len(names.METRICS)
    for metric in names.METRICS:
        assert scrape.text.count(f"# TYPE agent_cache_{metric.name} ") == 1
    for name, count in {"a": 2, "b": 1}.items():
        hits = scrape.get("agent_cache_requests_total", cache_name=name, tier="tool", result="hit", tool_name="t")
        assert hits == scrape.get("agent_cache_l1_entries", cache_name=name) == count
    for cache in caches:
        await cache.aclose()


def hits(registry: Any, name: str = "c") -> float:
    return Scrape(registry).total("agent_cache_level_hits_total", cache_name=name)


async def used(registry: Any, *, tool: str = "t", name: str = "c", **options: Any) -> AgentCache:
    cache = AgentCache.in_memory(name=name, telemetry=on(registry, **options))
    await cache.tool.store(tool, None, "x")
    await cache.tool.check(tool, None)
    return cache


async def test_counter_does_not_fall_when_a_cache_is_closed(registry: CollectorRegistry) -> None:
    first, second = await used(registry), await used(registry)
    before = Scrape(registry)
    await first.aclose()
    await first.aclose()
    after = Scrape(registry)
    counted = {key: value for key, value in before.samples.items() if key[0].endswith(("_total", "_count", "_bucket"))}
    assert counted
    assert {key: after.samples[key] for key in counted} == counted
    assert before.get("agent_cache_l1_entries", cache_name="c") == 2
    assert after.get("agent_cache_l1_entries", cache_name="c") == 1
    await second.tool.check("t", None)
    await second.aclose()
    assert hits(registry) == 3
    assert Scrape(registry).get("agent_cache_l1_entries", cache_name="c") is None


async def test_collector_keeps_the_counts_of_a_garbage_collected_cache(registry: CollectorRegistry) -> None:
    cache = await used(registry)
    assert hits(registry) == 1
    await cache.tool.check("t", None)
    await close_engine(cache)  # The event loop would keep an open cache alive.
    watched = weak_references(cache)
    del cache
    gc.collect()
    assert [ref() for ref in watched] == [None] * 3
    assert hits(registry) == hits(registry) == 2
    another = await used(registry)
    assert hits(registry) == 3
    await another.aclose()


async def test_collector_does_not_keep_a_registry_alive() -> None:
    for _ in range(3):
        registry = CollectorRegistry()
        cache = await used(registry)
        assert hits(registry) == 1
        watched = weakref.ref(registry)
        await cache.aclose()
        del registry, cache
        # The thread of the HTTP server may hold the registry a moment longer than its reply takes.
        await until(lambda watched=watched: gc.collect() >= 0 and watched() is None)


async def test_labels_beyond_the_limit_share_a_series(registry: CollectorRegistry) -> None:
    cache = AgentCache.in_memory(name="c", telemetry=on(registry, max_labels=3), prices={"m0": (1, 1), "m9": (1, 1)})
    for number in range(10):
        params = {**HELLO, "model": f"m{number}"}
        await cache.llm.store(params, "x", tokens={"input": 1000})
        await cache.llm.check(params)
        await cache.tool.check(f"t{number}", None)
    scrape = Scrape(registry)
    assert scrape.values_of("agent_cache_requests_total", "tool_name") == {"", "t0", "t1", "t2", "other"}
    assert scrape.values_of("agent_cache_cost_saved_total", "model") == {"", "m0", "m1", "m2", "other"}
    assert scrape.total("agent_cache_requests_total", tier="tool", tool_name="other") == 7
    assert scrape.total("agent_cache_cost_saved_total", model="m0") == 1
    assert scrape.total("agent_cache_cost_saved_total", model="other") == 1
    await cache.aclose()
    # The larger limit of a later cache does not separate the labels that already share a series.
    later = await used(registry, tool="t9", max_labels=100)
    after = Scrape(registry)
    assert after.values_of("agent_cache_requests_total", "tool_name") == {"", "t0", "t1", "t2", "other"}
    assert after.total("agent_cache_requests_total", tier="tool", tool_name="other") == 8
    await later.aclose()


async def test_label_of_a_model_that_is_not_unicode_does_not_fail_the_scrape(registry: CollectorRegistry) -> None:
    cache = AgentCache.in_memory(name="c", telemetry=on(registry))
    tier_counters(cache.llm).of("\ud800").misses += 1
    assert "?" in Scrape(registry).values_of("agent_cache_cost_saved_total", "model")
    await cache.aclose()


async def test_metrics_have_the_configured_prefix(registry: CollectorRegistry) -> None:
    ours, theirs = await used(registry, metrics_prefix="mine"), await used(registry)
    scrape = Scrape(registry)
    assert scrape.total("mine_level_hits_total") == scrape.total("agent_cache_level_hits_total") == 1
    await ours.aclose()
    await theirs.aclose()


async def test_metrics_are_absent_if_they_are_off(registry: CollectorRegistry) -> None:
    cache = await used(registry, metrics=False)
    assert Scrape(registry).families == []
    await cache.aclose()


async def test_metrics_appear_in_the_default_registry() -> None:
    cache = await used(None, name="on-default")
    assert hits(prometheus_client.REGISTRY, "on-default") == 1
    await cache.aclose()
    assert hits(prometheus_client.REGISTRY, "on-default") == 1


@pytest.mark.parametrize("peer_first", [True, False])
async def test_collector_shares_a_registry_with_betterdb(
    make_cache: MakeCache, registry: CollectorRegistry, url: str, peer_first: bool
) -> None:
    async with valkey.asyncio.Valkey.from_url(url) as client:

        def peer() -> betterdb.AgentCache:
            telemetry = PeerTelemetryOptions(registry=registry)
            return betterdb.AgentCache(betterdb.AgentCacheOptions(client=client, name="peer", telemetry=telemetry))

        theirs = peer() if peer_first else None
        ours = make_cache(name="ours", telemetry=on(registry))
        theirs = theirs or peer()
        await theirs.tool.check("t", {})
        await ours.tool.check("t", {})
        await theirs.shutdown()
    scrape = Scrape(registry)
    for name in ("peer", "ours"):
        assert scrape.total("agent_cache_requests_total", cache_name=name, result="miss", tool_name="t") == 1


class Refusing:
    def register(self, collector: object) -> None:
        raise ValueError("no more metrics")


async def test_metrics_are_off_with_a_registry_that_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = await used(Refusing())
    await cache.aclose()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].getMessage().startswith("cache 'c': ")
    assert "no more metrics" in caplog.text


async def test_collector_reports_the_other_numbers_if_one_cannot_be_read(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    cache = await used(registry)
    TelemetryView(cache).set_counter(names.CONFIG_REFRESH_FAILED.name, lambda: 7)
    assert Scrape(registry).total("agent_cache_config_refresh_failed_total") == 7
    TelemetryView(cache).set_gauge(names.ACTIVE_SESSIONS.name, lambda: 1 // 0)
    TelemetryView(cache).set_counter(names.CONFIG_REFRESH_FAILED.name, lambda: 1 // 0)
    assert hits(registry) == hits(registry) == 1
    assert Scrape(registry).total("agent_cache_config_refresh_failed_total") == 7
    await cache.aclose()
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("cache 'c': ")


async def test_collector_reports_the_numbers_of_other_parts(registry: CollectorRegistry) -> None:
    cache = await used(registry)
    TelemetryView(cache).set_gauge(names.ACTIVE_SESSIONS.name, lambda: 5)
    TelemetryView(cache).set_counter(names.DISCOVERY_WRITE_FAILED.name, lambda: 7)
    scrape = Scrape(registry)
    assert scrape.get("agent_cache_active_sessions", cache_name="c") == 5
    assert scrape.get("agent_cache_discovery_write_failed_total", cache_name="c") == 7
    await cache.aclose()
    assert Scrape(registry).get("agent_cache_discovery_write_failed_total", cache_name="c") == 7


async def test_collector_hides_no_other_metrics_after_a_defect(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    prometheus_client.Counter("other", "A metric of the application.", registry=registry).inc()
    cache = await used(registry)
    TelemetryView(cache).break_collection()
    for _ in range(2):
        assert [family.name for family in Scrape(registry).families] == ["other", "other_created"]
    await cache.aclose()
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("cache 'c': ")


async def test_collector_names_the_cache_whose_number_cannot_be_read(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = await used(registry, name="broken"), await used(registry, name="whole")
    TelemetryView(broken).set_gauge(names.ACTIVE_SESSIONS.name, lambda: 1 // 0)
    assert hits(registry, "broken") == hits(registry, "whole") == 1
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == ["cache 'broken'"]
    await broken.aclose()
    await whole.aclose()


def test_operation_log_is_read_while_an_operation_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    log = OperationLog(lambda: 0.0, HookCalls(HookRegistry(), CacheLog("test")))
    log.operation("first", None, {})
    act_during_snapshot(monkeypatch, lambda: log.operation("second", None, {}))
    assert set(log.snapshot()) == {"first"}


@pytest.fixture
def scraping(registry: CollectorRegistry) -> Iterator[list[float]]:
    """Scrape without pause in a thread during the test; return the totals of each scrape."""
    seen: list[float] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            families = text_string_to_metric_families(prometheus_client.generate_latest(registry).decode())
            seen.append(sum(s.value for f in families for s in f.samples if s.name == "agent_cache_requests_total"))

    thread = threading.Thread(target=scrape)
    thread.start()
    yield seen
    stop.set()
    thread.join()


async def test_collector_can_be_scraped_from_a_thread_during_calls(
    registry: CollectorRegistry, scraping: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    total = 0
    while len(scraping) < 20 or not total:
        cache = AgentCache.in_memory(name="c", telemetry=on(registry))
        for number in range(300):
            await cache.tool.check(f"t{number}", None)
        total += 300
        await cache.aclose()
    assert scraping == sorted(scraping)
    assert Scrape(registry).total("agent_cache_requests_total") == total
    assert not caplog.records


@pytest.mark.parametrize(
    "options",
    [
        {"registry": "x"},
        {"metrics_prefix": "a-b"},
        {"metrics_prefix": ""},
        {"tracer_name": ""},
        {"tracer_provider": object()},
        {"max_labels": 0},
    ],
)
def test_telemetry_options_refuse_wrong_values(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"TelemetryOptions.{next(iter(options))} must be"):
        TelemetryOptions(**options)
    with pytest.raises(UsageError, match="telemetry must be a TelemetryOptions"):
        AgentCache.in_memory(telemetry={})  # type: ignore[typeddict-item]
