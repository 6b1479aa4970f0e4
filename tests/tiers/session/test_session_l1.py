"""Session fields in L1: how long they stay, and changes that drop them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.seams import HeldReads, HeldWrites, without_write_check
from tests.support import MakeCache, until
from tests.tiers.session.threads import key_of
from tiercache import AgentCache, CoherenceOptions, TierOptions
from tiercache.testing import FakeClock


@pytest.mark.parametrize(
    ("options", "l1_ttl"), [(None, 30), (TierOptions(l1_ttl=1000), 1000), (TierOptions(l1_ttl=0.5), 0.5)]
)
async def test_session_sees_unannounced_change_after_l1_ttl(
    make_cache: MakeCache, plain: valkey.Valkey, options: TierOptions | None, l1_ttl: float
) -> None:
    time = FakeClock()
    coherence = CoherenceOptions(max_staleness=2000, tracking="off")
    cache = make_cache(name="test", session=options, coherence=coherence, clock=time.clock)
    await cache.session.set("t", "a", "before")
    plain.set(key_of("t", "a"), "after")
    assert await cache.session.get("t", "a") == "before"
    assert await cache.session.get("t", "a", fresh=True) == "after"
    plain.set(key_of("t", "a"), "later")
    time.advance(l1_ttl - 0.01)
    assert await cache.session.get("t", "a") == "after"
    time.advance(0.02)
    assert await cache.session.get("t", "a") == "later"


async def test_session_reads_valkey_each_time_with_l1_turned_off(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", session=TierOptions(l1=False), coherence=CoherenceOptions(tracking="off"))
    await cache.session.set("t", "a", "before")
    plain.set(key_of("t", "a"), "after")
    assert await cache.session.get("t", "a") == "after"


async def test_session_sees_change_of_other_process_after_announcement(make_cache: MakeCache) -> None:
    time = FakeClock()  # The clock stands still: no entry in L1 expires, and trust does not end.
    options: dict[str, Any] = {"name": "test", "session": TierOptions(l1_ttl=None), "clock": time.clock}
    cache = make_cache(coherence=CoherenceOptions(max_staleness=1000, tracking="off"), **options)
    other = make_cache(**options)
    await cache.session.set("t", "a", "1")
    for change, expected in (
        (lambda: other.session.set("t", "a", "2"), "2"),
        (lambda: other.session.incr("t", "a"), "3"),
        (lambda: other.session.compare_and_set("t", "a", "3", "[4]"), "[4]"),
        (lambda: other.session.append("t", "a", 5), "[4,5]"),
        (lambda: other.session.delete("t", "a"), None),
        (lambda: other.session.set("t", "a", "6"), "6"),
        (lambda: other.session.destroy_thread("t"), None),
        (lambda: other.session.set("t", "a", "7"), "7"),
        (lambda: other.session.clear(), None),
    ):
        hits = cache.local_stats().tiers["session"].l1_hits
        held = await cache.session.get("t", "a")
        assert held is None or cache.local_stats().tiers["session"].l1_hits == hits + 1  # The value was in L1.
        await change()

        async def is_received(expected: str | None = expected) -> bool:
            return await cache.session.get("t", "a") == expected

        await until(is_received)


CHANGES: dict[str, tuple[Callable[[AgentCache], Awaitable[Any]], str | None]] = {
    "set": (lambda cache: cache.session.set("t", "a", "2"), "2"),
    "delete": (lambda cache: cache.session.delete("t", "a"), None),
    "destroy_thread": (lambda cache: cache.session.destroy_thread("t"), None),
    "incr": (lambda cache: cache.session.incr("t", "a"), "2"),
    "compare_and_set": (lambda cache: cache.session.compare_and_set("t", "a", "1", "2"), "2"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_session_change_during_read_keeps_older_value_out_of_l1(
    make_cache: MakeCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tracking is off: invalidations from the server for this process's own scripts would hide the race.
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    call, expected = CHANGES[change]
    await cache.session.set("t", "a", "1")
    cache.clear_l1()
    with monkeypatch.context() as patch:
        reads = HeldReads(patch)
        reading = asyncio.create_task(cache.session.get("t", "a"))
        await reads.answered.wait()
        await call(cache)
        reads.release.set()
        assert await reading == "1"
    assert await cache.session.get("t", "a") == expected


@pytest.mark.parametrize("change", CHANGES)
async def test_session_change_drops_value_read_between_first_drop_and_write(
    make_cache: MakeCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tracking is off: invalidations from the server for this process's own scripts would hide the race.
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    call, expected = CHANGES[change]
    # One of two guards against this race is removed, to test the other guard.
    without_write_check(monkeypatch)
    await cache.session.set("t", "a", "1")
    with monkeypatch.context() as patch:
        held = HeldWrites(patch)
        changing = asyncio.ensure_future(call(cache))
        await held.sending.wait()
        assert await cache.session.get("t", "a") == "1"
        held.release.set()
        await changing
    assert await cache.session.get("t", "a") == expected


async def test_session_set_that_is_last_wins_in_both_levels(cache: AgentCache) -> None:
    await asyncio.gather(*(cache.session.set("t", "a", str(n)) for n in range(250)))
    assert await cache.session.get("t", "a") == "249"
    assert await cache.session.get("t", "a", fresh=True) == "249"
