"""OpenTelemetry: the spans that a real SDK exports."""

from __future__ import annotations

import ast
import asyncio
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import valkey
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import tiercache
from tests.requests import HELLO, Loader, asking
from tests.seams import is_tracing, refuse_spans
from tiercache import NO_EXPIRY, AgentCache, L2UnavailableError, TelemetryOptions
from tiercache.telemetry import names

MakeCache = Callable[..., AgentCache]


class Spans:
    """An SDK that keeps the exported spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.options = TelemetryOptions(metrics=False, tracer_provider=self.provider)

    def take(self) -> list[ReadableSpan]:
        spans = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return spans

    def one(self) -> ReadableSpan:
        (span,) = self.take()
        return span

    def described(self) -> tuple[str, dict[str, Any]]:
        span = self.one()
        assert span.status.status_code is StatusCode.UNSET
        assert not span.events
        return span.name, dict(span.attributes or {})


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def cache(make_cache: MakeCache, spans: Spans) -> AgentCache:
    return make_cache(name="c", telemetry=spans.options)


def looked_up(source: str | None, **attributes: Any) -> dict[str, Any]:
    found = {f"cache.{name}": value for name, value in attributes.items()}
    found |= {"cache.hit": source in ("l1", "l2"), "cache.coalesced": False}
    return found if source is None else {**found, "cache.source": source}


async def test_span_describes_each_method_of_the_llm_tier(
    cache: AgentCache, spans: Spans, plain: valkey.Valkey
) -> None:
    key = (await cache.llm.check(HELLO)).key  # The first call, which opens the cache, has a span too.
    of = {"key": key, "model": "gpt-4o"}
    assert spans.described() == ("agent_cache.llm.check", looked_up(None, **of))
    written = {"cache.key": key, "cache.model": "gpt-4o"}

    await cache.llm.store(HELLO, "Hi", ttl=60)
    stored = {**written, "cache.ttl": 60, "cache.bytes": plain.strlen(key)}
    assert spans.described() == ("agent_cache.llm.store", stored)
    await cache.llm.check(HELLO)
    assert spans.described() == ("agent_cache.llm.check", looked_up("l1", **of))
    cache.clear_l1()
    await cache.llm.check(HELLO)
    assert spans.described() == ("agent_cache.llm.check", looked_up("l2", **of))

    await cache.llm.store_multipart(HELLO, [{"type": "text", "text": "Hi"}], ttl=NO_EXPIRY)
    stored = {**written, "cache.ttl": -1, "cache.bytes": plain.strlen(key)}
    assert spans.described() == ("agent_cache.llm.store_multipart", stored)

    assert await cache.llm.invalidate(HELLO)
    assert spans.described() == ("agent_cache.llm.invalidate", {"cache.key": key, "cache.deleted_count": 1})
    for source in ("loader", "l1", "l2"):
        if source == "l2":
            await cache.flush_writes()
            cache.clear_l1()
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == source
        assert spans.described() == ("agent_cache.llm.get_or_load", looked_up(source, **of))

    assert await cache.llm.invalidate_by_model("gpt-4o") == 1
    assert spans.described() == (
        "agent_cache.llm.invalidate_by_model",
        {"cache.model": "gpt-4o", "cache.deleted_count": 1},
    )
    assert await cache.llm.clear() == 0
    assert spans.described() == ("agent_cache.llm.clear", {"cache.deleted_count": 0})


async def test_span_describes_each_method_of_the_tool_tier(
    cache: AgentCache, spans: Spans, plain: valkey.Valkey
) -> None:
    args = {"city": "Sofia"}
    key = (await cache.tool.check("weather", args)).key
    of = {"key": key, "tool_name": "weather"}
    assert spans.described() == ("agent_cache.tool.check", looked_up(None, **of))
    await cache.tool.store("weather", args, {"degrees": 21}, ttl=0.5)
    written = {"cache.key": key, "cache.tool_name": "weather", "cache.ttl": 1, "cache.bytes": plain.strlen(key)}
    assert spans.described() == ("agent_cache.tool.store", written)
    await cache.tool.check("weather", args)
    assert spans.described() == ("agent_cache.tool.check", looked_up("l1", **of))
    assert await cache.tool.invalidate("weather", args)
    deleted = {"cache.tool_name": "weather", "cache.deleted_count": 1}
    assert spans.described() == ("agent_cache.tool.invalidate", {"cache.key": key, **deleted})
    for source in ("loader", "l1"):
        await cache.tool.get_or_load("weather", args, lambda city: city)
        assert spans.described() == ("agent_cache.tool.get_or_load", looked_up(source, **of))
    assert await cache.tool.invalidate_by_tool("weather") == 1
    assert spans.described() == ("agent_cache.tool.invalidate_by_tool", deleted)


async def test_span_describes_each_method_of_the_session_tier(cache: AgentCache, spans: Spans) -> None:
    key = "c:session:thread:intent"
    of = {"cache.key": key, "cache.thread_id": "thread", "cache.field": "intent"}
    await cache.session.set("thread", "intent", "b\u00f6\u00f6k", ttl=60)
    assert spans.described() == ("agent_cache.session.set", {**of, "cache.ttl": 60, "cache.bytes": 6})
    await cache.session.get("thread", "intent")
    assert spans.described() == (
        "agent_cache.session.get",
        looked_up("l1", key=key, thread_id="thread", field="intent"),
    )
    await cache.session.get("thread", "intent", fresh=True)
    name, found = spans.described()
    assert name == "agent_cache.session.get"
    assert found.items() >= {**of, "cache.hit": True, "cache.source": "l2"}.items()
    await cache.session.get("thread", "other")
    assert spans.described()[1].items() >= {"cache.hit": False, "cache.field": "other"}.items()
    thread = {"cache.thread_id": "thread"}
    assert await cache.session.get_all("thread") == {"intent": "b\u00f6\u00f6k"}
    assert spans.described() == ("agent_cache.session.get_all", {**thread, "cache.field_count": 1})
    assert await cache.session.touch("thread") == 1
    assert spans.described() == ("agent_cache.session.touch", {**thread, "cache.touched_count_approx": 1})
    assert await cache.session.get_or_load("thread", "intent", lambda: "x") == "b\u00f6\u00f6k"
    assert spans.described()[0] == "agent_cache.session.get_or_load"
    assert await cache.session.destroy_thread("thread") == 1
    assert spans.described() == ("agent_cache.session.destroy_thread", {**thread, "cache.deleted_count": 1})
    await cache.session.set("thread", "intent", "x")
    assert spans.described()[1]["cache.ttl"] == -1


async def test_span_describes_each_method_of_a_kv_tier(cache: AgentCache, spans: Spans) -> None:
    await cache.kv.set("k", 1, ttl=60)
    assert spans.described() == (
        "agent_cache.kv.set",
        {"cache.key": "c:__tc:kv:kv:k", "cache.ttl": 60, "cache.bytes": 2},
    )
    await cache.kv.get("k")
    assert spans.described() == ("agent_cache.kv.get", looked_up("l1", key="c:__tc:kv:kv:k"))
    await cache.kv.get_many(["k"])
    assert spans.described() == ("agent_cache.kv.get_many", looked_up("l1"))
    await cache.kv.get_many(["k", "l"])
    assert spans.described()[0] == "agent_cache.kv.get_many"
    await cache.kv.get_or_load_many(["k"], lambda keys: keys)
    assert spans.described() == ("agent_cache.kv.get_or_load_many", looked_up("l1"))


async def test_span_marks_coalesced_callers_of_an_unopened_cache(cache: AgentCache, spans: Spans) -> None:
    loader = Loader(held=True)
    waiting = [asyncio.ensure_future(cache.llm.get_or_load(HELLO, loader)) for _ in range(3)]
    await loader.started.wait()
    loader.release()
    await asyncio.gather(*waiting)
    found = [span.attributes or {} for span in spans.take()]
    assert sorted(each["cache.coalesced"] for each in found) == [False, True, True]
    assert [(each["cache.source"], each["cache.hit"]) for each in found] == [("loader", False)] * 3


async def test_span_marks_a_coalesced_caller_of_an_open_cache(cache: AgentCache, spans: Spans) -> None:
    loader = Loader(held=True)
    first = asyncio.ensure_future(cache.llm.get_or_load(HELLO, loader))
    await loader.started.wait()
    second = asyncio.ensure_future(cache.llm.get_or_load(HELLO, loader))
    await asyncio.sleep(0)
    loader.release()
    await asyncio.gather(first, second)
    found = [span.attributes or {} for span in spans.take()]
    assert sorted(each["cache.coalesced"] for each in found) == [False, True]


async def test_span_records_a_failed_load_once_as_an_error(cache: AgentCache, spans: Spans) -> None:
    with pytest.raises(ZeroDivisionError):
        await cache.llm.get_or_load(HELLO, Loader(ZeroDivisionError("of no use")))
    span = spans.one()
    assert [event.name for event in span.events] == ["exception"]
    assert (span.events[0].attributes or {})["exception.message"] == "of no use"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ZeroDivisionError: of no use")
    assert span.end_time is not None


async def test_span_records_a_failed_write_once_as_an_error(spans: Spans) -> None:
    cache = AgentCache.from_url("valkey://127.0.0.1:1", telemetry=spans.options)
    with pytest.raises(L2UnavailableError):
        await cache.tool.store("t", None, "x")
    span = spans.one()
    assert (len(span.events), span.status.status_code) == (1, StatusCode.ERROR)
    await cache.aclose()


async def test_span_ends_without_an_error_if_the_caller_is_cancelled(cache: AgentCache, spans: Spans) -> None:
    loader = Loader(held=True)
    caller = asyncio.ensure_future(cache.tool.get_or_load("t", None, loader))
    await loader.started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert spans.described()[0] == "agent_cache.tool.get_or_load"


async def test_span_is_the_parent_of_the_loaders_spans(cache: AgentCache, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("app")

    async def load() -> str:
        with tracer.start_as_current_span("model call"):
            return "Hi"

    with tracer.start_as_current_span("request"):
        await cache.llm.get_or_load(HELLO, load)
        await cache.llm.get_or_load(HELLO, load)
    assert trace.get_current_span() is trace.INVALID_SPAN
    by_name: dict[str, list[ReadableSpan]] = {}
    for span in spans.take():
        by_name.setdefault(span.name, []).append(span)
    (call,), (request,) = by_name["model call"], by_name["request"]
    miss, hit = by_name["agent_cache.llm.get_or_load"]
    parents = [span.parent.span_id if span.parent else None for span in (call, miss, hit)]
    assert parents == [miss.context.span_id, request.context.span_id, request.context.span_id]


async def test_tracer_has_the_configured_name(make_cache: MakeCache, spans: Spans) -> None:
    cache = make_cache(telemetry=spans.options)
    await cache.tool.check("t", None)
    scope = spans.one().instrumentation_scope
    assert scope is not None
    assert scope.name == "@betterdb/agent-cache"
    other = make_cache(telemetry=TelemetryOptions(tracer_provider=spans.provider, tracer_name="mine"))
    await other.tool.check("t", None)
    scope = spans.one().instrumentation_scope
    assert scope is not None
    assert scope.name == "mine"


async def test_tracing_makes_no_span_if_it_is_off(make_cache: MakeCache, spans: Spans) -> None:
    cache = make_cache(telemetry=TelemetryOptions(tracing=False, tracer_provider=spans.provider))
    await cache.tool.get_or_load("t", None, lambda: "x")
    assert not spans.take()


async def every_kind_of_operation(cache: AgentCache) -> None:
    for _ in range(2):
        await cache.llm.get_or_load(HELLO, Loader())
        await cache.llm.check(HELLO)
        await cache.tool.get_or_load("t", None, lambda: "x")
        await cache.tool.check("t", None)
    await cache.llm.store(asking("x"), "Hi")
    await cache.llm.invalidate(HELLO)
    await cache.flush_writes()
    await cache.tool.clear()
    with pytest.raises(ZeroDivisionError):
        await cache.llm.get_or_load(asking("y"), Loader(ZeroDivisionError()))


async def test_tracing_makes_no_span_without_an_sdk_and_looks_for_an_sdk_once(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    look = trace.get_tracer_provider
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: looks.append(None) or look())
    made = refuse_spans(monkeypatch)
    assert isinstance(look(), trace.ProxyTracerProvider)
    cache = make_cache()
    await cache.open()
    assert len(looks) == 1
    await every_kind_of_operation(cache)
    assert len(looks) == 1
    off = make_cache(telemetry=TelemetryOptions(tracer_provider=trace.NoOpTracerProvider()))
    await every_kind_of_operation(off)
    assert not made


async def test_tracing_makes_no_span_with_a_disabled_sdk(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    cache = make_cache(telemetry=TelemetryOptions(tracer_provider=TracerProvider(shutdown_on_exit=False)))
    await cache.open()
    assert not is_tracing(cache)


def test_tracing_uses_the_global_sdk() -> None:
    script = """
        import asyncio
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from tiercache import AgentCache

        exporter = InMemorySpanExporter()
        cache = AgentCache.in_memory()

        async def use():
            await cache.tool.get_or_load("t", None, lambda: "x")
            await cache.tool.check("t", None)

        asyncio.run(use())
        assert not exporter.get_finished_spans()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        asyncio.run(use())
        print([(span.name, span.attributes["cache.source"]) for span in exporter.get_finished_spans()])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[('agent_cache.tool.get_or_load', 'l1'), ('agent_cache.tool.check', 'l1')]"]
    assert not done.stderr


class Broken(SpanProcessor):
    def __init__(self, when: str) -> None:
        self.when = when

    def on_start(self, span: object, parent_context: object = None) -> None:
        if self.when == "start":
            raise RuntimeError("broken processor")

    def on_end(self, span: object) -> None:
        if self.when == "end":
            raise RuntimeError("broken processor")


@pytest.mark.parametrize("when", ["start", "end"])
async def test_tracing_logs_a_broken_processor_once(
    make_cache: MakeCache, spans: Spans, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    spans.provider.add_span_processor(Broken(when))
    cache = make_cache(telemetry=spans.options)
    await every_kind_of_operation(cache)
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].getMessage().startswith("cache 'betterdb_ac': ")
    assert "broken processor" in caplog.text


class BrokenProvider:
    def get_tracer(self, name: str) -> Any:
        raise RuntimeError("broken provider")


async def test_tracing_logs_a_broken_provider_once(make_cache: MakeCache, caplog: pytest.LogCaptureFixture) -> None:
    cache = make_cache(telemetry=TelemetryOptions(tracer_provider=BrokenProvider()))
    await cache.open()
    await every_kind_of_operation(cache)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_span_attributes_in_the_code_are_all_known() -> None:
    used: set[str] = {"hit", "source", "coalesced"}
    for path in Path(tiercache.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in ("operation", "trace_hit"):
                used |= {keyword.arg for keyword in call.keywords if keyword.arg}
            elif (
                call.func.attr == "set" and isinstance(call.func.value, ast.Name) and call.func.value.id == "operation"
            ):
                assert isinstance(call.args[0], ast.Constant)
                used.add(call.args[0].value)
    assert {names.ATTRIBUTE_PREFIX + name for name in used} <= names.ATTRIBUTES
    assert len(used) > 8
