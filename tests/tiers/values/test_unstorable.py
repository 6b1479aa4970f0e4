"""Values of loaders that no store can take: every waiter gets its value, neither level keeps it, it is counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import valkey
from prometheus_client import CollectorRegistry

from tests.requests import HELLO, Loader
from tests.seams import in_l1
from tests.support import UNTRACKED, MakeCache, entry_keys
from tiercache import AgentCache, LlmResponse, TelemetryOptions, TierOptions
from tiercache.tiers.values.unstorable import own_copy

# Half of an emoji: text that a provider cut, as ``json.loads`` returns it.
HALF = "cut \ud83d"


class BadMapping(dict[str, Any]):
    """A dict whose items cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("the connection of this row is closed")


class BadCounts(Mapping[str, Any]):
    """Token counts that cannot be read."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("the counts are gone")

    def __iter__(self) -> Any:
        return iter(["input"])

    def __len__(self) -> int:
        return 1


def deep() -> Any:
    nested: Any = []
    for _ in range(2000):
        nested = [nested]
    return nested


def itself() -> Any:
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


ANSWERS: dict[str, LlmResponse | str] = {
    "half a surrogate pair": HALF,
    "half a surrogate pair in a response": LlmResponse(HALF, tokens={"input": 1, "output": 2}),
    "half a surrogate pair in a block": LlmResponse(None, [{"type": "text", "text": HALF}]),
    "a block that is not JSON": LlmResponse("x", [{"type": "image", "data": b"x"}]),
    "a block without text": LlmResponse("x", [{"type": "text", "text": None}]),
    "a deep block": LlmResponse("x", [{"type": "x", "x": deep()}]),
    "a block that cannot be read": LlmResponse("x", [BadMapping(type="text")]),
    "counts that are None": LlmResponse("x", tokens={"input": None, "output": None}),
    "a count that is None": LlmResponse("x", tokens={"input": 5, "output": None}),
    "counts of another type": LlmResponse("x", tokens={"input": "5", "output": 1.5}),
    "a token entry that is not JSON": LlmResponse("x", tokens={"input": 5, "details": object()}),
    "tokens that cannot be read": LlmResponse("x", tokens=BadCounts()),
}

VALUES: dict[str, Any] = {
    "half a surrogate pair": HALF,
    "half a surrogate pair inside": {"rows": [HALF]},
    "a set": {1, 2},
    "an object": object(),
    "an object inside": [object()],
    "a deep list": deep(),
    "a value that contains itself": itself(),
    "keys that are no text": {(1, 2): "x"},
    "a mapping that cannot be read": BadMapping(a=1),
}


async def load_three(load: Any, loader: Loader) -> list[Any]:
    """Return the results of three callers that share one load."""
    loader_task = [asyncio.create_task(load(loader)) for _ in range(3)]
    await loader.started.wait()
    loader.release()
    return list(await asyncio.gather(*loader_task))


async def assert_kept_nowhere(cache: AgentCache, plain: valkey.Valkey, tier: str, key: str) -> None:
    await cache.flush_writes()
    assert not in_l1(cache, key)
    assert entry_keys(plain) == []
    counters = cache.local_stats().tiers[tier]
    assert (counters.unstorable, counters.fills_dropped, counters.load_errors, counters.stored_bytes) == (1, 0, 0, 0)


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("name", ANSWERS)
async def test_unstorable_answer_reaches_every_waiter_and_is_kept_nowhere(
    make_cache: MakeCache, plain: valkey.Valkey, name: str, lease: bool
) -> None:
    cache = make_cache(name="test", llm=TierOptions(lease=lease))
    answer = ANSWERS[name]
    loader = Loader(answer, held=True)
    results = await load_three(lambda loader: cache.llm.get_or_load(HELLO, loader), loader)
    given = LlmResponse(answer) if isinstance(answer, str) else answer
    for result in results:
        assert result.response == (HALF if given.response is None else given.response)
        if name == "a deep block":  # Too deep to compare.
            continue
        assert result.content_blocks == (None if given.content_blocks is None else list(given.content_blocks))
        assert result.tokens is given.tokens or result.tokens == given.tokens
    assert loader.calls == 1
    await assert_kept_nowhere(cache, plain, "llm", results[0].key)
    # The lease is free again, so that the next load stores its answer.
    assert (await cache.llm.get_or_load(HELLO, lambda: "good")).response == "good"
    await cache.flush_writes()
    assert entry_keys(plain) == [results[0].key]


async def test_unstorable_answer_has_its_cost(cache: AgentCache) -> None:
    answer = LlmResponse(HALF, tokens={"input": 1000, "output": 1000})
    good = await cache.llm.get_or_load(HELLO, lambda: LlmResponse("x", tokens=answer.tokens), mode="bypass")
    result = await cache.llm.get_or_load(HELLO, lambda: answer)
    assert result.cost == good.cost
    assert result.cost is not None


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("name", VALUES)
async def test_unstorable_value_reaches_every_waiter_and_is_kept_nowhere(
    make_cache: MakeCache, plain: valkey.Valkey, name: str, lease: bool
) -> None:
    options = TierOptions(lease=lease)
    cache = make_cache(name="test", tool=options, kv=options)
    value = VALUES[name]
    for tier, load in {
        "tool": lambda loader: cache.tool.get_or_load("t", {}, loader),
        "kv": lambda loader: cache.kv.get_or_load("k", loader),
    }.items():
        loader = Loader(value, held=True)
        results = await load_three(load, loader)
        for result in results:
            assert_same(result.value, value)
        assert loader.calls == 1
        await assert_kept_nowhere(cache, plain, tier, results[0].key)


def assert_same(value: Any, given: Any) -> None:
    """Assert that ``value`` is ``given``, or a copy of it, without a comparison that never ends."""
    assert type(value) is type(given)
    if given is VALUES["a deep list"] or given is VALUES["a value that contains itself"]:
        assert repr(type(value)) == repr(type(given))
        assert len(value) == len(given)
    else:
        assert value is given or value == given


@pytest.mark.parametrize("name", VALUES)
async def test_unstorable_value_without_valkey_is_not_kept(memory: AgentCache, name: str) -> None:
    assert_same((await memory.kv.get_or_load("k", lambda: VALUES[name])).value, VALUES[name])
    assert (await memory.kv.get_or_load("k", lambda: 1)).source == "loader"


async def test_unstorable_values_of_many_keys_leave_the_others_stored(cache: AgentCache, plain: valkey.Valkey) -> None:
    loaded = {"a": 1, "half": HALF, "set": {1}, "b": "x"}
    assert await cache.kv.get_or_load_many(loaded, lambda keys: loaded) == loaded
    await cache.flush_writes()
    assert entry_keys(plain) == ["test:__tc:kv:kv:a", "test:__tc:kv:kv:b"]
    assert cache.local_stats().tiers["kv"].unstorable == 2


async def test_unstorable_results_of_a_batch_leave_the_others_stored(cache: AgentCache, plain: valkey.Valkey) -> None:
    loader = cache.llm.batch_loader(lambda requests: [HALF, "good"], window=30, max_size=2)
    params = [{**HELLO, "seed": seed} for seed in (1, 2)]
    results = await asyncio.gather(*(cache.llm.get_or_load(each, loader) for each in params))
    assert [result.response for result in results] == [HALF, "good"]
    await cache.flush_writes()
    assert entry_keys(plain) == [results[1].key]


async def test_unstorable_text_of_a_session_load_reaches_its_callers(cache: AgentCache, plain: valkey.Valkey) -> None:
    assert await cache.session.get_or_load("t", "f", lambda: HALF) == HALF
    assert await cache.session.get("t", "f") is None
    assert entry_keys(plain) == []
    assert cache.local_stats().tiers["session"].unstorable == 1


async def test_unstorable_text_of_a_session_load_without_valkey_reaches_its_callers(memory: AgentCache) -> None:
    assert await memory.session.get_or_load("t", "f", lambda: HALF) == HALF
    assert await memory.session.get("t", "f") is None


@pytest.mark.parametrize("mode", ["refresh", "store_only"])
async def test_unstorable_value_from_a_refresh_removes_the_older_value_in_every_process(
    make_cache: MakeCache, plain: valkey.Valkey, mode: Any
) -> None:
    cache, other = (make_cache(name="test", coherence=UNTRACKED) for _ in range(2))
    await cache.llm.store(HELLO, "older")
    assert (await other.llm.check(HELLO)).response == "older"
    assert (await cache.llm.get_or_load(HELLO, lambda: HALF, mode=mode)).response == HALF
    assert not (await cache.llm.check(HELLO)).hit
    await cache.flush_writes()
    assert entry_keys(plain) == []


async def test_unstorable_value_is_returned_in_mode_bypass(cache: AgentCache) -> None:
    assert (await cache.llm.get_or_load(HELLO, lambda: HALF, mode="bypass")).response == HALF


async def test_unstorable_values_are_logged_once_and_counted(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    options = TierOptions(max_value_bytes=10)
    cache = make_cache(name="c", kv=options, telemetry=TelemetryOptions(registry=registry))
    with caplog.at_level(logging.WARNING, "tiercache"):
        for number in range(3):
            await cache.kv.get_or_load(f"k{number}", lambda: HALF)
            await cache.kv.get_or_load(f"k{number}", lambda: "x" * 20)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "cache 'c': no store can take a loaded value (counted as unstorable)" in lines[0]
    assert "too large" in lines[1]
    assert registry.get_sample_value("agent_cache_unstorable_total", {"cache_name": "c", "tier": "kv"}) == 3


async def test_unstorable_value_gives_each_waiter_lists_of_its_own(cache: AgentCache) -> None:
    given = {"rows": [HALF], "shared": {1}}
    loader = Loader(given, held=True)  # type: ignore[arg-type]
    first, second, _ = await load_three(lambda loader: cache.kv.get_or_load("k", loader), loader)
    first.value["rows"].append("first")
    given["rows"].append("given")  # type: ignore[attr-defined]
    assert second.value == {"rows": [HALF], "shared": {1}}
    assert second.value["shared"] is given["shared"]


async def test_unstorable_tool_result_has_a_response_text(cache: AgentCache) -> None:
    result = await cache.tool.get_or_load("t", {}, lambda: {"at": {1}, "n": 5})
    assert json.loads(result.response) == {"at": "{1}", "n": 5}
    assert (await cache.tool.get_or_load("t", {}, lambda: HALF)).response == HALF
    for make in (itself, deep):
        assert isinstance((await cache.tool.get_or_load("t", {}, make)).response, str)


def test_own_copy_keeps_shared_and_circular_lists() -> None:
    row = [1]
    given: list[Any] = [row, row, {"row": row}]
    given.append(given)
    copy = own_copy(given)
    assert copy[:3] == [[1], [1], {"row": [1]}]
    assert copy[0] is copy[1] is copy[2]["row"]
    assert copy[0] is not row
    assert copy[3] is copy
