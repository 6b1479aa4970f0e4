"""betterdb-agent-cache and its names on tiercache do the same calls on one server, and have the same outcomes."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any

import betterdb_agent_cache as betterdb
import betterdb_agent_cache.types as betterdb_types
import pytest
import valkey
import valkey.asyncio

from tests.compat.betterdb.calls import DIFFERENT, PARTS, SAME, Difference, Steps, outcomes, without_name, written
from tests.requests import HELLO
from tests.support import kept_registry
from tiercache.compat import betterdb as compat

COST = {"gpt-4o": (0.5, 1.5)}
TTLS = {"llm": 100, "tool": 200, "session": 300}


def options_of(library: Any, types: Any) -> dict[str, Any]:
    """Return the same options as objects of a library."""
    return {
        "cost_table": {model: library.ModelCost(*price) for model, price in COST.items()},
        "tier_defaults": {tier: library.TierDefaults(ttl=ttl) for tier, ttl in TTLS.items()},
        "analytics": types.AnalyticsOptions(disabled=True),
        "telemetry": types.TelemetryOptions(registry=kept_registry()),
    }


@pytest.fixture
async def theirs(url: str) -> AsyncIterator[betterdb.AgentCache]:
    """Return a cache of betterdb-agent-cache."""
    async with valkey.asyncio.Valkey.from_url(url) as client:
        options = options_of(betterdb, betterdb_types)
        cache = betterdb.AgentCache(betterdb.AgentCacheOptions(client=client, name="theirs", **options))
        await cache.ensure_discovery_ready()
        yield cache
        await cache.shutdown()


@pytest.fixture
def ours(make_compat: Callable[..., compat.AgentCache]) -> compat.AgentCache:
    """Return the same cache on tiercache."""
    return make_compat(name="ours", **options_of(compat, compat.types))


@pytest.mark.parametrize("steps", SAME.values(), ids=SAME)
async def test_compat_has_the_outcomes_of_betterdb(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, plain: valkey.Valkey, steps: Steps
) -> None:
    expected = without_name(await outcomes(theirs, betterdb, steps), "theirs")
    assert without_name(await outcomes(ours, compat, steps), "ours") == expected


@pytest.mark.parametrize("steps", [steps for name, steps in SAME.items() if name != "the whole cache"])
async def test_compat_writes_the_bytes_of_betterdb(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, plain: valkey.Valkey, steps: Steps
) -> None:
    # Each step alone: a later one may remove the entries of an earlier one.
    for step in steps:
        await outcomes(theirs, betterdb, [step])
        await outcomes(ours, compat, [step])
        expected, found = written(plain, "theirs"), written(plain, "ours")
        assert {key: entry for key, (entry, _) in found.items()} == {key: entry for key, (entry, _) in expected.items()}
        for key in expected:
            # A read of betterdb gives a field the lifetime of the tier.
            if ":session:" not in key or step.method == "session.set":
                assert abs(found[key][1] - expected[key][1]) <= 1


@pytest.mark.parametrize("difference", DIFFERENT.values(), ids=DIFFERENT)
async def test_compat_differs_from_betterdb_on_purpose(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, difference: Difference
) -> None:
    *_, last = without_name(await outcomes(theirs, betterdb, difference.steps), "theirs")
    assert without_hashes(last) == difference.theirs
    *_, last = without_name(await outcomes(ours, compat, difference.steps), "ours")
    assert without_hashes(last) == difference.ours


@pytest.mark.parametrize(
    "name", ["max_completion_tokens", "thinking", "logit_bias", "n", "parallel_tool_calls", "verbosity", "extra_body"]
)
async def test_compat_tells_requests_apart_that_betterdb_does_not(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, name: str
) -> None:
    for cache, is_shared in ((theirs, True), (ours, False)):
        await cache.llm.store({**HELLO, name: {"a": 1}}, "for 1")
        assert (await cache.llm.check({**HELLO, name: {"a": 2}})).hit == is_shared


async def test_compat_writes_the_heartbeat_that_betterdb_does_not(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, plain: valkey.Valkey
) -> None:
    for cache, name, is_written in ((theirs, "theirs", False), (ours, "ours", True)):
        await cache.ensure_discovery_ready()
        assert plain.hexists("__betterdb:caches", name)
        assert plain.exists(f"__betterdb:heartbeat:{name}") == is_written


def without_hashes(value: Any) -> Any:
    """Return an outcome whose hashes are replaced by nines."""
    if isinstance(value, tuple):
        name, fields = value
        return name, without_hashes(fields)
    if isinstance(value, dict):
        return {key: without_hashes(each) for key, each in value.items()}
    return re.sub("[0-9a-f]{64}", "9" * 64, value) if isinstance(value, str) else value


def public_methods(prefix: str, kind: type) -> set[str]:
    """Return the public methods of a class of betterdb-agent-cache, as the tables name them."""
    return {f"{prefix}{name}" for name, each in vars(kind).items() if not name.startswith("_") and callable(each)}


def test_compat_is_compared_by_every_public_method() -> None:
    every = {name for prefix, kind in PARTS.items() for name in public_methods(prefix, kind)}
    tables = [*SAME.values(), *(difference.steps for difference in DIFFERENT.values())]
    assert every == {call.method for steps in tables for call in steps}


@pytest.mark.parametrize("prefix", PARTS)
def test_compat_methods_take_the_arguments_of_betterdb(ours: compat.AgentCache, prefix: str) -> None:
    part = getattr(ours, prefix.removesuffix(".")) if prefix else ours
    for name in public_methods("", PARTS[prefix]):
        expected = inspect.signature(getattr(PARTS[prefix], name)).parameters.values()
        found = inspect.signature(getattr(type(part), name)).parameters.values()
        assert [(each.name, each.kind, each.default) for each in found] == [
            (each.name, each.kind, each.default) for each in expected
        ]
        assert inspect.iscoroutinefunction(getattr(part, name)) == inspect.iscoroutinefunction(
            getattr(PARTS[prefix], name)
        )


def test_compat_has_every_public_name_of_betterdb() -> None:
    assert set(betterdb.__all__) - set(compat.__all__) == set()
    assert all(hasattr(compat, name) for name in compat.__all__)


MODULES = ["errors", "normalizer", "default_cost_table", "adapters.anthropic", "adapters.llamaindex", "adapters.openai"]


@pytest.mark.parametrize("module", [*MODULES, "adapters.openai_responses"])
def test_compat_modules_have_every_name_that_betterdb_defines_in_them(module: str) -> None:
    theirs, ours = (import_module(f"{library.__name__}.{module}") for library in (betterdb, compat))
    names = {
        name
        for name, each in vars(theirs).items()
        if not (name.startswith("_") or inspect.ismodule(each))
        and getattr(each, "__module__", theirs.__name__) == theirs.__name__
    }
    assert names - {"annotations"} - set(vars(ours)) == set()


OWN_NAMES = {"Any", "Literal", "NotRequired", "Required", "TypedDict", "annotations", "dataclass", "field"}


def test_compat_types_have_every_name_and_field_of_betterdb() -> None:
    names = {name for name in vars(betterdb_types) if not name.startswith("_")} - OWN_NAMES
    assert names - set(compat.types.__all__) == set()
    for name in names:
        theirs, ours = getattr(betterdb_types, name), getattr(compat.types, name)
        if isinstance(theirs, type):
            assert set(fields_of(theirs)) <= set(fields_of(ours)), name


def fields_of(kind: type) -> list[str]:
    """Return the names of the fields of a dataclass, a named tuple or a typed dict."""
    return list(inspect.signature(kind).parameters if dataclasses.is_dataclass(kind) else inspect.get_annotations(kind))


async def test_compat_keeps_the_window_of_a_field_on_purpose(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, plain: valkey.Valkey
) -> None:
    for cache, expected in ((theirs, range(298, 301)), (ours, range(8, 11))):
        await cache.session.set("t", "f", "x", 10)
        await cache.session.get("t", "f")
        name = "theirs" if cache is theirs else "ours"
        assert plain.ttl(f"{name}:session:t:f") in expected


async def test_compat_scan_restarts_windows_on_purpose(
    theirs: betterdb.AgentCache, ours: compat.AgentCache, plain: valkey.Valkey
) -> None:
    for name, cache, expected in (("theirs", theirs, range(51)), ("ours", ours, range(298, 301))):
        await cache.session.set("t", "f", "x")
        plain.expire(f"{name}:session:t:f", 50)
        assert await cache.session.scan_fields_by_prefix("t", "f") == {"f": "x"}
        assert plain.ttl(f"{name}:session:t:f") in expected


async def test_compat_flush_keeps_statistics_on_purpose(theirs: betterdb.AgentCache, ours: compat.AgentCache) -> None:
    for cache, expected in ((theirs, 0), (ours, 1)):
        await cache.session.set("t", "f", "x")
        await cache.stats()
        await cache.flush()
        assert (await cache.stats()).session.writes == expected
