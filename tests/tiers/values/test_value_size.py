"""max_value_bytes: a value that is too large reaches its waiters and is not stored, and an older value is removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import valkey
from prometheus_client import CollectorRegistry

from tests.requests import HELLO, Loader, asking
from tests.seams import in_l1
from tests.support import UNTRACKED, entry_keys, until
from tiercache import AgentCache, TelemetryOptions, TierOptions, UsageError

MakeCache = Callable[..., AgentCache]

MEGABYTE = 1024 * 1024
SMALL = TierOptions(max_value_bytes=MEGABYTE)
LARGE = "x" * (2 * MEGABYTE)

# Small limits are exact for kv entries and session values: here an entry may have ten bytes.
TEN = TierOptions(max_value_bytes=10)
FITS, TOO_LARGE = "9 letters", "ten letters"


def load(cache: AgentCache, tier: str, loader: Loader, **options: Any) -> Any:
    if tier == "llm":
        return cache.llm.get_or_load(HELLO, loader, **options)
    if tier == "tool":
        return cache.tool.get_or_load("t", {}, loader, **options)
    return cache.kv.get_or_load("k", loader, **options)


def text(result: Any) -> Any:
    return result.value if hasattr(result, "value") else result.response


@pytest.mark.parametrize("mode", ["use", "refresh", "store_only"])
@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
async def test_value_too_large_reaches_every_waiter_and_is_not_stored(
    make_cache: MakeCache, plain: valkey.Valkey, tier: str, lease: bool, mode: str
) -> None:
    options = TierOptions(max_value_bytes=MEGABYTE, lease=lease)
    cache = make_cache(name="test", llm=options, tool=options, kv=options)
    loader = Loader(LARGE, held=True)
    count = 3 if mode == "use" else 1
    waiting = [asyncio.create_task(load(cache, tier, loader, mode=mode)) for _ in range(count)]
    await loader.started.wait()
    loader.release()
    results = await asyncio.gather(*waiting)
    assert [text(result) for result in results] == [LARGE] * count
    await cache.flush_writes()
    assert not in_l1(cache, results[0].key)
    assert entry_keys(plain) == []
    counters = cache.local_stats().tiers[tier]
    assert (counters.too_large, counters.fills_dropped, counters.stored_bytes) == (1, 0, 0)
    # The lease is free again, so that the next load stores its value.
    assert text(await load(cache, tier, Loader("small"))) == "small"
    await cache.flush_writes()
    assert entry_keys(plain) == [results[0].key]


async def test_value_too_large_is_reported_to_prometheus(make_cache: MakeCache) -> None:
    registry = CollectorRegistry()
    cache = make_cache(name="c", kv=TEN, telemetry=TelemetryOptions(registry=registry))
    await cache.kv.get_or_load("k", lambda: TOO_LARGE)
    assert registry.get_sample_value("agent_cache_too_large_total", {"cache_name": "c", "tier": "kv"}) == 1


async def test_value_too_large_in_a_batch_leaves_the_other_values_stored(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", kv=TEN)
    loaded = {"a": FITS, "b": TOO_LARGE, "c": 1}
    assert await cache.kv.get_or_load_many(loaded, lambda keys: loaded) == loaded
    await cache.flush_writes()
    assert entry_keys(plain) == ["test:__tc:kv:kv:a", "test:__tc:kv:kv:c"]
    assert cache.local_stats().tiers["kv"].too_large == 1


async def test_value_too_large_is_refused_by_explicit_writes_which_change_nothing(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", llm=SMALL, tool=SMALL, kv=SMALL)
    await cache.llm.store(HELLO, "older")
    await cache.tool.store("t", {}, "older")
    await cache.kv.set("k", "older")
    before = {key: plain.get(key) for key in entry_keys(plain)}
    writes = {
        "response": [cache.llm.store(HELLO, LARGE), cache.tool.store("t", {}, LARGE)],
        "blocks": [cache.llm.store_multipart(HELLO, [{"type": "text", "text": LARGE}])],
        "value": [cache.kv.set("k", LARGE)],
        "the value of 'k'": [cache.kv.set_many({"a": 1, "k": LARGE})],
    }
    for name, refused in writes.items():
        for write in refused:
            with pytest.raises(UsageError, match=rf"^{name} is too large: [24]\d{{6}} bytes .* is 1048576$"):
                await write
    assert {key: plain.get(key) for key in entry_keys(plain)} == before
    assert all(in_l1(cache, key) for key in before)
    assert [tier.too_large for tier in cache.local_stats().tiers.values()] == [0, 0, 0, 0]


async def test_value_is_stored_if_its_entry_has_exactly_the_limit(make_cache: MakeCache) -> None:
    cache = make_cache(kv=TEN)
    await cache.kv.set("k", FITS)  # The entry has one more byte, for the kind of the value.
    with pytest.raises(UsageError, match="11 bytes"):
        await cache.kv.set("k", FITS + ".")
    assert (await cache.kv.get_or_load("l", lambda: FITS)).value == FITS
    await cache.flush_writes()
    assert await cache.kv.exists("l")


@pytest.mark.parametrize("mode", ["refresh", "store_only"])
@pytest.mark.parametrize("lease", [True, False])
async def test_value_too_large_from_a_refresh_removes_the_older_value_in_every_process(
    make_cache: MakeCache, plain: valkey.Valkey, lease: bool, mode: Any
) -> None:
    options = TierOptions(max_value_bytes=10, lease=lease)
    cache, other = (make_cache(name="test", kv=options, coherence=UNTRACKED) for _ in range(2))
    await cache.kv.set("k", "older")
    assert await other.kv.get("k") == "older"
    result = await cache.kv.get_or_load("k", lambda: TOO_LARGE, mode=mode)
    assert result.value == TOO_LARGE
    # In this process the older value is gone as soon as the caller has the newer one.
    assert not in_l1(cache, result.key)
    assert await cache.kv.get("k") is None
    await cache.flush_writes()
    assert plain.get(result.key) is None
    await until(lambda: not in_l1(other, result.key))
    assert await other.kv.get("k") is None


async def test_value_too_large_from_a_refresh_removes_the_older_value_without_valkey() -> None:
    async with AgentCache.in_memory(kv=TEN) as cache:
        await cache.kv.set("k", "older")
        assert (await cache.kv.get_or_load("k", lambda: TOO_LARGE, mode="refresh")).value == TOO_LARGE
        assert await cache.kv.get("k") is None
        assert (await cache.kv.get_or_load("k", lambda: TOO_LARGE)).source == "loader"
        assert await cache.kv.get("k") is None
        assert cache.local_stats().tiers["kv"].too_large == 2


async def test_value_too_large_of_another_process_is_a_miss_and_stays_in_valkey(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    small, large = make_cache(name="test", kv=TEN), make_cache(name="test")
    await large.kv.set("k", TOO_LARGE)
    assert await small.kv.get("k") is None
    assert await small.kv.get_many(["k"]) == {"k": None}
    assert (await small.kv.explain("k")).l2 == "undecodable"
    assert small.local_stats().tiers["kv"].undecodable == 2
    assert (await small.kv.get_or_load("k", lambda: TOO_LARGE + "!")).source == "loader"
    await small.flush_writes()
    assert plain.get("test:__tc:kv:kv:k") == b"s" + TOO_LARGE.encode()
    # A value that this process may store replaces it.
    await small.kv.get_or_load("k", lambda: FITS)
    await small.flush_writes()
    await until(lambda: not in_l1(large, "test:__tc:kv:kv:k"))
    assert await large.kv.get("k") == FITS


async def test_invalidate_by_model_removes_answers_that_are_too_large_to_read_here(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    small, large = make_cache(name="test", llm=SMALL), make_cache(name="test")
    await large.llm.store(asking("a", "m"), LARGE)
    plain.delete("test:__tc:idx:model:m")  # An entry of other software is in no index.
    assert await small.llm.invalidate_by_model("m", sweep=True) == 1
    assert entry_keys(plain) == []


@pytest.mark.parametrize("in_memory", [False, True])
async def test_session_value_too_large_is_refused(make_cache: MakeCache, in_memory: bool) -> None:
    cache = AgentCache.in_memory(session=TEN) if in_memory else make_cache(session=TEN)
    session = cache.session
    await session.set("t", "f", "ten bytes.")
    for write in (
        session.set("t", "f", TOO_LARGE),
        session.set_json("t", "f", TOO_LARGE),
        session.compare_and_set("t", "f", "ten bytes.", TOO_LARGE),
    ):
        with pytest.raises(UsageError, match=r"^value is too large: 1\d bytes .* tier 'session' is 10$"):
            await write
    with pytest.raises(UsageError, match=r"^item is too large"):
        await session.append("t", "list", TOO_LARGE)
    assert await session.get("t", "f", fresh=True) == "ten bytes."
    assert await session.get("t", "list") is None
    assert await session.get_or_load("t", "loaded", lambda: TOO_LARGE) == TOO_LARGE
    assert await session.get("t", "loaded") is None
    assert cache.local_stats().tiers["session"].too_large == 1
    await cache.aclose()


async def test_session_value_of_another_process_is_read_at_any_size(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", session=TEN)
    plain.set("test:session:t:f", TOO_LARGE)
    assert await cache.session.get("t", "f") == TOO_LARGE
    assert await cache.session.get_all("t", sweep=True) == {"f": TOO_LARGE}


async def test_value_of_any_size_is_stored_without_a_limit(make_cache: MakeCache) -> None:
    cache = make_cache(kv=TierOptions(max_value_bytes=None))
    value = b"x" * (TierOptions().max_value_bytes or 0)
    await cache.kv.set("k", value)
    cache.clear_l1()
    assert await cache.kv.get("k") == value


@pytest.mark.parametrize("name", ["max_value_bytes", "compress_above"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_value_size_options_must_be_whole_numbers_above_0(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"TierOptions.{name} must be a whole number above 0"):
        TierOptions(**{name: value})


@pytest.mark.parametrize(
    ("options", "stored_bytes"),
    [(TierOptions(), 101), (TierOptions(l1=False), 0), (TierOptions(compress_above=10), 101)],
)
async def test_cache_without_valkey_counts_a_loaded_value_as_stored_only_if_l1_keeps_it(
    options: TierOptions, stored_bytes: int
) -> None:
    async with AgentCache.in_memory(kv=options) as cache:
        await cache.kv.get_or_load("k", lambda: "x" * 100)
        assert cache.local_stats().tiers["kv"].stored_bytes == stored_bytes
