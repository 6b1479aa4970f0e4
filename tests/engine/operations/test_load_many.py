"""``get_or_load_many``: one read, one load and one flight for each key, by the rules for one key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.operations.many import CHANGES, each_change, in_both_levels, values_after
from tests.requests import ManyLoader, turns
from tests.seams import (
    NOTHING_REGISTERED,
    HeldReads,
    HeldWrites,
    internals,
    record_reads,
    without_awaited_check,
    without_fences,
    without_overtaking,
)
from tests.support import MakeCache
from tiercache import MISS, AgentCache, ResilienceOptions, TierOptions, UsageError


async def test_load_many_calls_loader_once_with_missing_keys(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set_many({"in l1": 1, "in l2": 2})
    cache.clear_l1()
    await cache.kv.get("in l1")
    reads = record_reads(monkeypatch)
    loader = ManyLoader()
    wanted = ["new", "in l2", "newer", "in l1", "new", "newer"]
    values = await cache.kv.get_or_load_many(wanted, loader)
    assert list(values.items()) == [("new", "new!"), ("in l2", 2), ("newer", "newer!"), ("in l1", 1)]
    assert loader.asked == [["new", "newer"]]
    assert [len(keys) for keys in reads] == [3]
    assert await cache.kv.get_or_load_many(wanted, loader) == values
    assert len(loader.asked) == len(reads) == 1
    counters = cache.local_stats().tiers["kv"]
    assert (counters.l1_hits, counters.l2_hits, counters.misses, counters.loads) == (5, 2, 2, 1)
    assert await in_both_levels(cache, "new") == ("new!", "new!")


async def test_load_many_joins_flights_of_its_keys(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await release.wait()
        return "from the single load"

    single = asyncio.create_task(cache.kv.get_or_load("a", load))
    await started.wait()
    loader, another = ManyLoader(held=True), ManyLoader()
    batch = asyncio.create_task(cache.kv.get_or_load_many(["b", "a", "c"], loader))
    await loader.started.wait()
    reads = record_reads(monkeypatch)
    other = asyncio.create_task(cache.kv.get_or_load_many(["c", "a", "b"], another))
    one = asyncio.create_task(cache.kv.get_or_load("b", lambda: "never"))
    await turns()
    release.set()
    loader.release()
    expected = {"b": "b!", "a": "from the single load", "c": "c!"}
    assert await batch == await other == expected
    assert list(await other) == ["c", "a", "b"]
    result = await one
    assert (result.value, result.source, result.coalesced) == ("b!", "loader", True)
    await single
    assert loader.asked == [["b", "c"]]
    assert another.asked == reads == []
    counters = cache.local_stats().tiers["kv"]
    assert (counters.misses, counters.coalesced, counters.loads) == (8, 5, 2)


async def test_load_many_resolves_flight_of_key_found_in_valkey_before_loader_ends(cache: AgentCache) -> None:
    await cache.kv.set("a", "in valkey")
    cache.clear_l1()
    loader = ManyLoader(held=True)
    batch = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    one = asyncio.create_task(cache.kv.get_or_load("a", lambda: "never"))
    await loader.started.wait()
    assert (await one).value == "in valkey"
    loader.release()
    assert await batch == {"a": "in valkey", "b": "b!"}


@each_change
async def test_load_many_keeps_changed_key_unstored(either: AgentCache, change: str) -> None:
    await change_during_load_many(either, change)


async def change_during_load_many(cache: AgentCache, change: str) -> None:
    loader = ManyLoader(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["b", "a"], loader))
    await loader.started.wait()
    await CHANGES[change](cache)
    loader.release()
    assert await waiting == {"b": "b!", "a": "a!"}  # The waiter still receives the loaded values.
    assert await in_both_levels(cache) == values_after(change)
    # A change of many keys overtakes both loads.
    is_of_many = change in ("clear", "delete_pattern")
    assert await cache.kv.get("b", MISS) == (MISS if is_of_many else "b!")
    assert cache.local_stats().tiers["kv"].overtaken == (2 if is_of_many else 1)


@each_change
async def test_load_many_is_not_joined_after_change(either: AgentCache, change: str) -> None:
    cache = either
    loader = ManyLoader(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["b", "a"], loader))
    await loader.started.wait()
    await CHANGES[change](cache)
    newer = await cache.kv.get_or_load_many(["a"], lambda keys: ["newer"])
    assert newer == {"a": "stored" if change.startswith("set") else "newer"}
    loader.release()
    assert (await waiting)["a"] == "a!"
    assert await in_both_levels(cache) == (newer["a"], newer["a"])


@each_change
async def test_load_many_without_fences_stores_older_load(
    unleased: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fences(monkeypatch)
    without_overtaking(monkeypatch)
    with pytest.raises(AssertionError, match="'a!', 'a!'"):
        await change_during_load_many(unleased, change)


@each_change
async def test_load_many_keeps_older_value_out_of_l1_after_change_during_read(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set("a", "older")
    cache.clear_l1()
    reads = HeldReads(monkeypatch, "get_many")
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["b", "a"], ManyLoader()))
    await reads.answered.wait()
    await CHANGES[change](cache)
    reads.release.set()
    assert await waiting == {"b": "b!", "a": "older"}
    assert await in_both_levels(cache) == values_after(change)


async def test_load_many_raises_loader_error_in_every_waiter_of_its_keys(cache: AgentCache) -> None:
    error = RuntimeError("no")
    loader = ManyLoader(held=True, error=error)
    waiting = [asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))]
    await loader.started.wait()
    waiting.append(asyncio.create_task(cache.kv.get_or_load_many(["b", "c"], ManyLoader())))
    waiting.append(asyncio.create_task(cache.kv.get_or_load("a", lambda: "never")))
    unharmed = asyncio.create_task(cache.kv.get_or_load("c", lambda: "never"))
    await turns()
    loader.release()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(result is error for result in results)
    assert (await unharmed).value == "c!"
    counters = cache.local_stats().tiers["kv"]
    assert (counters.misses, counters.coalesced, counters.load_errors) == (6, 3, 1)
    assert await in_both_levels(cache) == (MISS, MISS)
    assert (await cache.kv.get_or_load_many(["a"], ManyLoader())) == {"a": "a!"}


async def test_load_many_continues_after_caller_is_cancelled_while_keys_are_awaited(cache: AgentCache) -> None:
    loader = ManyLoader(held=True)
    first = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    others = [
        asyncio.create_task(cache.kv.get_or_load_many(["b", "c"], ManyLoader())),
        asyncio.create_task(cache.kv.get_or_load("b", lambda: "never")),
    ]
    await turns()
    first.cancel()
    await asyncio.wait([first])
    late = asyncio.create_task(
        cache.kv.get_or_load("a", lambda: "never")
    )  # No caller waited for "a", and the load still brings it.
    await turns()
    loader.release()
    assert await others[0] == {"b": "b!", "c": "c!"}
    assert (await others[1]).value == "b!"
    assert (await late).value == "a!"
    assert (loader.cancelled, len(loader.asked)) == (0, 1)
    assert await in_both_levels(cache) == ("a!", "a!")


async def test_load_many_without_awaited_check_is_cancelled_with_its_caller(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_awaited_check(monkeypatch)
    with pytest.raises((AssertionError, asyncio.CancelledError)):
        await test_load_many_continues_after_caller_is_cancelled_while_keys_are_awaited(cache)


async def test_load_many_is_cancelled_with_last_waiter_of_all_keys(cache: AgentCache) -> None:
    loader = ManyLoader(held=True)
    waiting = [asyncio.create_task(cache.kv.get_or_load_many([f"k{n}" for n in range(500)], loader)) for _ in range(3)]
    one = asyncio.create_task(cache.kv.get_or_load("k250", lambda: "never"))
    await loader.started.wait()
    for task in (*waiting, one):
        assert loader.cancelled == 0
        task.cancel()
        await asyncio.wait([task])
    # A new caller does not join a load that is being cancelled.
    assert (await cache.kv.get_or_load("k0", lambda: "again")).value == "again"
    assert loader.cancelled == 1
    await turns()
    assert internals(cache).registered == NOTHING_REGISTERED


async def test_load_many_is_not_joined_while_it_is_cancelled(cache: AgentCache) -> None:
    started, cleaned_up = asyncio.Event(), asyncio.Event()

    async def tidy(keys: list[str]) -> list[str]:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await cleaned_up.wait()
        return keys

    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], tidy))
    await started.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    async with asyncio.timeout(5):
        assert await cache.kv.get_or_load_many(["b", "a"], ManyLoader()) == {"b": "b!", "a": "a!"}
    cleaned_up.set()
    await turns()


async def test_load_many_raises_before_slow_keys_are_loaded(cache: AgentCache) -> None:
    slow = ManyLoader(held=True)
    held = asyncio.create_task(cache.kv.get_or_load_many(["slow"], slow))
    await slow.started.wait()
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="no"):
            await cache.kv.get_or_load_many(["slow", "a"], ManyLoader(error=RuntimeError("no")))
    slow.release()
    assert await held == {"slow": "slow!"}


async def test_load_many_finishes_abandoned_load_with_on_abandon_finish(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", kv=TierOptions(on_abandon="finish"))
    loader = ManyLoader(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    loader.release()
    await turns()
    assert await in_both_levels(cache) == ("a!", "a!")


async def test_load_many_cancelled_before_its_first_step_cancels_its_waiters(
    cache: AgentCache,
) -> None:
    loader = ManyLoader()
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await asyncio.sleep(0)
    joined = asyncio.create_task(cache.kv.get_or_load("b", lambda: "never"))
    (loading,) = (task for task in asyncio.all_tasks() if task.get_name() == "tiercache-load")
    loading.cancel()
    async with asyncio.timeout(10):
        results = await asyncio.gather(waiting, joined, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert internals(cache).registered == NOTHING_REGISTERED


async def test_load_many_fails_every_waiter_when_close_reaches_drain_timeout(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(drain_timeout=0.05))
    loader = ManyLoader(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    joined = asyncio.create_task(cache.kv.get_or_load("b", lambda: "never"))
    await turns()
    await cache.aclose()
    results = await asyncio.gather(waiting, joined, return_exceptions=True)
    assert all(isinstance(result, UsageError) for result in results)
    assert loader.cancelled == 1


@pytest.mark.parametrize("inner", ["get_or_load", "get_or_load_many"])
async def test_load_many_lets_loader_load_its_own_keys(cache: AgentCache, inner: str) -> None:
    async def loader(keys: list[str]) -> list[Any]:
        if inner == "get_or_load":
            nested: Any = (await cache.kv.get_or_load("b", lambda: "inner")).value
        else:
            nested = (await cache.kv.get_or_load_many(["b", "c"], lambda wanted: [f"inner {key}" for key in wanted]))[
                "b"
            ]
        return [f"{key}, {nested}" for key in keys]

    async with asyncio.timeout(10):
        values = await cache.kv.get_or_load_many(["a", "b"], loader)
    nested = "inner" if inner == "get_or_load" else "inner b"
    assert values == {"a": f"a, {nested}", "b": f"b, {nested}"}
    # The value of the outer load is kept.
    assert await in_both_levels(cache, "b") == (f"b, {nested}", f"b, {nested}")


async def test_load_many_is_joined_in_preference_to_its_nested_load(cache: AgentCache) -> None:
    loaded_within, release = asyncio.Event(), asyncio.Event()

    async def outer(keys: list[str]) -> list[str]:
        await cache.kv.get_or_load_many(["a"], lambda wanted: ["inner"])
        loaded_within.set()
        await release.wait()
        return ["outer"]

    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a"], outer))
    await loaded_within.wait()
    joined = asyncio.create_task(cache.kv.get_or_load("a", lambda: "again"))
    await turns()
    release.set()
    assert (await joined).value == "outer"
    assert await waiting == {"a": "outer"}


async def test_load_many_avoids_deadlock_with_load_of_single_key(cache: AgentCache) -> None:
    inner_started = asyncio.Event()

    async def outer(keys: list[str]) -> list[str]:
        await inner_started.wait()
        return [f"{key} over {(await cache.kv.get_or_load('x', lambda: 'x at once')).value}" for key in keys]

    async def inner() -> str:
        inner_started.set()
        return "x over " + (await cache.kv.get_or_load_many(["b"], ManyLoader()))["b"]

    async with asyncio.timeout(10):
        values, x = await asyncio.gather(cache.kv.get_or_load_many(["a", "b"], outer), cache.kv.get_or_load("x", inner))
    assert values == {"a": "a over x at once", "b": "b over x at once"}
    assert x.value == "x over b over x at once"


async def test_load_many_takes_one_slot(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    loader, second = ManyLoader(held=True), ManyLoader()
    first = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["c", "d"], second))
    await turns()
    assert second.asked == []
    loader.release()
    assert await first == {"a": "a!", "b": "b!"}
    assert await waiting == {"c": "c!", "d": "d!"}


async def test_load_many_lends_slot_to_flight_that_it_joins(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    outer_started, single_waits = asyncio.Event(), asyncio.Event()

    async def outer(keys: list[str]) -> list[str]:
        outer_started.set()
        await single_waits.wait()
        return [*(await cache.kv.get_or_load_many(["b", "c"], ManyLoader())).values()]

    batch = asyncio.create_task(cache.kv.get_or_load_many(["a1", "a2"], outer))
    await outer_started.wait()
    single = asyncio.create_task(cache.kv.get_or_load("b", lambda: "single"))
    await asyncio.sleep(0.05)
    single_waits.set()
    async with asyncio.timeout(5):
        assert await batch == {"a1": "single", "a2": "c!"}
    assert (await single).value == "single"


async def test_load_many_keeps_slot_during_its_nested_load(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    inner, other = ManyLoader(held=True), ManyLoader()

    async def outer(keys: list[str]) -> dict[str, Any]:
        return await cache.kv.get_or_load_many(["b"], inner) | {"a": "a"}

    waiting = [asyncio.create_task(cache.kv.get_or_load_many(["a"], outer))]
    await inner.started.wait()
    waiting.append(asyncio.create_task(cache.kv.get_or_load_many(["c"], other)))
    await asyncio.sleep(0.05)
    assert other.asked == []
    inner.release()
    assert await asyncio.gather(*waiting) == [{"a": "a"}, {"c": "c!"}]


async def test_load_many_fill_is_written_before_later_delete(
    either: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = either
    writes = HeldWrites(monkeypatch)
    await cache.kv.get_or_load_many(["a", "b"], ManyLoader())
    deleting = asyncio.create_task(cache.kv.delete_many(["a", "b"]))
    await turns()
    writes.release.set()
    assert await deleting == 2
    assert await in_both_levels(cache) == (MISS, MISS)
