"""TTLs: their forms, their precedence, jitter, and an L1 entry that never outlives the value in Valkey."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.support import MakeCache
from tiercache import (
    NO_EXPIRY,
    AgentCache,
    CoherenceOptions,
    LlmResponse,
    SessionOptions,
    TierOptions,
    ToolPolicy,
    UsageError,
)
from tiercache.testing import FakeClock
from tiercache.ttl import check_ttl, shorten, to_milliseconds


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (1, 1.0),
        (0.25, 0.25),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        (NO_EXPIRY, None),
    ],
)
def test_ttl_is_parsed_in_every_form(ttl: Any, seconds: float | None) -> None:
    assert check_ttl(ttl) == seconds


def test_ttl_in_milliseconds_is_whole_and_above_zero() -> None:
    assert [to_milliseconds(s) for s in (77, 0.25, 0.0001, 1.0006)] == [77_000, 250, 1, 1001]


@pytest.mark.parametrize(
    ("default", "tier", "call", "answer", "expected"),
    [
        (None, None, None, None, -1),
        (100, None, None, None, 100),
        (100, 200, None, None, 200),
        (100, 200, 300, None, 300),
        (100, 200, 300, 400, 400),
        (100, NO_EXPIRY, None, None, -1),
        (100, 200, NO_EXPIRY, None, -1),
        (None, "5m", None, None, 300),
    ],
)
async def test_ttl_comes_from_answer_then_call_then_tier_then_cache(
    make_cache: MakeCache, plain: valkey.Valkey, default: Any, tier: Any, call: Any, answer: Any, expected: int
) -> None:
    cache = make_cache(default_ttl=default, llm=TierOptions(ttl=tier))
    result = await cache.llm.get_or_load(HELLO, Loader(LlmResponse("x", ttl=answer)), ttl=call)
    await cache.flush_writes()
    assert plain.ttl(result.key) == expected
    assert (result.ttl is None) == (expected == -1)
    if answer is None:
        key = await cache.llm.store(asking("other"), "x", ttl=call)
        assert plain.ttl(key) == expected


async def test_ttl_jitter_spreads_and_never_lengthens(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(llm=TierOptions(ttl=1000, jitter=0.1))
    keys = [await cache.llm.store(asking(str(n)), "x") for n in range(1000)]
    left = [plain.pttl(key) for key in keys]
    assert len(set(left)) >= 15
    assert 900_000 - 60_000 < min(left) < 930_000
    assert 970_000 < max(left) <= 1_000_000


def test_ttl_jitter_leaves_entry_without_expiry() -> None:
    assert shorten(None, 0.5) is None
    assert shorten(10.0, 0) == 10.0


@pytest.mark.parametrize(
    ("l1_ttl", "ttl", "served", "gone"),
    [(30, 100, 29.9, 30.0), (30, 10, 9.9, 10.0), (None, 100, 99.9, 100.0), (30, None, 29.9, 30.0)],
)
async def test_ttl_of_l1_entry_is_bounded_by_l1_ttl_and_by_value_in_valkey(
    make_cache: MakeCache, l1_ttl: float | None, ttl: float | None, served: float, gone: float
) -> None:
    time = FakeClock()
    # Trust lasts longer than the TTL, so that only the TTL ends the hit.
    coherence = CoherenceOptions(max_staleness=1000)
    cache = make_cache(llm=TierOptions(ttl=ttl, l1_ttl=l1_ttl), coherence=coherence, clock=time.clock)
    await cache.llm.store(HELLO, "x")
    time.advance(served)
    assert (await cache.llm.check(HELLO)).source == "l1"
    time.advance(gone - served)
    assert (await cache.llm.check(HELLO)).source == "l2"  # The clock of the server has not moved.


async def test_ttl_of_l1_entry_is_the_rest_when_read_late(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    time = FakeClock()
    coherence = CoherenceOptions(max_staleness=1000, tracking="off")  # No invalidation for the shorter TTL.
    cache = make_cache(coherence=coherence, clock=time.clock)
    key = await cache.llm.store(HELLO, "x", ttl=100)
    cache.clear_l1()
    plain.pexpire(key, 5_000)
    result = await cache.llm.check(HELLO)
    assert result.ttl is not None
    assert 4 < result.ttl <= 5
    time.advance(result.ttl - 0.001)
    assert (await cache.llm.check(HELLO)).source == "l1"
    time.advance(0.002)
    assert (await cache.llm.check(HELLO)).source == "l2"


async def test_ttl_of_l1_entry_ignores_l1_ttl_without_valkey() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(default_ttl=100, clock=time.clock) as cache:
        await cache.llm.store(HELLO, "x")
        time.advance(99)
        assert (await cache.llm.check(HELLO)).source == "l1"
        time.advance(1)
        assert not (await cache.llm.check(HELLO)).hit


async def test_age_counts_from_store_by_any_process(make_cache: MakeCache) -> None:
    time = FakeClock()
    one, other = make_cache(clock=time.clock), make_cache(clock=time.clock)
    await one.llm.store(HELLO, "x", ttl=1000)
    time.advance(7)
    ages = [(await cache.llm.check(HELLO)).age for cache in (one, other)]
    time.advance(5)
    ages.append((await other.llm.check(HELLO)).age)
    assert ages == [pytest.approx(7, abs=0.01), pytest.approx(7, abs=0.01), pytest.approx(12, abs=0.01)]


async def test_timedelta_is_a_ttl_everywhere(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    minute = timedelta(minutes=1)
    options = {tier: TierOptions(ttl=minute, l1_ttl=timedelta(seconds=5)) for tier in ("llm", "tool", "kv")}
    coherence = CoherenceOptions(lease_ttl=timedelta(seconds=8))
    session = SessionOptions(ttl=minute, l1_ttl=timedelta(seconds=5))
    cache = make_cache(name="test", default_ttl=minute, session=session, coherence=coherence, **options)
    hour = timedelta(hours=1)
    await cache.kv.set("tier", 1)
    await cache.kv.set("call", 1, ttl=hour)
    await cache.kv.set_many({"many": 1}, ttl=hour)
    await cache.kv.get_or_load("loaded", lambda: 1, ttl=hour)
    await cache.kv.get_or_load_many(["both"], lambda keys: keys, ttl=hour)
    keys = [f"test:__tc:kv:kv:{key}" for key in ("call", "many", "loaded", "both")]
    keys.append(await cache.llm.store(HELLO, "x", ttl=hour))
    keys.append((await cache.llm.get_or_load(asking("y"), lambda: LlmResponse("x", ttl=hour))).key)
    keys.append(await cache.tool.store("t", {}, "x", ttl=hour))
    await cache.tool.set_policy("u", ToolPolicy(hour))
    assert ToolPolicy(hour) == ToolPolicy(3600)
    keys.append(await cache.tool.store("u", {}, "x"))
    await cache.session.set("thread", "field", "x", ttl=hour)
    await cache.session.incr("thread", "count", ttl=hour)
    keys += ["test:session:thread:field", "test:session:thread:count"]
    await cache.flush_writes()
    assert [3590 < plain.ttl(key) <= 3600 for key in keys] == [True] * len(keys)
    assert 50 < plain.ttl("test:__tc:kv:kv:tier") <= 60
    assert (await cache.kv.explain("tier")).l1_ttl == pytest.approx(5, abs=1)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta.max], ids=repr)
async def test_timedelta_is_refused_if_it_is_no_lifetime(cache: AgentCache, ttl: timedelta) -> None:
    for make in (
        lambda: TierOptions(ttl=ttl),
        lambda: TierOptions(l1_ttl=ttl),
        lambda: CoherenceOptions(lease_ttl=ttl),
        lambda: ToolPolicy(ttl),
        lambda: AgentCache.in_memory(default_ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            make()
    with pytest.raises(UsageError, match="ttl must be"):
        await cache.kv.set("k", 1, ttl=ttl)
