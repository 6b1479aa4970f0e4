"""What calls of wrapped clients count: statistics, dollars, metrics, spans, and the fields of the Monitor."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest
import valkey
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from tests.adapters.http.wrapped import CALLS, FLAVOURS, Caller, Client, every_form, http_library, raw_client, wrapped
from tests.providers import Gate, ProviderServer, Script
from tests.support import MakeCache
from tiercache import AgentCache, TelemetryOptions

PRICES: Final = {"gpt-4o": (1.0, 2.0), "gemini-3.8-flash": (1.0, 2.0), "text-embedding-3-small": (1.0, 2.0)}
both_forms: Final = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(params=FLAVOURS.values(), ids=FLAVOURS.keys())
def is_async(request: pytest.FixtureRequest) -> Any:
    """Return the flavour of the client."""
    return request.param


@both_forms
async def test_call_counts_as_a_call_of_the_llm_tier(
    cache: AgentCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    gate = Gate("head")
    provider.enqueue(Script(gates=(gate,)), Script(status=500))
    async with Caller(cache, provider, is_async=is_async) as caller:
        calls = [asyncio.ensure_future(caller.ask(stream=stream))]
        await provider.until(gate.held.is_set)
        calls += [asyncio.ensure_future(caller.ask(stream=stream)) for _ in range(2)]
        await asyncio.sleep(0.1)
        gate.release()
        await asyncio.gather(*calls)
        await cache.flush_writes()
        assert await caller.source(stream=stream) == "l1"
        cache.clear_l1()
        assert await caller.source(stream=stream) == "l2"
        assert await caller.source("only_cached", stream=stream, seed=1) == "miss"
        # An error of the provider is a load as every other: its caller gets the answer.
        assert (await caller.ask(stream=stream, seed=1)).status_code == 500
        # These two count nothing.
        assert await caller.source("bypass", stream=stream) == "bypass"
        assert await caller.source("often", stream=stream) == "refused"
    counted = cache.local_stats().tiers["llm"]
    found = {name: getattr(counted, name) for name in ("l1_hits", "l2_hits", "misses", "coalesced", "loads")}
    assert found == {"l1_hits": 1, "l2_hits": 1, "misses": 5, "coalesced": 2, "loads": 2}
    assert (counted.load_errors, counted.l2_errors, counted.undecodable, counted.too_large) == (0, 0, 0, 0)
    assert counted.stored_bytes > 100
    everywhere = await cache.stats()
    assert (everywhere.llm.hits, everywhere.llm.misses, everywhere.coalesced["llm"]) == (2, 5, 2)


@every_form
async def test_hit_saves_the_dollars_of_the_tokens_that_the_provider_counted(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, api: str, stream: bool, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", prices=PRICES)
    more = {"stream_options": {"include_usage": True}} if stream and api == "chat" else {}
    async with wrapped(cache, provider, api, is_async=is_async) as client:
        (last,) = (await client.items(CALLS[api], stream, **more))[-1:]
        for _ in range(3):
            await client.items(CALLS[api], stream, **more)
    size = max(1, len(json.dumps(provider.calls[0].params, ensure_ascii=False, separators=(",", ":"))) // 4)
    # One dollar for a thousand tokens of the request, two for those of the answer, which has five.
    micros = 1000 * size + (0 if api == "embeddings" else 2000 * 5)
    assert last is not None
    hits = cache.local_stats().tiers["llm"].l1_hits
    assert hits >= 2
    assert cache.local_stats().tiers["llm"].saved_micros == hits * micros
    found = await cache.stats()
    assert found.cost_saved_micros == hits * micros
    fields = {name.decode(): int(value) for name, value in plain.hgetall("test:__stats").items()}
    assert fields["llm:hits"] == hits
    assert fields["llm:misses"] == 4 - hits
    assert fields["cost_saved_micros"] == hits * micros


async def test_stream_of_chat_without_usage_saves_no_counted_dollars(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    cache = make_cache(name="test", prices=PRICES)
    async with Caller(cache, provider, is_async=is_async) as caller:
        assert [await caller.source(stream=True) for _ in range(2)] == ["loader", "l1"]
    assert cache.local_stats().tiers["llm"].saved_micros == 0
    # The cache adds no option to the request.
    assert "stream_options" not in provider.calls[0].params


async def test_price_is_that_of_the_model_in_the_request_or_else_in_the_answer(
    make_cache: MakeCache, is_async: bool
) -> None:
    module = http_library("httpx2")
    body = {
        "model": "priced-2026-01-01",
        "choices": [{"finish_reason": "stop", "message": {"content": "Hi"}}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 1000},
    }
    transport = module.MockTransport(lambda _: module.Response(200, json=body))
    prices = {"priced-2026-01-01": (1.0, 1.0), "own": (5.0, 5.0)}
    cache = make_cache(name="test", prices=prices)
    http = raw_client("httpx2", is_async=is_async, transport=transport)
    async with Client(cache.wrap(http), is_async=is_async) as client:
        for model, saved in (("deployment", 2_000_000), ("own", 10_000_000)):
            before = cache.local_stats().tiers["llm"].saved_micros
            for _ in range(2):
                await client.post("http://a/v1/chat/completions", json={"model": model, "messages": []})
            assert cache.local_stats().tiers["llm"].saved_micros - before == saved


async def test_metrics_have_the_model_of_a_wrapped_call(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool
) -> None:
    registry = CollectorRegistry()
    cache = make_cache(name="test", telemetry=TelemetryOptions(registry=registry), prices=PRICES)
    async with Caller(cache, provider, is_async=is_async) as caller:
        for model in ("gpt-4o", "gpt-4o", "gpt-4o-mini"):
            await caller.ask(model=model)
    micros = cache.local_stats().tiers["llm"].saved_micros

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"agent_cache_{name}", {"cache_name": "test", "tier": "llm", **labels})

    assert value("requests_total", result="hit", tool_name="") == 1
    assert value("requests_total", result="miss", tool_name="") == 2
    assert value("level_hits_total", level="l1") == 1
    assert value("loads_total") == 2
    assert value("cost_saved_total", model="gpt-4o", tool_name="") == pytest.approx(micros / 1e6)
    assert micros > 0
    assert not value("cost_saved_total", model="gpt-4o-mini", tool_name="")


@both_forms
async def test_span_describes_a_wrapped_call(
    make_cache: MakeCache, provider: ProviderServer, is_async: bool, stream: bool
) -> None:
    exporter = InMemorySpanExporter()
    spans = TracerProvider(shutdown_on_exit=False)
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    cache = make_cache(name="test", telemetry=TelemetryOptions(metrics=False, tracer_provider=spans))
    async with Caller(cache, provider, is_async=is_async) as caller:
        keys = []
        for header in (None, None, "only_cached", "bypass", "often"):
            keys.append((await caller.ask(header, stream=stream)).extensions["tiercache"].key)
    found = [(span.name, dict(span.attributes or {})) for span in exporter.get_finished_spans()]
    of_call = {"cache.key": keys[0], "cache.model": "gpt-4o", "cache.coalesced": False}
    miss = {**of_call, "cache.hit": False, "cache.source": "loader"}
    hit = {**of_call, "cache.hit": True, "cache.source": "l1"}
    assert found == [("agent_cache.llm.get_or_load", attributes) for attributes in (miss, hit, hit)]
    assert keys[3:] == [None, None]
