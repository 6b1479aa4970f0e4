"""Both faces of a cache in one process: each sees the changes of the other before the changing call returns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.requests import HELLO, asking
from tests.seams import (
    HeldReads,
    HeldReplies,
    HeldWrites,
    deaf_to_announcements,
    handed_over_count,
    interrupt_following,
    without_hand_over,
)
from tests.support import UNTRACKED, MakeCache
from tests.sync.threads import started
from tiercache import (
    AgentCache,
    L2UnavailableError,
    ResilienceOptions,
    TierOptions,
    ToolPolicy,
    UsageError,
    WriteOptions,
)
from tiercache.engine.level2.writes import WriteSet
from tiercache.testing import ChaosProxy

SECONDS = 2.0

# Changes of a value 1 that both faces have in L1, through either face.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "kv.set": lambda face: face.kv.set("k", 2),
    "kv.delete": lambda face: face.kv.delete("k"),
    "kv.set_many": lambda face: face.kv.set_many({"k": 2}),
    "kv.delete_many": lambda face: face.kv.delete_many(["k"]),
    "kv.clear": lambda face: face.kv.clear(),
    "kv.delete_pattern": lambda face: face.kv.delete_pattern("k*"),
    "kv refresh": lambda face: face.kv.get_or_load("k", lambda: 2, mode="refresh"),
    "kv store_only": lambda face: face.kv.get_or_load("k", lambda: 2, mode="store_only"),
    "invalidate_tag": lambda face: face.invalidate_tag("tag"),
    "flush": lambda face: face.flush(),
}


async def awaited(outcome: Any) -> Any:
    return await outcome if isinstance(outcome, Awaitable) else outcome


@pytest.fixture
async def both(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> AgentCache:
    """Return a cache with both faces open, each of which learns of a change of the other by the hand-over alone."""
    deaf_to_announcements(monkeypatch)
    cache = make_cache(name="test", coherence=UNTRACKED)
    await cache.open()
    await asyncio.to_thread(cache.sync.open)
    return cache


def held_loader(began: threading.Event, release: threading.Event) -> str:
    began.set()
    assert release.wait(20)
    return "older"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("by_sync", [False, True], ids=["async changes", "sync changes"])
async def test_change_by_one_face_is_seen_by_the_other_at_once(
    both: AgentCache, change: Callable[[Any], Any], by_sync: bool
) -> None:
    for _ in range(20):
        await both.kv.set("k", 1, tags=["tag"])
        for _ in range(2):
            assert (await both.kv.get("k"), both.sync.kv.get("k")) == (1, 1)
        await awaited(change(both.sync if by_sync else both))
        # The loop of the async face has not run since a sync change: no message has arrived there.
        seen = await both.kv.get("k") if by_sync else both.sync.kv.get("k")
        assert seen in (2, None)


async def test_entry_removed_by_one_face_is_absent_for_the_delete_of_the_other(both: AgentCache) -> None:
    await both.kv.set("k", 1)
    assert (await both.kv.get("k"), both.sync.kv.get("k")) == (1, 1)
    assert both.sync.kv.delete("k")
    assert not await both.kv.delete("k")
    assert not both.sync.kv.delete("k")


async def test_change_of_sessions_by_one_face_is_seen_by_the_other_at_once(both: AgentCache) -> None:
    for number in range(20):
        await both.session.set("thread", "field", str(number))
        assert both.sync.session.get("thread", "field") == str(number)
        both.sync.session.set("thread", "field", f"sync {number}")
        assert await both.session.get("thread", "field") == f"sync {number}"
        both.sync.session.destroy_thread("thread")
        assert await both.session.get("thread", "field") is None


async def test_model_invalidated_by_one_face_is_gone_from_the_other(both: AgentCache) -> None:
    await both.llm.store(HELLO, "x")
    assert both.sync.llm.check(HELLO).response == "x"
    assert both.sync.llm.check(HELLO).source == "l1"
    assert await both.llm.invalidate_by_model("gpt-4o") == 1
    assert not both.sync.llm.check(HELLO).hit


async def test_clear_l1_clears_both_faces(both: AgentCache) -> None:
    await both.kv.set("k", 1)
    assert both.sync.kv.get("k") == 1
    assert both.clear_l1() == 2
    assert both.sync.kv.explain("k").l1 == "absent"
    assert both.sync.kv.get("k") == 1
    assert await both.kv.get("k") == 1
    assert both.sync.clear_l1() == 2
    before = both.local_stats().tiers["kv"].l2_hits
    assert await both.kv.get("k") == 1
    assert both.local_stats().tiers["kv"].l2_hits == before + 1


async def test_policy_set_by_one_face_is_known_to_the_other(both: AgentCache) -> None:
    both.sync.tool.set_policy("t", ToolPolicy(60))
    assert both.tool.get_policy("t") == ToolPolicy(60)


async def test_load_of_one_face_is_overtaken_by_a_change_of_the_other(both: AgentCache) -> None:
    started, release = threading.Event(), threading.Event()

    def loader() -> int:
        started.set()
        assert release.wait(20)
        return 1

    loading = asyncio.create_task(asyncio.to_thread(both.sync.kv.get_or_load, "k", loader))
    await asyncio.to_thread(started.wait)
    await both.kv.set("k", 2)
    # A caller that comes now must not join the older load.
    later = await asyncio.to_thread(both.sync.kv.get_or_load, "k", lambda: 3)
    assert later.value == 2
    release.set()
    assert (await loading).value == 1
    assert both.sync.kv.get("k") == 2
    assert await both.kv.get("k") == 2


async def test_read_in_flight_of_one_face_keeps_no_value_from_before_a_change_of_the_other(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.sync.kv.set("k", 1)
    both.clear_l1()
    with monkeypatch.context() as patch:
        reads = HeldReads(patch)
        reading = asyncio.create_task(both.kv.get("k"))
        await reads.answered.wait()
        both.sync.kv.set("k", 2)
        reads.release.set()
        await reading
    assert await both.kv.get("k") == 2


async def test_refreshed_value_of_a_blocked_face_is_read_after_a_change_of_another_key(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.kv.set("k", 1)
    with monkeypatch.context() as patch:
        held = HeldWrites(patch)
        await both.kv.get_or_load("k", lambda: 2, mode="refresh")
        await held.sending.wait()
        patch.undo()
        # The loop is blocked by these calls: it applies the first change only later.
        both.sync.kv.set("other", 1)
        assert both.sync.kv.get("k") == 2
        held.release.set()


async def test_change_by_one_face_that_the_other_has_queued_hides_its_refreshed_value(both: AgentCache) -> None:
    await both.kv.get_or_load("k", lambda: 2, mode="refresh", tags=["tag"])
    both.sync.invalidate_tag("tag")
    assert both.sync.kv.get("k") is None
    await both.kv.get_or_load("k", lambda: 3, mode="refresh")
    both.sync.kv.delete("k")
    assert both.sync.kv.get("k") is None
    await both.kv.get_or_load("k", lambda: 4, mode="refresh")
    both.sync.kv.delete_pattern("k*")
    assert both.sync.kv.get("k") is None


async def test_change_whose_application_was_interrupted_is_applied_by_the_next_lookup(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.kv.set("k", 1)
    assert await both.kv.get("k") == 1
    both.sync.kv.set("k", 2)
    with monkeypatch.context() as patch:
        interrupt_following(patch)
        with pytest.raises(InterruptedError):
            await both.kv.get("k")
    assert await both.kv.get("k") == 2


async def test_change_without_hand_over_is_missed_by_the_other_face(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hand-over, the async face serves the older value until its loop has received the message."""
    without_hand_over(monkeypatch)
    await both.kv.set("k", 1)
    assert await both.kv.get("k") == 1
    both.sync.kv.set("k", 2)
    with pytest.raises(AssertionError):
        assert await both.kv.get("k") == 2


async def test_store_of_one_face_that_ends_after_a_later_store_of_the_other_is_not_kept(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey has answered the older store, and its face has not read the answer yet."""
    with monkeypatch.context() as patch:
        replies = HeldReplies(patch, WriteSet)
        storing = asyncio.create_task(both.kv.set("k", 1))
        await replies.answered.wait()
        patch.undo()
        both.sync.kv.set("k", 2)
        replies.release.set()
        await storing
    assert await both.kv.get("k") == 2
    assert both.sync.kv.get("k") == 2


async def test_bar_of_one_face_holds_for_the_other(both: AgentCache) -> None:
    async with both.invalidates("tag"):
        both.sync.kv.get_or_load("k", lambda: "older", tags=["tag"])
        assert both.sync.kv.get("k") is None
    with both.sync.invalidates("tag"):
        await both.kv.get_or_load("k", lambda: "older", tags=["tag"])
        assert await both.kv.get("k") is None
    assert (await both.kv.get_or_load("k", lambda: "new", tags=["tag"])).value == "new"


async def test_refresh_of_one_face_is_read_by_the_other_before_valkey_has_it(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.kv.set("k", 1, tags=["tag"])
    assert both.sync.kv.get("k") == 1
    with monkeypatch.context() as patch:
        held = HeldWrites(patch)
        assert (await both.kv.get_or_load("k", lambda: 2, mode="refresh")).value == 2
        await held.sending.wait()
        assert both.sync.kv.get("k") == 2
        assert both.sync.kv.get_many(["k"]) == {"k": 2}
        held.release.set()
        await both.flush_writes()
    assert both.sync.kv.get("k") == 2


async def test_refresh_of_one_face_after_a_change_of_the_other_is_stored(both: AgentCache) -> None:
    """The change is still queued for the face that refreshes, and came before the refresh."""
    for number in range(5):
        both.sync.kv.set("k", f"sync {number}")
        assert (await both.kv.get_or_load("k", lambda: "refreshed", mode="refresh")).value == "refreshed"
        assert await both.kv.get("k") == "refreshed"
        await both.flush_writes()
        both.clear_l1()
        assert both.sync.kv.get("k") == "refreshed"


async def test_read_of_one_face_during_a_write_of_the_other_keeps_nothing(
    both: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The face that refreshes has lost the new value from its L1, so that the other face must ask Valkey."""
    await both.kv.set("k", 1)
    with monkeypatch.context() as patch:
        held = HeldWrites(patch)
        await both.kv.get_or_load("k", lambda: 2, mode="refresh")
        await held.sending.wait()
        both.clear_l1()
        assert both.sync.kv.get("k") == 1, "Valkey still holds the older value"
        assert both.sync.kv.explain("k").l1 == "absent"
        held.release.set()
        await both.flush_writes()
    assert both.sync.kv.get("k") == 2


@pytest.mark.parametrize("tier", ["kv", "session"])
async def test_unleased_load_of_one_face_is_not_stored_after_a_change_of_the_other(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    """No lease in Valkey ends the right of the load: the load must find the change that was handed over."""
    deaf_to_announcements(monkeypatch)
    cache = make_cache(name="test", kv=TierOptions(lease=False))
    await cache.open()
    for number in range(10):
        field = f"field {number}"
        began, release = threading.Event(), threading.Event()
        loader = partial(held_loader, began, release)
        if tier == "kv":
            load = partial(cache.sync.kv.get_or_load, field, loader)
        else:
            load = partial(cache.sync.session.get_or_load, "thread", field, loader)
        loading = started(load)
        assert await asyncio.to_thread(began.wait, 20)
        if tier == "kv":
            await cache.kv.delete(field)
        else:
            await cache.session.delete("thread", field)
        release.set()
        # The loop is blocked: no announcement is received on either side of this step.
        loading.result()
        cache.sync.flush_writes()
        assert await (cache.kv.get(field) if tier == "kv" else cache.session.get("thread", field)) is None


async def test_changes_beyond_the_queue_of_a_face_drop_all_of_its_l1(both: AgentCache) -> None:
    """The async face looks nothing up while 3,000 keys are changed: its queue stays bounded."""
    await both.kv.set_many({f"k{number}": 1 for number in range(3000)})
    assert both.local_stats().l1_entry_count == 3000
    both.sync.kv.set_many({f"k{number}": 2 for number in range(3000)})
    assert 1000 < handed_over_count(both) < 1010
    for number in range(0, 3000, 50):
        assert await both.kv.get(f"k{number}") == 2


@pytest.mark.parametrize("is_deaf", [False, True], ids=["with announcements", "without announcements"])
@pytest.mark.parametrize("options", [{}, {"kv": TierOptions(l1=False)}], ids=["l1", "without l1"])
async def test_no_read_of_either_face_is_older_than_a_change_that_has_returned(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], is_deaf: bool
) -> None:
    """Two threads and the loop hammer one key: a version counter falls for no reader."""
    if is_deaf:
        deaf_to_announcements(monkeypatch)
    # An answer that comes late on a busy machine is no fault here.
    cache = make_cache(name="test", resilience=ResilienceOptions(l2_timeout=20), **options)
    sync = cache.sync
    await cache.open()
    acknowledged = [0, 0]  # By the async face, by the sync face: the last version that has returned.
    lock = threading.Lock()
    versions = iter(range(1, 10**9))
    ends_at = time.monotonic() + SECONDS
    problems: list[str] = []
    reads = [0, 0]

    def check(face: str, seen: Any, floor: int) -> None:
        if seen is None or seen < floor:
            problems.append(f"{face} read {seen} after {floor}")

    def write_by_sync() -> None:
        while time.monotonic() < ends_at and not problems:
            # One writer at a time: the versions then have one order.
            with lock:
                version = next(versions)
                sync.kv.set("k", version)
                acknowledged[0] = version
            for _ in range(3):
                floor = acknowledged[0]
                check("sync", sync.kv.get("k"), floor)
                reads[1] += 1

    def read_by_sync() -> None:
        while time.monotonic() < ends_at and not problems:
            floor = acknowledged[0]
            check("sync", sync.kv.get_or_load("k", lambda: 10**9).value, floor)
            reads[1] += 1

    async def run_async() -> None:
        while time.monotonic() < ends_at and not problems:
            if lock.acquire(blocking=False):
                try:
                    version = next(versions)
                    await cache.kv.set("k", version)
                    acknowledged[0] = version
                finally:
                    lock.release()
            for _ in range(5):
                floor = acknowledged[0]
                check("async", await cache.kv.get("k"), floor)
                reads[0] += 1
            await asyncio.sleep(0)

    await cache.kv.set("k", 0)
    threads = [threading.Thread(target=work) for work in (write_by_sync, read_by_sync)]
    for thread in threads:
        thread.start()
    await run_async()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert problems == []
    assert min(reads) > 20


async def test_stores_wait_for_valkey_while_both_faces_of_a_write_behind_cache_are_in_use(
    make_cache: MakeCache,
) -> None:
    cache = make_cache(name="test", writes=WriteOptions(mode="behind", max_delay=0.2))
    await cache.llm.store(HELLO, "0")
    assert cache.local_stats().queued_write_count > 0, "one face writes behind"
    assert (await asyncio.to_thread(cache.sync.llm.check, HELLO)).response == "0"
    for number in range(5):
        await cache.llm.store(HELLO, f"async {number}")
        assert cache.sync.llm.check(HELLO).response == f"async {number}"
        cache.sync.llm.store(HELLO, f"sync {number}")
        assert (await cache.llm.check(HELLO)).response == f"sync {number}"


async def test_write_behind_store_of_one_face_is_read_by_the_other_that_opens_in_its_blocked_loop(
    make_cache: MakeCache,
) -> None:
    cache = make_cache(name="test", writes=WriteOptions(mode="behind", max_delay=0.2))
    await cache.llm.store(HELLO, "behind")
    # The loop is blocked by this call: the store cannot reach Valkey before the read.
    assert cache.sync.llm.check(HELLO).response == "behind"


@pytest.mark.parametrize("change", ["delete", "invalidate_tag"])
async def test_pending_invalidation_of_one_face_hides_the_value_from_the_other(proxy: ChaosProxy, change: str) -> None:
    # The breaker stays closed, so that a miss can only be due to the pending invalidation.
    patient = ResilienceOptions(l2_timeout=0.3, breaker_failures=1000, breaker_pause=60)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED, resilience=patient) as cache:
        get = partial(asyncio.to_thread, cache.sync.kv.get)
        await cache.kv.set("k", 1, tags=["tag"])
        assert await get("k") == 1
        proxy.refuse()
        proxy.kill(lane="commands")
        with pytest.raises(L2UnavailableError):
            await (cache.kv.delete("k") if change == "delete" else cache.invalidate_tag("tag"))
        proxy.refuse(False)
        assert await get("k") is None
        result = await asyncio.to_thread(cache.sync.kv.get_or_load_many, ["k"], lambda keys: ["loaded"] * len(keys))
        assert result == {"k": "loaded"}
        await cache.kv.delete("k")
        assert await get("k") is None


def test_kv_tier_has_the_options_that_either_face_gave(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    cache.tier("embeddings", TierOptions(ttl=60))
    with cache.sync as sync:
        sync.tier("embeddings").set("k", 1)
        assert 0 < (sync.tier("embeddings").get_or_load("k", lambda: 2).ttl or 0) <= 60
        with pytest.raises(UsageError, match="other options"):
            sync.tier("embeddings", TierOptions(ttl=61))
        sync.tier("named", TierOptions(ttl=30))
        with pytest.raises(UsageError, match="other options"):
            cache.tier("named", TierOptions(ttl=31))


async def test_key_made_by_one_face_serves_the_other(both: AgentCache) -> None:
    key = both.sync.llm.key(asking("x"))
    await both.llm.store(key, "answer")
    assert both.sync.llm.check(both.llm.key(asking("x"))).response == "answer"
    assert both.sync.tool.key("t", {"a": 1}) == both.tool.key("t", {"a": 1})
