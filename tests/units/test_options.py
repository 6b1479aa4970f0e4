"""Options of caches and tiers, by their effect on the keys, the lifetimes and the values of a fakeredis server."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from tests.requests import HELLO, Loader, asking
from tests.support import MakeCache
from tiercache import (
    NO_EXPIRY,
    DiscoveryOptions,
    L1Options,
    LlmOptions,
    SessionOptions,
    TierOptions,
    ToolPolicy,
    UsageError,
    WriteOptions,
)


@pytest.mark.parametrize(
    ("default", "tier", "policy", "call", "expected"),
    [
        (None, None, None, None, -1),
        (100, None, None, None, 100),
        (100, "50s", None, None, 50),
        (100, 50, 40, None, 40),
        (100, 50, 40, "1m30s", 90),
        (100, NO_EXPIRY, None, None, -1),
        (100, 50, 40, NO_EXPIRY, -1),
    ],
)
async def test_ttl_of_the_call_wins_over_policy_tier_and_cache(
    make_fake: MakeCache,
    fake: fakeredis.FakeAsyncValkey,
    default: Any,
    tier: Any,
    policy: int | None,
    call: Any,
    expected: int,
) -> None:
    cache = make_fake(default_ttl=default, tool=TierOptions(ttl=tier))
    if policy is not None:
        await cache.tool.set_policy("t", ToolPolicy(ttl=policy))
    key = await cache.tool.store("t", {}, "x", ttl=call)
    assert expected - 1 <= await fake.ttl(key) <= expected
    left = (await cache.tool.check("t", {})).ttl
    assert left == (None if expected == -1 else pytest.approx(expected, abs=1))


async def test_jitter_shortens_lifetimes_by_at_most_its_fraction(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey
) -> None:
    cache = make_fake(kv=TierOptions(ttl=1000, jitter=0.5))
    await cache.kv.set_many({str(n): n for n in range(50)})
    left = [await fake.ttl(f"test:__tc:kv:kv:{n}") for n in range(50)]
    assert len(set(left)) > 10
    assert 498 <= min(left) < max(left) <= 1000


async def test_session_window_is_that_of_the_session_options(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey
) -> None:
    cache = make_fake(default_ttl=1000, session=SessionOptions(ttl="10m"))
    await cache.session.set("t", "f", "v")
    await cache.session.set("t", "g", "v", ttl=50)
    assert 599 <= await fake.ttl("test:session:t:f") <= 600
    assert 49 <= await fake.ttl("test:session:t:g") <= 50


async def test_l1_option_keeps_a_tier_out_of_process_memory(make_fake: MakeCache) -> None:
    cache = make_fake(kv=TierOptions(l1=False))
    await cache.kv.set("k", 1)
    loaded = await cache.kv.get_or_load("k", lambda: 2)
    assert (loaded.source, loaded.value, cache.local_stats().l1_entry_count) == ("l2", 1, 0)


async def test_l1_options_bound_the_entries_of_all_tiers(make_fake: MakeCache) -> None:
    cache = make_fake(l1=L1Options(max_entries=3))
    for n in range(10):
        await cache.kv.set(str(n), n)
    assert cache.local_stats().l1_entry_count == 3
    assert await cache.kv.get("0") == 0


async def test_store_when_decides_which_loaded_values_are_kept(make_fake: MakeCache) -> None:
    cache = make_fake(kv=TierOptions(store_when=bool))
    assert [(await cache.kv.get_or_load("k", lambda: 0)).source for _ in range(2)] == ["loader"] * 2
    assert [(await cache.kv.get_or_load("k", lambda: [1])).source for _ in range(2)] == ["loader", "l1"]


async def test_max_value_bytes_refuses_stores_and_keeps_no_loaded_value(make_fake: MakeCache) -> None:
    cache = make_fake(kv=TierOptions(max_value_bytes=100))
    with pytest.raises(UsageError, match="max_value_bytes"):
        await cache.kv.set("k", "x" * 200)
    assert (await cache.kv.get_or_load("k", lambda: "x" * 200)).value == "x" * 200
    await cache.flush_writes()
    assert not await cache.kv.exists("k")
    assert cache.local_stats().tiers["kv"].too_large == 1


async def test_ignore_and_key_choose_the_parameters_of_a_key(make_fake: MakeCache) -> None:
    ignoring = make_fake(llm=LlmOptions(ignore=("user",)))
    await ignoring.llm.store(asking("x", user="ann"), "x")
    assert (await ignoring.llm.check(asking("x", user="bob"))).hit
    keyed = make_fake(llm=LlmOptions(key=lambda params: {**params, "model": "any"}))
    await keyed.llm.store(asking("y", model="one"), "y")
    assert (await keyed.llm.check(asking("y", model="two"))).response == "y"
    assert not (await make_fake().llm.check(asking("y", model="two"))).hit


async def test_write_behind_returns_before_the_write(make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey) -> None:
    cache = make_fake(writes=WriteOptions(mode="behind", max_delay=60))
    key = await cache.llm.store(HELLO, "x")
    assert await fake.get(key) is None
    assert (await cache.llm.check(HELLO)).response == "x"  # A queued write is what a lookup sees.
    await cache.flush_writes()
    assert await fake.get(key) is not None


async def test_name_separates_caches_on_one_server(make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey) -> None:
    one, other = make_fake(name="one"), make_fake(name="other")
    await one.kv.set("k", 1)
    assert await other.kv.get("k") is None
    assert await fake.get("one:__tc:kv:kv:k") == b"j1"
    assert await one.flush() == 1


async def test_discovery_option_keeps_out_of_the_registry(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey
) -> None:
    await make_fake(discovery=DiscoveryOptions(enabled=False)).kv.set("k", 1)
    assert not await fake.exists("__betterdb:caches")
    await make_fake().kv.set("k", 1)
    assert await fake.hexists("__betterdb:caches", "test")


async def test_loads_without_a_lease_write_no_placeholder(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey
) -> None:
    seen = []

    async def load() -> str:
        seen.append(await fake.get("test:__tc:kv:kv:k"))
        return "x"

    first = make_fake(kv=TierOptions(lease=False))
    assert (await first.kv.get_or_load("k", load)).source == "loader"
    await first.flush_writes()
    await fake.flushall()
    assert (await make_fake().kv.get_or_load("k", load)).source == "loader"
    without, with_lease = seen
    assert without is None
    assert with_lease.startswith(b"tc:lease:")


async def test_loader_of_a_mode_is_called_as_the_mode_says(make_fake: MakeCache) -> None:
    cache, loader = make_fake(), Loader()
    for mode, calls in (("only_cached", 0), ("use", 1), ("use", 1), ("refresh", 2), ("bypass", 3), ("store_only", 4)):
        await cache.llm.get_or_load(HELLO, loader, mode=mode)  # type: ignore[call-overload]
        assert loader.calls == calls, mode
