"""admit: an entry that it refuses reaches the waiters and is stored nowhere; each tier has its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey
from prometheus_client import CollectorRegistry

from tests.requests import HELLO, Loader
from tests.seams import in_l1
from tests.support import UNTRACKED, MakeCache, entry_keys, until
from tiercache import Admission, AgentCache, LlmResponse, TelemetryOptions, TierOptions, UsageError


def is_small(admission: Admission) -> bool:
    return admission.size_bytes < 100


SMALL = TierOptions(admit=is_small)
LARGE = "x" * 200


@pytest.mark.parametrize("mode", ["use", "refresh", "store_only"])
@pytest.mark.parametrize("lease", [True, False])
async def test_admit_hands_a_refused_value_to_every_waiter_and_stores_none(
    make_cache: MakeCache, plain: valkey.Valkey, lease: bool, mode: Any
) -> None:
    cache = make_cache(name="test", kv=TierOptions(admit=is_small, lease=lease))
    loader = Loader(LARGE, held=True)
    count = 3 if mode == "use" else 1
    waiting = [asyncio.create_task(cache.kv.get_or_load("k", loader, mode=mode)) for _ in range(count)]
    await loader.started.wait()
    loader.release()
    assert [(await task).value for task in waiting] == [LARGE] * count
    await cache.flush_writes()
    assert entry_keys(plain) == []
    assert not in_l1(cache, "test:__tc:kv:kv:k")
    counters = cache.local_stats().tiers["kv"]
    assert (counters.not_admitted, counters.fills_dropped, counters.stored_bytes) == (1, 0, 0)
    # The lease is free again.
    assert (await cache.kv.get_or_load("k", lambda: "small")).value == "small"
    await cache.flush_writes()
    assert entry_keys(plain) == ["test:__tc:kv:kv:k"]


async def test_admit_gets_key_size_tier_and_cost_of_each_entry(make_cache: MakeCache) -> None:
    asked: list[Admission] = []

    def admit(admission: Admission) -> bool:
        asked.append(admission)
        return True

    options = TierOptions(admit=admit)
    cache = make_cache(name="test", llm=options, tool=options, kv=options, prices={"gpt-4o": (1.0, 2.0)})
    named = cache.tier("named", options)
    result = await cache.llm.get_or_load(HELLO, lambda: LlmResponse("x", tokens={"input": 1000, "output": 500}))
    key = await cache.tool.store("t", {}, "x", cost=0.5)
    await cache.kv.set_many({"a": 1, "b": "text"})
    await named.get_or_load_many(["c"], lambda keys: [None])
    sizes = [admission.size_bytes for admission in asked]
    assert [Admission(each.key, 0, each.tier, each.cost) for each in asked] == [
        Admission(result.key, 0, "llm", 2.0),
        Admission(key, 0, "tool", 0.5),
        Admission("test:__tc:kv:kv:a", 0, "kv", None),
        Admission("test:__tc:kv:kv:b", 0, "kv", None),
        Admission("test:__tc:kv:named:c", 0, "named", None),
    ]
    assert sizes[2:] == [2, 5, 5]
    assert min(sizes[:2]) > 30
    await cache.kv.get("a")
    assert len(asked) == 5  # Reads do not ask.


async def test_admit_of_one_tier_leaves_the_others_alone(make_cache: MakeCache) -> None:
    """Each tier has its own options, and its own clear."""
    cache = make_cache(name="test", kv=SMALL)
    named = cache.tier("named")
    for tier in (cache.kv, named):
        await tier.get_or_load("large", lambda: LARGE)
        await tier.set("small", "x")
    await cache.flush_writes()
    assert [await tier.exists("large") for tier in (cache.kv, named)] == [False, True]
    assert await cache.kv.clear() == 1
    assert await named.get_many(["large", "small"]) == {"large": LARGE, "small": "x"}


async def test_admit_refuses_explicit_writes_which_change_nothing(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", llm=SMALL, tool=SMALL, kv=SMALL)
    await cache.kv.set("k", "older")
    for refused in (
        cache.llm.store(HELLO, LARGE),
        cache.llm.store_multipart(HELLO, [{"type": "text", "text": LARGE}]),
        cache.tool.store("t", {}, LARGE),
        cache.kv.set("k", LARGE),
        cache.kv.set_many({"a": "small", "k": LARGE}),
    ):
        with pytest.raises(UsageError, match=r"TierOptions.admit of the tier '\w+' refuses the entry of"):
            await refused
    assert entry_keys(plain) == ["test:__tc:kv:kv:k"]
    assert await cache.kv.get("k") == "older"


@pytest.mark.parametrize("mode", ["refresh", "store_only"])
async def test_admit_that_refuses_a_refreshed_value_removes_the_older_value(
    make_cache: MakeCache, plain: valkey.Valkey, mode: Any
) -> None:
    cache, other = (make_cache(name="test", kv=SMALL, coherence=UNTRACKED) for _ in range(2))
    await cache.kv.set("k", "older")
    assert await other.kv.get("k") == "older"
    assert (await cache.kv.get_or_load("k", lambda: LARGE, mode=mode)).value == LARGE
    assert await cache.kv.get("k") is None
    await cache.flush_writes()
    assert entry_keys(plain) == []
    await until(lambda: not in_l1(other, "test:__tc:kv:kv:k"))


async def test_admit_that_raises_admits_nothing_and_is_logged_once(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(admission: Admission) -> bool:
        raise ZeroDivisionError

    cache = make_cache(kv=TierOptions(admit=broken))
    for _ in range(3):
        assert (await cache.kv.get_or_load("k", lambda: 1)).source == "loader"
    with pytest.raises(UsageError, match="refuses"):
        await cache.kv.set("k", 1)
    (record,) = caplog.records
    assert "TierOptions.admit raised, so the entry is not stored: ZeroDivisionError()" in record.message


async def test_admit_counts_refused_values_in_the_metrics(make_cache: MakeCache) -> None:
    registry = CollectorRegistry()
    cache = make_cache(name="c", kv=SMALL, telemetry=TelemetryOptions(registry=registry))
    await cache.kv.get_or_load("k", lambda: LARGE)
    assert registry.get_sample_value("agent_cache_not_admitted_total", {"cache_name": "c", "tier": "kv"}) == 1


async def test_admit_of_a_sync_cache_refuses_too(make_cache: MakeCache) -> None:
    cache: AgentCache = make_cache(kv=SMALL)
    result = await asyncio.to_thread(cache.sync.kv.get_or_load, "k", lambda: LARGE)
    assert result.value == LARGE
    assert not await asyncio.to_thread(cache.sync.kv.exists, "k")


def test_admit_must_be_a_function_and_no_session_has_it() -> None:
    with pytest.raises(UsageError, match=r"TierOptions\.admit must be callable"):
        TierOptions(admit=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a session has no jitter, store_when, admit"):
        AgentCache.in_memory(session=SMALL)  # type: ignore[arg-type]
