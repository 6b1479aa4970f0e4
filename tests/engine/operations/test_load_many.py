"""Batches: each key is read, loaded and written by the rules for one, with one question to Valkey and one load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import turns
from tests.support import HeldReads, HeldWrites
from tiercache import MISS, AgentCache, L2CommandError, L2UnavailableError, ResilienceOptions, TierOptions, UsageError
from tiercache.engine.engine import Engine
from tiercache.engine.memory.fences import Fences
from tiercache.engine.memory.flights import Flight
from tiercache.engine.runtime.runtime import Runtime
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.testing import FakeClock

MakeCache = Callable[..., AgentCache]

CHANGES: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "set": lambda cache: cache.kv.set("a", "stored"),
    "set_many": lambda cache: cache.kv.set_many({"a": "stored"}),
    "delete": lambda cache: cache.kv.delete("a"),
    "delete_many": lambda cache: cache.kv.delete_many(["a"]),
    "clear": lambda cache: cache.kv.clear(),
}
changes = pytest.mark.parametrize("change", CHANGES)


class Batches:
    """A batch loader that notes what it was asked for, and answers ``{key}!`` when told to.

    Args:
        held: Whether it waits for ``release``.
        error: What it raises instead.
    """

    def __init__(self, *, held: bool = False, error: Exception | None = None) -> None:
        self.asked: list[list[str]] = []
        self.started = asyncio.Event()
        self.cancelled = 0
        self._error = error
        self._released = asyncio.Event()
        if not held:
            self.release()

    def release(self) -> None:
        """Let it answer."""
        self._released.set()

    async def __call__(self, keys: list[str]) -> dict[str, str]:
        self.asked.append(keys)
        self.started.set()
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._error is not None:
            raise self._error
        return {key: f"{key}!" for key in keys}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the list in which every question to Valkey is noted: the keys it was about."""
    reads: list[list[str]] = []
    get, get_many = ValkeyLevel2.get, ValkeyLevel2.get_many

    async def one(level2: ValkeyLevel2, key: str) -> Any:
        reads.append([key])
        return await get(level2, key)

    async def many(level2: ValkeyLevel2, keys: Any) -> Any:
        reads.append(list(keys))
        return await get_many(level2, keys)

    monkeypatch.setattr(ValkeyLevel2, "get", one)
    monkeypatch.setattr(ValkeyLevel2, "get_many", many)
    return reads


async def in_both_levels(cache: AgentCache, key: str = "a") -> tuple[Any, Any]:
    """Return what L1 and Valkey have for ``key``."""
    await cache.flush_writes()
    hits = cache.local_stats().tiers["kv"].l1_hits
    value = await cache.kv.get(key, MISS)
    l1 = value if cache.local_stats().tiers["kv"].l1_hits > hits else MISS
    cache.clear_l1()
    return l1, await cache.kv.get(key, MISS)


def without_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no change take away the right to store."""
    monkeypatch.setattr(Fences, "break_key", lambda self, key: None)
    monkeypatch.setattr(Fences, "break_group", lambda self, group: None)
    monkeypatch.setattr(Fences, "overtake", lambda self, fence: None)
    monkeypatch.setattr(Fences, "written", Fences.close)


def left_by(change: str) -> tuple[Any, Any]:
    return ("stored", "stored") if change.startswith("set") else (MISS, MISS)


def calls(plain: valkey.Valkey) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in plain.info("commandstats").items()}


# Reading


async def test_a_hundred_keys_are_one_mget_and_fill_l1(cache: AgentCache, plain: valkey.Valkey) -> None:
    values = {f"k{n}": {"n": n} for n in range(100)}
    await cache.kv.set_many(values)
    cache.clear_l1()
    await cache.kv.get("k0")
    plain.config_resetstat()
    assert await cache.kv.get_many(values) == values
    after = calls(plain)
    assert (after["mget"], after["eval_ro"]) == (1, 1)
    assert "get" not in after
    assert await cache.kv.get_many(values) == values
    assert calls(plain)["mget"] == 1
    counters = cache.local_stats().tiers["kv"]
    assert (counters.l1_hits, counters.l2_hits, counters.misses) == (101, 100, 0)
    assert cache.local_stats().operations["kv.get_many"].calls == 1


async def test_while_valkey_is_taken_for_unavailable_a_batch_does_not_ask_it(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeClock()
    cache = make_cache(name="test", resilience=ResilienceOptions(breaker_failures=1), clock=time.clock)
    await cache.kv.set("a", 1)
    runtime = await cache._engine.open()
    runtime.breaker.failed(L2UnavailableError("away"))
    cache.clear_l1()
    reads = count_reads(monkeypatch)
    assert await cache.kv.get_many(["a", "b"], MISS) == {"a": MISS, "b": MISS}
    assert reads == []
    time.advance(1)
    assert await cache.kv.get_many(["a", "b"], MISS) == {"a": 1, "b": MISS}
    assert len(reads) == 1


async def test_two_thousand_keys_go_in_and_out(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {f"k{n}": n for n in range(2000)}
    await cache.kv.set_many(values, ttl=60)
    assert plain.pttl("test:__tc:kv:kv:k1999") > 50_000
    cache.clear_l1()
    reads = count_reads(monkeypatch)
    assert list((await cache.kv.get_many(reversed(values))).items()) == list(reversed(values.items()))
    assert len(reads) == 1
    assert await cache.kv.delete_many(values) == 2000
    loader = Batches()
    assert (await cache.kv.get_or_load_many(values, loader))["k1999"] == "k1999!"
    assert loader.asked == [list(values)]
    assert len(reads) == 2
    await cache.flush_writes()
    assert await cache.kv.clear() == 2000


async def test_a_copy_read_in_a_batch_does_not_outlive_the_value(cache: AgentCache, plain: valkey.Valkey) -> None:
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


@changes
async def test_a_batch_read_that_a_change_overtook_does_not_fill_l1(
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
    assert await in_both_levels(cache) == left_by(change)


@changes
async def test_without_the_fence_the_batch_read_would_fill_l1(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fences(monkeypatch)
    with pytest.raises(AssertionError, match=r"'older', "):
        await test_a_batch_read_that_a_change_overtook_does_not_fill_l1(cache, change, monkeypatch)


async def test_a_batch_read_overtaken_by_a_refresh_does_not_bring_the_older_value_back(
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
async def test_what_is_read_between_the_first_drop_and_the_write_does_not_stay_in_l1(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set("a", "older")
    writes = HeldWrites(monkeypatch)
    changing = asyncio.ensure_future(CHANGES[change](cache))
    await writes.sending.wait()
    assert await cache.kv.get_many(["a"]) == {"a": "older"}  # From Valkey, into L1.
    writes.release.set()
    await changing
    assert await cache.kv.get("a") == ("stored" if change == "set_many" else None)


@pytest.mark.parametrize("change", ["set_many", "delete_many"])
async def test_a_read_begun_during_a_batch_of_writes_and_answered_before_them_does_not_fill_l1_after_them(
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
    assert await in_both_levels(cache) == left_by(change)


@pytest.mark.parametrize("change", ["set_many", "delete_many"])
async def test_without_the_second_drop_it_would(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "written", lambda engine, runtime, fence: runtime.fences.close(fence))
    monkeypatch.setattr(Runtime, "is_writing", lambda runtime, key: False)  # The other guard against the same.
    with pytest.raises(AssertionError, match=r"'older', "):
        await test_a_read_begun_during_a_batch_of_writes_and_answered_before_them_does_not_fill_l1_after_them(
            cache, change, monkeypatch
        )


async def test_a_cancelled_batch_of_writes_takes_effect_all_the_same(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set_many({"a": "older", "b": "older"})
    writes = HeldWrites(monkeypatch)
    storing = asyncio.create_task(cache.kv.set_many({"a": "newer", "b": "newer"}))
    await writes.sending.wait()
    assert await cache.kv.get_many(["a", "b"]) == {"a": "older", "b": "older"}
    storing.cancel()
    writes.release.set()
    assert await in_both_levels(cache, "a") == ("newer", "newer")
    assert await in_both_levels(cache, "b") == (MISS, "newer")  # L1 was cleared by looking.


async def test_writes_are_refused_one_by_one(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.execute_command("ACL", "SETUSER", "default", "-@all", "+@all", "-del")
    try:
        await cache.kv.set_many({"a": 1, "b": 2})
        with pytest.raises(L2CommandError, match="DEL"):
            await cache.kv.delete_many(["a", "b"])
        assert cache.local_stats().l1_entry_count == 0
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "+@all")


async def test_the_last_of_several_batches_wins_in_both_levels(cache: AgentCache) -> None:
    await asyncio.gather(*(cache.kv.set_many({"a": n, f"other{n}": n}) for n in range(150)))
    assert await in_both_levels(cache) == (149, 149)


# Loading


async def test_the_loader_is_called_once_with_what_is_nowhere(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set_many({"in l1": 1, "in l2": 2})
    cache.clear_l1()
    await cache.kv.get("in l1")
    reads = count_reads(monkeypatch)
    loader = Batches()
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


async def test_a_key_in_the_air_is_waited_for(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await release.wait()
        return "from the single load"

    single = asyncio.create_task(cache.kv.get_or_load("a", load))
    await started.wait()
    loader, another = Batches(held=True), Batches()
    batch = asyncio.create_task(cache.kv.get_or_load_many(["b", "a", "c"], loader))
    await loader.started.wait()
    reads = count_reads(monkeypatch)
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


async def test_a_key_found_in_valkey_does_not_wait_for_the_loader(cache: AgentCache) -> None:
    await cache.kv.set("a", "in valkey")
    cache.clear_l1()
    loader = Batches(held=True)
    batch = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    one = asyncio.create_task(cache.kv.get_or_load("a", lambda: "never"))
    await loader.started.wait()
    assert (await one).value == "in valkey"
    loader.release()
    assert await batch == {"a": "in valkey", "b": "b!"}


@changes
async def test_a_change_during_a_batch_load_wins_for_its_key_alone(either: AgentCache, change: str) -> None:
    await change_during_a_batch_load(either, change)


async def change_during_a_batch_load(cache: AgentCache, change: str) -> None:
    loader = Batches(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["b", "a"], loader))
    await loader.started.wait()
    await CHANGES[change](cache)
    loader.release()
    assert await waiting == {"b": "b!", "a": "a!"}  # Whoever waited still gets the values.
    assert await in_both_levels(cache) == left_by(change)
    assert await cache.kv.get("b", MISS) == (MISS if change == "clear" else "b!")
    assert cache.local_stats().tiers["kv"].overtaken == (2 if change == "clear" else 1)


@changes
async def test_a_caller_after_a_change_does_not_join_the_older_batch_load(either: AgentCache, change: str) -> None:
    cache = either
    loader = Batches(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["b", "a"], loader))
    await loader.started.wait()
    await CHANGES[change](cache)
    newer = await cache.kv.get_or_load_many(["a"], lambda keys: ["newer"])
    assert newer == {"a": "stored" if change.startswith("set") else "newer"}
    loader.release()
    assert (await waiting)["a"] == "a!"
    assert await in_both_levels(cache) == (newer["a"], newer["a"])


@changes
async def test_without_the_fence_the_older_batch_load_would_be_stored(
    unleased: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fences(monkeypatch)
    with pytest.raises(AssertionError, match="'a!', 'a!'"):
        await change_during_a_batch_load(unleased, change)


@changes
async def test_a_change_during_the_read_of_a_batch_load_wins(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.kv.set("a", "older")
    cache.clear_l1()
    reads = HeldReads(monkeypatch, "get_many")
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["b", "a"], Batches()))
    await reads.answered.wait()
    await CHANGES[change](cache)
    reads.release.set()
    assert await waiting == {"b": "b!", "a": "older"}
    assert await in_both_levels(cache) == left_by(change)


async def test_what_a_batch_loader_raises_reaches_everyone_who_waits_for_one_of_its_keys(cache: AgentCache) -> None:
    error = RuntimeError("no")
    loader = Batches(held=True, error=error)
    waiting = [asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))]
    await loader.started.wait()
    waiting.append(asyncio.create_task(cache.kv.get_or_load_many(["b", "c"], Batches())))
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
    assert (await cache.kv.get_or_load_many(["a"], Batches())) == {"a": "a!"}


async def test_a_cancelled_caller_hurts_nobody_who_waits_for_one_of_its_keys(cache: AgentCache) -> None:
    loader = Batches(held=True)
    first = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    others = [
        asyncio.create_task(cache.kv.get_or_load_many(["b", "c"], Batches())),
        asyncio.create_task(cache.kv.get_or_load("b", lambda: "never")),
    ]
    await turns()
    first.cancel()
    await asyncio.wait([first])
    late = asyncio.create_task(cache.kv.get_or_load("a", lambda: "never"))  # Nobody waits for it, and it still comes.
    await turns()
    loader.release()
    assert await others[0] == {"b": "b!", "c": "c!"}
    assert (await others[1]).value == "b!"
    assert (await late).value == "a!"
    assert (loader.cancelled, len(loader.asked)) == (0, 1)
    assert await in_both_levels(cache) == ("a!", "a!")


async def test_without_looking_at_the_other_keys_the_load_would_be_cancelled(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flight, "is_awaited", False)
    with pytest.raises((AssertionError, asyncio.CancelledError)):
        await test_a_cancelled_caller_hurts_nobody_who_waits_for_one_of_its_keys(cache)


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_leaves_nothing_registered(cache: AgentCache) -> None:
    loader = Batches(held=True)
    waiting = [asyncio.create_task(cache.kv.get_or_load_many([f"k{n}" for n in range(500)], loader)) for _ in range(3)]
    one = asyncio.create_task(cache.kv.get_or_load("k250", lambda: "never"))
    await loader.started.wait()
    for task in (*waiting, one):
        assert loader.cancelled == 0
        task.cancel()
        await asyncio.wait([task])
    # Whoever asks now does not join a load that is on its way out.
    assert (await cache.kv.get_or_load("k0", lambda: "anew")).value == "anew"
    assert loader.cancelled == 1
    await turns()
    runtime = await cache._engine.open()
    assert len(runtime.fences) == 0
    assert runtime.flights._by_key == {}
    assert runtime._loading == {}


async def test_nobody_joins_a_batch_load_that_is_on_its_way_out(cache: AgentCache) -> None:
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
        assert await cache.kv.get_or_load_many(["b", "a"], Batches()) == {"b": "b!", "a": "a!"}
    cleaned_up.set()
    await turns()


async def test_a_failure_is_not_kept_waiting_by_other_keys(cache: AgentCache) -> None:
    slow = Batches(held=True)
    held = asyncio.create_task(cache.kv.get_or_load_many(["slow"], slow))
    await slow.started.wait()
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="no"):
            await cache.kv.get_or_load_many(["slow", "a"], Batches(error=RuntimeError("no")))
    slow.release()
    assert await held == {"slow": "slow!"}


async def test_a_batch_read_leaves_nothing_registered(cache: AgentCache) -> None:
    await cache.kv.set("a", 1)
    cache.clear_l1()
    await cache.kv.get_many(["a", "b"])
    assert len((await cache._engine.open()).fences) == 0


async def test_an_abandoned_batch_is_finished_where_the_tier_says_so(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", kv=TierOptions(on_abandon="finish"))
    loader = Batches(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    loader.release()
    await turns()
    assert await in_both_levels(cache) == ("a!", "a!")


async def test_a_batch_load_cancelled_from_outside_before_its_first_step_leaves_nobody_waiting(
    cache: AgentCache,
) -> None:
    loader = Batches()
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await asyncio.sleep(0)
    joined = asyncio.create_task(cache.kv.get_or_load("b", lambda: "never"))
    (loading,) = (task for task in asyncio.all_tasks() if task.get_name() == "tiercache-load")
    loading.cancel()
    async with asyncio.timeout(10):
        results = await asyncio.gather(waiting, joined, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    runtime = await cache._engine.open()
    assert len(runtime.fences) == 0
    assert runtime.flights._by_key == {}


async def test_closing_ends_a_batch_load_for_everyone_who_waits(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(drain_timeout=0.05))
    loader = Batches(held=True)
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    joined = asyncio.create_task(cache.kv.get_or_load("b", lambda: "never"))
    await turns()
    await cache.aclose()
    results = await asyncio.gather(waiting, joined, return_exceptions=True)
    assert all(isinstance(result, UsageError) for result in results)
    assert loader.cancelled == 1


@pytest.mark.parametrize("inner", ["get_or_load", "get_or_load_many"])
async def test_a_batch_loader_that_asks_for_one_of_its_own_keys_loads_it_at_once(cache: AgentCache, inner: str) -> None:
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
    # The outer value is the one that is kept.
    assert await in_both_levels(cache, "b") == (f"b, {nested}", f"b, {nested}")


async def test_others_wait_for_the_outer_load_and_not_for_the_one_within_it(cache: AgentCache) -> None:
    loaded_within, release = asyncio.Event(), asyncio.Event()

    async def outer(keys: list[str]) -> list[str]:
        await cache.kv.get_or_load_many(["a"], lambda wanted: ["inner"])
        loaded_within.set()
        await release.wait()
        return ["outer"]

    waiting = asyncio.create_task(cache.kv.get_or_load_many(["a"], outer))
    await loaded_within.wait()
    joined = asyncio.create_task(cache.kv.get_or_load("a", lambda: "anew"))
    await turns()
    release.set()
    assert (await joined).value == "outer"
    assert await waiting == {"a": "outer"}


async def test_loads_that_wait_for_each_other_through_a_batch_end(cache: AgentCache) -> None:
    inner_started = asyncio.Event()

    async def outer(keys: list[str]) -> list[str]:
        await inner_started.wait()
        return [f"{key} over {(await cache.kv.get_or_load('x', lambda: 'x at once')).value}" for key in keys]

    async def inner() -> str:
        inner_started.set()
        return "x over " + (await cache.kv.get_or_load_many(["b"], Batches()))["b"]

    async with asyncio.timeout(10):
        values, x = await asyncio.gather(cache.kv.get_or_load_many(["a", "b"], outer), cache.kv.get_or_load("x", inner))
    assert values == {"a": "a over x at once", "b": "b over x at once"}
    assert x.value == "x over b over x at once"


async def test_a_batch_takes_one_slot_of_max_loads(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    loader, second = Batches(held=True), Batches()
    first = asyncio.create_task(cache.kv.get_or_load_many(["a", "b"], loader))
    await loader.started.wait()
    waiting = asyncio.create_task(cache.kv.get_or_load_many(["c", "d"], second))
    await turns()
    assert second.asked == []
    loader.release()
    assert await first == {"a": "a!", "b": "b!"}
    assert await waiting == {"c": "c!", "d": "d!"}


async def test_a_load_that_waits_for_another_in_a_batch_lends_it_its_slot(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    outer_started, single_waits = asyncio.Event(), asyncio.Event()

    async def outer(keys: list[str]) -> list[str]:
        outer_started.set()
        await single_waits.wait()
        return [*(await cache.kv.get_or_load_many(["b", "c"], Batches())).values()]

    batch = asyncio.create_task(cache.kv.get_or_load_many(["a1", "a2"], outer))
    await outer_started.wait()
    single = asyncio.create_task(cache.kv.get_or_load("b", lambda: "single"))
    await asyncio.sleep(0.05)
    single_waits.set()
    async with asyncio.timeout(5):
        assert await batch == {"a1": "single", "a2": "c!"}
    assert (await single).value == "single"


async def test_a_load_lends_nobody_its_slot_for_a_batch_of_its_own(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    inner, other = Batches(held=True), Batches()

    async def outer(keys: list[str]) -> dict[str, Any]:
        return await cache.kv.get_or_load_many(["b"], inner) | {"a": "a"}

    waiting = [asyncio.create_task(cache.kv.get_or_load_many(["a"], outer))]
    await inner.started.wait()
    waiting.append(asyncio.create_task(cache.kv.get_or_load_many(["c"], other)))
    await asyncio.sleep(0.05)
    assert other.asked == []
    inner.release()
    assert await asyncio.gather(*waiting) == [{"a": "a"}, {"c": "c!"}]


async def test_a_batch_read_while_a_fill_is_on_its_way_does_not_keep_the_older_value(
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


async def test_a_fill_of_a_batch_reaches_valkey_before_an_invalidation_that_follows(
    either: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = either
    writes = HeldWrites(monkeypatch)
    await cache.kv.get_or_load_many(["a", "b"], Batches())
    deleting = asyncio.create_task(cache.kv.delete_many(["a", "b"]))
    await turns()
    writes.release.set()
    assert await deleting == 2
    assert await in_both_levels(cache) == (MISS, MISS)
