"""``get_many``, ``set_many``, ``delete_many``: one round trip for many keys, and for each key the rules for one."""

from __future__ import annotations

import asyncio

import pytest
import valkey

from tests.engine.operations.many import CHANGES, each_change, in_both_levels, values_after
from tests.requests import ManyLoader, turns
from tests.seams import (
    NOTHING_REGISTERED,
    HeldReads,
    HeldWrites,
    internals,
    record_reads,
    without_fences,
    without_overtaking,
    without_second_drop,
    without_write_check,
)
from tests.support import MakeCache
from tiercache import MISS, AgentCache, L2CommandError, L2UnavailableError, ResilienceOptions


def call_counts(plain: valkey.Valkey) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in plain.info("commandstats").items()}


async def test_get_many_reads_100_keys_by_one_mget_and_fills_l1(cache: AgentCache, plain: valkey.Valkey) -> None:
    values = {f"k{n}": {"n": n} for n in range(100)}
    await cache.kv.set_many(values)
    cache.clear_l1()
    await cache.kv.get("k0")
    plain.config_resetstat()
    assert await cache.kv.get_many(values) == values
    after = call_counts(plain)
    assert (after["mget"], after["eval_ro"]) == (1, 1)
    assert "get" not in after
    assert await cache.kv.get_many(values) == values
    assert call_counts(plain)["mget"] == 1
    counters = cache.local_stats().tiers["kv"]
    assert (counters.l1_hits, counters.l2_hits, counters.misses) == (101, 100, 0)
    assert cache.local_stats().operations["kv.get_many"].calls == 1


async def test_get_many_sends_no_read_while_breaker_is_open(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(breaker_failures=1, breaker_pause=3600))
    await cache.kv.set("a", 1)
    internals(cache).breaker.failed(L2UnavailableError("away"))
    cache.clear_l1()
    reads = record_reads(monkeypatch)
    assert await cache.kv.get_many(["a", "b"], MISS) == {"a": MISS, "b": MISS}
    assert reads == []
    internals(cache).breaker.succeeded()
    assert await cache.kv.get_many(["a", "b"], MISS) == {"a": 1, "b": MISS}
    assert len(reads) == 1


async def test_get_many_reads_2000_keys_in_order(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {f"k{n}": n for n in range(2000)}
    await cache.kv.set_many(values, ttl=60)
    assert plain.pttl("test:__tc:kv:kv:k1999") > 50_000
    cache.clear_l1()
    reads = record_reads(monkeypatch)
    assert list((await cache.kv.get_many(reversed(values))).items()) == list(reversed(values.items()))
    assert len(reads) == 1
    assert await cache.kv.delete_many(values) == 2000
    loader = ManyLoader()
    assert (await cache.kv.get_or_load_many(values, loader))["k1999"] == "k1999!"
    assert loader.asked == [list(values)]
    assert len(reads) == 2
    await cache.flush_writes()
    assert await cache.kv.clear() == 2000


async def test_get_many_keeps_l1_entry_no_longer_than_value_in_valkey(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("short", "x", ttl=0.3)
    await cache.kv.set("long", "x", ttl=60)
    await cache.kv.set("for ever", "x")
    cache.clear_l1()
    assert await cache.kv.get_many(["short", "long", "for ever"]) == dict.fromkeys(["short", "long", "for ever"], "x")
    results = {key: await cache.kv.get_or_load(key, lambda: "new") for key in ("short", "long", "for ever")}
    assert {result.source for result in results.values()} == {"l1"}
    assert 0 < results["short"].ttl <= 0.3  # type: ignore[operator]
    assert 50 < results["long"].ttl <= 60  # type: ignore[operator]
    assert results["for ever"].ttl is None
    await asyncio.sleep(0.31)
    assert await cache.kv.get_many(["short", "long"]) == {"short": None, "long": "x"}


@each_change
async def test_get_many_keeps_older_value_out_of_l1_after_change(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set_many({"a": "older", "b": "b"})
    cache.clear_l1()
    reads = HeldReads(monkeypatch, "get_many")
    reading = asyncio.create_task(cache.kv.get_many(["b", "a"]))
    await reads.answered.wait()
    await CHANGES[change](cache)
    reads.release.set()
    assert await reading == {"b": "b", "a": "older"}
    assert await in_both_levels(cache) == values_after(change)


@each_change
async def test_get_many_without_fences_fills_l1_with_older_value(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fences(monkeypatch)
    without_overtaking(monkeypatch)
    with pytest.raises(AssertionError, match=r"'older', "):
        await test_get_many_keeps_older_value_out_of_l1_after_change(cache, change, monkeypatch)


async def test_get_many_keeps_older_value_out_of_l1_after_refresh(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set("a", "older")
    cache.clear_l1()
    with monkeypatch.context() as patch:
        reads = HeldReads(patch, "get_many")
        newer = asyncio.Event()

        async def load() -> str:
            await newer.wait()
            return "newer"

        refreshing = asyncio.create_task(cache.kv.get_or_load("a", load, mode="refresh"))
        await turns()
        reading = asyncio.create_task(cache.kv.get_many(["a", "b"], MISS))
        await reads.answered.wait()
        newer.set()
        await refreshing
        reads.release.set()
        assert await reading == {"a": "older", "b": MISS}
    assert await in_both_levels(cache) == ("newer", "newer")


@pytest.mark.parametrize("change", ["set_many", "delete_many"])
async def test_get_many_value_read_between_first_drop_and_write_is_dropped(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set("a", "older")
    writes = HeldWrites(monkeypatch)
    changing = asyncio.ensure_future(CHANGES[change](cache))
    await writes.sending.wait()
    assert await cache.kv.get_many(["a"]) == {"a": "older"}  # The read fills L1 from Valkey.
    writes.release.set()
    await changing
    assert await cache.kv.get("a") == ("stored" if change == "set_many" else None)


@pytest.mark.parametrize("change", ["set_many", "delete_many"])
async def test_get_many_begun_during_writes_keeps_older_value_out_of_l1(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set("a", "older")
    writes = HeldWrites(monkeypatch)
    changing = asyncio.ensure_future(CHANGES[change](cache))
    await writes.sending.wait()
    reads = HeldReads(monkeypatch, "get_many")
    reading = asyncio.create_task(cache.kv.get_many(["a", "b"], MISS))
    await reads.answered.wait()
    writes.release.set()
    await changing
    reads.release.set()
    assert await reading == {"a": "older", "b": MISS}
    assert await in_both_levels(cache) == values_after(change)


@pytest.mark.parametrize("change", ["set_many", "delete_many"])
async def test_get_many_without_second_drop_fills_l1_with_older_value(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_second_drop(monkeypatch)
    without_write_check(monkeypatch)  # The other guard against the same race.
    with pytest.raises(AssertionError, match=r"'older', "):
        await test_get_many_begun_during_writes_keeps_older_value_out_of_l1(cache, change, monkeypatch)


async def test_set_many_takes_effect_when_cancelled(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    await cache.kv.set_many({"a": "older", "b": "older"})
    writes = HeldWrites(monkeypatch)
    storing = asyncio.create_task(cache.kv.set_many({"a": "newer", "b": "newer"}))
    await writes.sending.wait()
    assert await cache.kv.get_many(["a", "b"]) == {"a": "older", "b": "older"}
    storing.cancel()
    writes.release.set()
    assert await in_both_levels(cache, "a") == ("newer", "newer")
    assert await in_both_levels(cache, "b") == (MISS, "newer")  # The look at "a" has cleared L1.


async def test_delete_many_raises_refusal_of_server(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.execute_command("ACL", "SETUSER", "default", "-@all", "+@all", "-del")
    try:
        await cache.kv.set_many({"a": 1, "b": 2})
        with pytest.raises(L2CommandError, match="DEL"):
            await cache.kv.delete_many(["a", "b"])
        assert cache.local_stats().l1_entry_count == 0
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "+@all")


async def test_set_many_that_is_last_wins_in_both_levels(cache: AgentCache) -> None:
    await asyncio.gather(*(cache.kv.set_many({"a": n, f"other{n}": n}) for n in range(150)))
    assert await in_both_levels(cache) == (149, 149)


async def test_get_many_leaves_nothing_registered(cache: AgentCache) -> None:
    await cache.kv.set("a", 1)
    cache.clear_l1()
    await cache.kv.get_many(["a", "b"])
    assert internals(cache).registered == NOTHING_REGISTERED


async def test_get_many_during_fill_keeps_older_value_out_of_l1(
    either: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = either
    await cache.kv.set("a", "older")
    writes = HeldWrites(monkeypatch)
    await cache.kv.get_or_load("a", lambda: "newer", mode="refresh")
    await writes.sending.wait()
    cache.clear_l1()
    assert await cache.kv.get_many(["a"]) == {"a": "older"}
    writes.release.set()
    assert await in_both_levels(cache) == (MISS, "newer")
