"""A change of a key wins over a read or a load of the key in progress, in L1 and in Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.requests import HELLO, Loader, asking, turns
from tests.seams import NOTHING_REGISTERED, HeldReads, HeldWrites, internals, slow_writes, without_fences
from tiercache import AgentCache, LlmResponse

CHANGES: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "invalidate": lambda cache: cache.llm.invalidate(HELLO),
    "invalidate_by_model": lambda cache: cache.llm.invalidate_by_model("gpt-4o"),
    "clear": lambda cache: cache.llm.clear(),
    "store": lambda cache: cache.llm.store(HELLO, "stored"),
}


async def in_both_levels(cache: AgentCache) -> tuple[str | None, str | None]:
    await cache.flush_writes()
    l1 = await cache.llm.check(HELLO)
    cache.clear_l1()
    l2 = await cache.llm.check(HELLO)
    return (l1.response if l1.source == "l1" else None), l2.response


@pytest.mark.parametrize("change", CHANGES)
async def test_change_during_load_keeps_older_load_unstored(either: AgentCache, change: str) -> None:
    await change_during_a_load(either, change)


async def change_during_a_load(cache: AgentCache, change: str) -> None:
    loader = Loader("older", held=True)
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
    await loader.started.wait()
    await CHANGES[change](cache)
    loader.release()
    assert (await waiting).response == "older"  # The waiter still receives the loaded value.
    expected = "stored" if change == "store" else None
    assert await in_both_levels(cache) == (expected, expected)
    assert cache.local_stats().tiers["llm"].overtaken == 1


@pytest.mark.parametrize("change", CHANGES)
async def test_change_during_load_starts_new_flight_for_next_caller(either: AgentCache, change: str) -> None:
    cache = either
    older, newer = Loader("older", held=True), Loader("newer")
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, older))
    await older.started.wait()
    await CHANGES[change](cache)
    result = await cache.llm.get_or_load(HELLO, newer)
    assert result.response == ("stored" if change == "store" else "newer")
    older.release()
    assert (await waiting).response == "older"
    assert await in_both_levels(cache) == (result.response, result.response)


@pytest.mark.parametrize("change", CHANGES)
async def test_change_without_fences_stores_older_load(
    unleased: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fences(monkeypatch)
    with pytest.raises(AssertionError, match="'older', 'older'"):
        await change_during_a_load(unleased, change)


async def test_change_before_load_does_not_break_it(cache: AgentCache) -> None:
    await cache.llm.invalidate(HELLO)
    await cache.llm.get_or_load(HELLO, Loader())
    assert await in_both_levels(cache) == ("answer", "answer")


@pytest.mark.parametrize("change", CHANGES)
async def test_change_during_read_keeps_older_value_out_of_l1(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.llm.store(HELLO, "older")
    cache.clear_l1()
    reads = HeldReads(monkeypatch)
    reading = asyncio.create_task(cache.llm.check(HELLO))
    await reads.answered.wait()
    await CHANGES[change](cache)
    reads.release.set()
    assert (await reading).response == "older"
    expected = "stored" if change == "store" else None
    assert await in_both_levels(cache) == (expected, expected)


@pytest.mark.parametrize("change", CHANGES)
async def test_change_drops_value_read_between_first_drop_and_write(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older value is read while the change is in flight.

    There are two cases: 1. The change names its key: the read does not fill L1. 2. The change names a group, whose keys
    are unknown before the reply: the read fills L1, and the second drop removes the entry.
    """
    await cache.llm.store(HELLO, "older")
    writes = HeldWrites(monkeypatch)
    changing = asyncio.ensure_future(CHANGES[change](cache))
    await writes.sending.wait()
    assert (await cache.llm.check(HELLO)).source == "l2"
    assert (await cache.llm.check(HELLO)).source == ("l2" if change in ("store", "invalidate") else "l1")
    writes.release.set()
    await changing
    expected = "stored" if change == "store" else None
    assert (await cache.llm.check(HELLO)).response == expected


@pytest.mark.parametrize("change", CHANGES)
async def test_change_breaks_read_begun_during_write(
    cache: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.llm.store(HELLO, "older")
    writes = HeldWrites(monkeypatch)
    changing = asyncio.ensure_future(CHANGES[change](cache))
    await writes.sending.wait()
    reads = HeldReads(monkeypatch)
    reading = asyncio.create_task(cache.llm.check(HELLO))
    await reads.answered.wait()
    writes.release.set()
    await changing
    reads.release.set()
    assert (await reading).response == "older"
    expected = "stored" if change == "store" else None
    assert await in_both_levels(cache) == (expected, expected)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ends", ["during the change", "after it"])
async def test_change_breaks_load_begun_during_write(
    unleased: AgentCache, change: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With leases a load of a key in a changed group starts after the change, because its lease is queued behind it."""
    cache = unleased
    await cache.llm.store(HELLO, "older")
    writes = HeldWrites(monkeypatch)
    changing = asyncio.ensure_future(CHANGES[change](cache))
    await writes.sending.wait()
    loader = Loader("loaded", held=True)
    loading = asyncio.create_task(cache.llm.get_or_load(HELLO, loader, mode="refresh"))
    await loader.started.wait()
    if ends == "during the change":
        loader.release()
        assert (await loading).response == "loaded"
    writes.release.set()
    await changing
    loader.release()
    assert (await loading).response == "loaded"
    l1, l2 = await in_both_levels(cache)
    assert l1 in (l2, None)  # The levels never differ.
    if change in ("store", "invalidate"):
        assert l2 == ("stored" if change == "store" else None)


async def test_refresh_keeps_read_during_its_fill_out_of_l1(
    either: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = either
    await cache.llm.store(HELLO, "older")
    with monkeypatch.context() as patch:
        writes = HeldWrites(patch)
        await cache.llm.get_or_load(HELLO, Loader("newer"), mode="refresh")
        cache.clear_l1()
        await writes.sending.wait()
        assert (await cache.llm.check(HELLO)).response == "older"  # Valkey still holds the older value.
        writes.release.set()
        await cache.flush_writes()
    assert (await cache.llm.check(HELLO)).response == "newer"
    assert await in_both_levels(cache) == ("newer", "newer")


async def test_refresh_breaks_older_read_in_flight(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    await cache.llm.store(HELLO, "older")
    cache.clear_l1()
    with monkeypatch.context() as patch:
        reads = HeldReads(patch)
        loader = Loader("newer", held=True)
        refreshing = asyncio.create_task(cache.llm.get_or_load(HELLO, loader, mode="refresh"))
        await loader.started.wait()
        reading = asyncio.create_task(cache.llm.check(HELLO))
        await reads.answered.wait()
        loader.release()
        await refreshing
        reads.release.set()
        assert (await reading).response == "older"
    assert await in_both_levels(cache) == ("newer", "newer")


async def test_store_that_is_cancelled_still_drops_value_read_during_write(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.llm.store(HELLO, "older")
    writes = HeldWrites(monkeypatch)
    storing = asyncio.create_task(cache.llm.store(HELLO, "newer"))
    await writes.sending.wait()
    assert (await cache.llm.check(HELLO)).response == "older"  # The read fills L1 from Valkey.
    storing.cancel()
    writes.release.set()
    await cache.flush_writes()
    assert await in_both_levels(cache) == ("newer", "newer")


async def test_store_that_is_last_wins_in_both_levels(cache: AgentCache) -> None:
    await asyncio.gather(*(cache.llm.store(HELLO, str(n)) for n in range(250)))
    assert await in_both_levels(cache) == ("249", "249")


async def test_refresh_wins_over_older_load_that_ends_later(either: AgentCache) -> None:
    cache = either
    older, newer = Loader("older", held=True), Loader("newer")
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, older))
    await older.started.wait()
    assert (await cache.llm.get_or_load(HELLO, newer, mode="refresh")).response == "newer"
    older.release()
    assert (await waiting).response == "older"
    assert await in_both_levels(cache) == ("newer", "newer")


async def test_refresh_wins_over_older_load_that_ends_first(either: AgentCache) -> None:
    cache = either
    older, newer = Loader("older", held=True), Loader("newer", held=True)
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, older))
    await older.started.wait()
    refreshing = asyncio.create_task(cache.llm.get_or_load(HELLO, newer, mode="refresh"))
    await newer.started.wait()
    older.release()
    assert (await waiting).response == "older"
    newer.release()
    assert (await refreshing).response == "newer"
    assert await in_both_levels(cache) == ("newer", "newer")


async def test_change_is_written_after_fill_queued_before_it(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_writes(monkeypatch)
    await cache.llm.get_or_load(HELLO, Loader())
    await cache.llm.invalidate(HELLO)
    assert await in_both_levels(cache) == (None, None)


async def test_clear_removes_fills_queued_before_it(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_writes(monkeypatch)
    await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), Loader()) for n in range(20)))
    assert await cache.llm.clear() == 20
    await cache.flush_writes()
    assert await cache.llm.clear() == 0


async def test_load_with_store_false_is_returned_and_not_stored(cache: AgentCache) -> None:
    result = await cache.llm.get_or_load(HELLO, Loader(LlmResponse("once", store=False)))
    assert result.response == "once"
    assert await in_both_levels(cache) == (None, None)


async def test_load_that_is_cancelled_leaves_nothing_registered(cache: AgentCache) -> None:
    loader = Loader(held=True)
    task = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
    await loader.started.wait()
    task.cancel()
    await turns()
    await cache.llm.invalidate(HELLO)
    loader.release()
    await turns()
    assert internals(cache).registered == NOTHING_REGISTERED


async def test_load_cancelled_before_its_first_step_cancels_its_waiters(cache: AgentCache) -> None:
    loader = Loader()
    waiting = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
    await asyncio.sleep(0)  # The caller has started the task of the load, and the task has not run yet.
    (loading,) = (task for task in asyncio.all_tasks() if task.get_name() == "tiercache-load")
    loading.cancel()
    async with asyncio.timeout(10):
        results = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert loader.calls == 0
    assert internals(cache).registered == NOTHING_REGISTERED
