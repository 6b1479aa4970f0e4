"""The checkpoint tier, on Valkey and in memory: puts, reads, removal, lifetimes, and the lists of threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import valkey
from msgspec.structs import replace

from tests.seams import L1View, act_after_command, record_writes
from tests.support import MakeCache, Pair, until
from tests.tiers.checkpoints.threads import CONTENT, INDEX, new, text, values_of, write
from tiercache import AgentCache, L2CommandError, SessionOptions, TierOptions, UnreadableCheckpointError, UsageError
from tiercache.testing import FakeClock
from tiercache.tiers.checkpoints.checkpoint import Place

LONG = "a value that grows, so that each of its versions is a difference from the one before it; " * 3


@pytest.fixture(params=["valkey", "memory"])
async def either(request: pytest.FixtureRequest, make_cache: MakeCache) -> AsyncIterator[AgentCache]:
    """Return a cache on Valkey, then one in process memory alone."""
    cache = make_cache(name="test") if request.param == "valkey" else AgentCache.in_memory(name="test")
    async with cache:
        yield cache


async def grow(cache: AgentCache, count: int, *, thread: str = "t", run: str = "") -> None:
    """Put ``count`` checkpoints, in which one channel grows and another keeps its first value."""
    for number in range(1, count + 1):
        kept = {"kept": (1, "kept")} if number > 1 else {}
        fresh = {"grows": LONG + "x" * number} | ({} if kept else {"kept": "kept"})
        await cache.checkpoints.put(thread, new(number, fresh, unchanged=kept, run=run))


def checkpoint_keys(plain: valkey.Valkey) -> set[bytes]:
    return set(plain.scan_iter("test:__tc:cp*", count=1000))


# Puts and reads


async def test_checkpoint_is_read_as_it_was_put(either: AgentCache) -> None:
    tier = either.checkpoints
    await grow(either, 3)
    await tier.put_writes("t", Place("", "0002"), [write("b"), write("a", 1), write("a"), write("c", path="0")])
    found = await tier.get("t", "", "0002")
    assert found is not None
    assert (found.place, found.parent) == (Place("", "0002"), "0001")
    assert (found.checkpoint, found.metadata) == (text("checkpoint 2"), text("metadata 2"))
    assert values_of(found) == {"grows": f"{LONG}xx", "kept": "kept"}
    assert [(each.task_id, each.number) for each in found.writes] == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    latest = await tier.get("t")
    assert latest is not None
    assert latest.place.id == "0003"
    assert await tier.get("t", "", "0004") is None
    assert await tier.get("t", "other") is None
    assert await tier.get("other") is None


async def test_latest_checkpoint_is_that_of_its_namespace(either: AgentCache) -> None:
    for number, ns in ((1, ""), (5, "a"), (3, "b"), (7, "aa"), (2, "a|b")):
        await either.checkpoints.put("t", new(number, {}, ns=ns))
    for number, ns in ((1, ""), (5, "a"), (3, "b"), (7, "aa"), (2, "a|b")):
        found = await either.checkpoints.get("t", ns)
        assert found is not None
        assert found.place == Place(ns, f"{number:04}")
    places = await either.checkpoints.places("t")
    assert places == sorted(places)
    assert len(places) == 5


async def test_cleared_channel_has_no_value_in_this_and_the_next_checkpoint(either: AgentCache) -> None:
    tier = either.checkpoints
    await tier.put("t", new(1, {"a": "1", "b": "2"}))
    await tier.put("t", new(2, {}, unchanged={"b": (1, "2")}, cleared=frozenset({"a"})))
    versions = {"a": 2, "b": 1}
    third = new(3, {}, unchanged={"b": (1, "2")})
    await tier.put(
        "t", type(third)(**{name: getattr(third, name) for name in third.__struct_fields__} | {"versions": versions})
    )
    for number in (2, 3):
        assert values_of(await tier.get("t", "", f"{number:04}")) == {"b": "2"}


async def test_channel_that_a_new_checkpoint_does_not_mention_keeps_its_stored_value(either: AgentCache) -> None:
    """The values of a put may be incomplete. The version decides."""
    tier = either.checkpoints
    await tier.put("t", new(1, {"a": "1"}))
    second = new(2, {"b": "2"})
    await tier.put(
        "t", type(second)(**{n: getattr(second, n) for n in second.__struct_fields__} | {"versions": {"a": 1, "b": 2}})
    )
    for _ in range(2):
        assert values_of(await tier.get("t")) == {"a": "1", "b": "2"}
        either.clear_l1()


async def test_put_and_put_writes_take_one_exchange_each(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grow(cache, 1, run="run")
    plain.config_resetstat()
    batches = record_writes(monkeypatch)
    await cache.checkpoints.put("t", new(2, {"grows": "y"}, run="run"))
    assert len(batches) == 1
    await cache.checkpoints.put_writes("t", Place("", "0002"), [write("a"), write("b")])
    assert len(batches) == 2
    assert await cache.checkpoints.get("t") is not None
    assert len(batches) == 2
    assert "cmdstat_scan" not in plain.info("commandstats")


async def test_refused_put_leaves_no_part_of_a_checkpoint(cache: AgentCache, plain: valkey.Valkey) -> None:
    await grow(cache, 1)
    plain.set("test:__tc:cp:{u}:d", "a string")
    with pytest.raises(L2CommandError):
        await grow(cache, 1, thread="u")
    assert plain.exists("test:__tc:cp:{u}") == 0


# Lost blobs


@pytest.mark.parametrize("lost", ["base", "unchanged", "everything"])
async def test_put_stores_all_values_again_if_a_blob_is_gone(
    lost: str, make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test")
    await grow(cache, 3)
    for field in plain.hkeys(CONTENT):
        if lost == "everything" or (field.startswith(b"b\0\0grows") if lost == "base" else b"kept" in field):
            plain.hdel(CONTENT, field)
    if lost == "everything":
        plain.delete(INDEX, CONTENT)
    await cache.checkpoints.put("t", new(4, {"grows": LONG + "xxxx"}, unchanged={"kept": (1, "kept")}))
    for each in (cache, make_cache(name="test")):
        assert values_of(await each.checkpoints.get("t")) == {"grows": LONG + "xxxx", "kept": "kept"}


async def test_put_over_another_value_of_the_same_version_drops_copies_of_the_older(replicas: Pair) -> None:
    a, b = replicas
    await a.checkpoints.put("t", new(1, {"c": "old"}))
    assert values_of(await b.checkpoints.get("t")) == {"c": "old"}
    await a.checkpoints.put("t", replace(new(2, {}), versions={"c": 1}, fresh={"c": text("new")}))

    async def is_new() -> bool:
        return values_of(await b.checkpoints.get("t", "", "0001")) == {"c": "new"}

    await until(is_new)
    assert values_of(await a.checkpoints.get("t", "", "0001")) == {"c": "new"}


# L1


async def test_read_of_a_removed_thread_keeps_nothing_in_l1(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race: the thread is removed after Valkey has answered the read."""
    writer, reader = make_cache(name="test"), make_cache(name="test")
    await grow(writer, 2)
    await reader.open()
    act_after_command(monkeypatch, "EVAL_RO", lambda: reader.checkpoints.destroy_thread("t"))
    assert values_of(await reader.checkpoints.get("t")) == {"grows": LONG + "xx", "kept": "kept"}
    assert L1View(reader).entry_count == 0
    assert await reader.checkpoints.get("t") is None


async def test_thread_that_was_made_again_with_the_same_ids_is_read_from_valkey(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """Other software removes a thread without an announcement; the record in L1 has another digest."""
    cache, other = make_cache(name="test"), make_cache(name="test")
    await grow(cache, 2)
    assert values_of(await cache.checkpoints.get("t"))["grows"] == LONG + "xx"
    plain.delete(INDEX, CONTENT)
    assert await cache.checkpoints.get("t") is None
    await other.checkpoints.put("t", new(2, {"another": "value"}))
    assert values_of(await cache.checkpoints.get("t")) == {"another": "value"}


async def test_session_without_l1_keeps_no_checkpoint_in_l1(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", session=SessionOptions(l1=False))
    await grow(cache, 3)
    assert values_of(await cache.checkpoints.get("t"))["kept"] == "kept"
    assert L1View(cache).entry_count == 0


async def test_large_value_of_an_earlier_checkpoint_leaves_l1_when_the_next_is_put(cache: AgentCache) -> None:
    for number in range(1, 20):
        await cache.checkpoints.put("t", new(number, {"state": "x" * 100_000 + str(number)}))
    assert L1View(cache).size_bytes < 150_000
    assert values_of(await cache.checkpoints.get("t", "", "0003")) == {"state": "x" * 100_000 + "3"}


@pytest.mark.parametrize("channel", ["grows", "kept"])
async def test_checkpoint_whose_value_is_gone_is_an_error(
    channel: str, make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    await grow(make_cache(name="test"), 3)
    last = [field for field in plain.hkeys(CONTENT) if field.startswith(f"b\0\0{channel}\0".encode())]
    plain.hdel(CONTENT, max(last))
    reader = make_cache(name="test")
    for checkpoint_id in (None, "0003"):
        with pytest.raises(UnreadableCheckpointError, match=f"{channel!r} is gone"):
            await reader.checkpoints.get("t", "", checkpoint_id)


# Removal


async def test_remove_keeps_the_values_that_other_checkpoints_need(either: AgentCache) -> None:
    tier = either.checkpoints
    await grow(either, 10)
    assert await tier.remove("t", [Place("", f"{number:04}") for number in range(1, 10) if number != 5]) == 8
    either.clear_l1()
    for number in (5, 10):
        assert values_of(await tier.get("t", "", f"{number:04}")) == {"grows": LONG + "x" * number, "kept": "kept"}
    assert [place.id for place in await tier.places("t")] == ["0005", "0010"]
    assert await tier.remove("t", [Place("", "0005"), Place("", "0005"), Place("", "0007")]) == 1
    assert await tier.remove("t", [Place("", "0010")]) == 1
    assert await tier.get("t") is None
    assert await tier.threads() == []


async def test_remove_frees_the_values_that_no_checkpoint_needs(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.checkpoints.put("t", new(1, {"a": "1"}))
    await cache.checkpoints.put("t", new(2, {"b": "2"}))
    await cache.checkpoints.put_writes("t", Place("", "0001"), [write("x")])
    await cache.checkpoints.remove("t", [Place("", "0001")])
    assert {field[:3] for field in plain.hkeys(CONTENT)} == {b"c\0\0", b"b\0\0"}
    assert plain.hlen(CONTENT) == 2
    assert not [key for key in checkpoint_keys(plain) if b":w:" in key]


async def test_remove_run_removes_its_checkpoints_in_every_thread(either: AgentCache) -> None:
    tier = either.checkpoints
    for thread in ("t", "u"):
        await grow(either, 2, thread=thread, run="first%\0")
        await tier.put(thread, new(3, {"grows": LONG}, unchanged={"kept": (1, "kept")}, run="second"))
    assert await tier.remove_run("absent") == 0
    assert await tier.remove_run("first%\0") == 4
    assert await tier.remove_run("first%\0") == 0
    for thread in ("t", "u"):
        assert values_of(await tier.get(thread)) == {"grows": LONG, "kept": "kept"}
    assert await tier.remove_run("second") == 2
    assert await tier.threads() == []


async def test_copy_replaces_the_target_with_runs_and_writes(either: AgentCache) -> None:
    tier = either.checkpoints
    await grow(either, 3, run="run")
    await tier.put_writes("t", Place("", "0003"), [write("a")])
    await tier.put("u", new(9, {"old": "x"}, run="old run"))
    await tier.put_writes("u", Place("", "0003"), [write("b")])
    assert await tier.copy_thread("t", "u") == 3
    assert await tier.destroy_thread("t") == 3
    found = await tier.get("u")
    assert values_of(found) == {"grows": LONG + "xxx", "kept": "kept"}
    assert found is not None
    assert found.writes == [write("a")]
    assert await tier.remove_run("old run") == 0
    assert await tier.copy_thread("u", "u") == 0
    assert await tier.copy_thread("absent", "u") == 0
    assert await tier.threads() == ["u"]
    assert await tier.remove_run("run") == 3
    assert await tier.threads() == []


async def test_checkpoint_that_was_put_after_its_writes_counts_once(either: AgentCache) -> None:
    await either.checkpoints.put_writes("t", Place("", "0001"), [write("a")])
    assert await either.checkpoints.get("t") is None
    assert await either.checkpoints.places("t") == []
    await grow(either, 1)
    found = await either.checkpoints.get("t")
    assert found is not None
    assert found.writes == [write("a")]
    assert await either.checkpoints.places("t") == [Place("", "0001")]
    assert await either.checkpoints.destroy_thread("t") == 1


async def test_removed_threads_leave_no_key(cache: AgentCache, plain: valkey.Valkey) -> None:
    tier = cache.checkpoints
    for thread in ("t", "u", "v"):
        await grow(cache, 2, thread=thread, run=f"run {thread}")
        await tier.put_writes(thread, Place("", "0002"), [write("a")])
        await tier.put_writes(thread, Place("", "0099"), [write("a")])
    assert await tier.destroy_thread("t") == 2
    assert await tier.destroy_thread("t") == 0
    await tier.copy_thread("u", "t")
    assert await tier.remove("u", await tier.places("u")) == 2
    assert await tier.clear() == 4
    assert checkpoint_keys(plain) == set()


async def test_thread_that_other_software_removed_leaves_the_list_at_the_next_look(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    await grow(cache, 1)
    plain.delete(INDEX, CONTENT)
    assert await cache.checkpoints.threads() == ["t"]
    assert await cache.checkpoints.places("t") == []
    assert await cache.checkpoints.threads() == []
    assert checkpoint_keys(plain) == set()


# Lifetimes


async def test_every_write_renews_every_key_of_a_thread(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=100))
    tier = cache.checkpoints
    await grow(cache, 2, run="run")
    await tier.put_writes("t", Place("", "0001"), [write("a")])
    keys = checkpoint_keys(plain)
    assert len(keys) == 5
    for change in (
        lambda: tier.put("t", new(3, {}, run="other")),
        lambda: tier.put_writes("t", Place("", "0001"), [write("b")]),
    ):
        for key in keys:
            assert 90_000 < plain.pttl(key) <= 125_000
            plain.pexpire(key, 50_000)
        plain.hset(CONTENT, "t", int(plain.time()[0] * 1000 + 50_000))  # A quarter of the TTL is over.
        await change()
    assert all(plain.pttl(key) > 90_000 for key in keys)


async def test_writes_within_a_quarter_of_the_ttl_renew_the_keys_of_earlier_writes_once(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=1000))
    for number in range(1, 30):
        await cache.checkpoints.put("t", new(number, {}))
        await cache.checkpoints.put_writes("t", Place("", f"{number:04}"), [write("a")])
    plain.config_resetstat()
    await cache.checkpoints.put("t", new(30, {}))
    assert plain.info("commandstats")["cmdstat_pexpire"]["calls"] < 5
    # A thread may end up to a quarter before the keys of its writes, and never after them.
    shortest = min(plain.pttl(key) for key in checkpoint_keys(plain) if b":w:" in key)
    assert shortest >= plain.pttl(CONTENT)


async def test_longer_ttl_of_another_process_renews_at_once(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    short = make_cache(name="test", session=TierOptions(ttl=10))
    long, endless = make_cache(name="test", session=TierOptions(ttl=1000)), make_cache(name="test")
    await grow(short, 1, run="run")
    await short.checkpoints.put_writes("t", Place("", "0001"), [write("a")])
    await long.checkpoints.put("t", new(2, {}))
    assert all(plain.pttl(key) > 900_000 for key in checkpoint_keys(plain))
    await endless.checkpoints.put("t", new(3, {}))
    assert {plain.pttl(key) for key in checkpoint_keys(plain)} == {-1}


async def test_lists_of_threads_end_with_their_last_thread(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=1000))
    await grow(cache, 1, run="run")
    past = int(plain.time()[0] * 1000 - 1)
    for key in ("test:__tc:cps", "test:__tc:cpr:run"):
        plain.zadd(key, {"ended": past})
        plain.persist(key)
    assert await cache.checkpoints.threads() == ["t"]
    await grow(cache, 1, thread="u", run="run")
    for key in ("test:__tc:cps", "test:__tc:cpr:run"):
        assert plain.zrange(key, 0, -1) == [b"t", b"u"]
        assert 900_000 < plain.pttl(key) <= 1_000_000


async def test_thread_in_memory_ends_after_the_ttl_and_is_swept() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, session=TierOptions(ttl=50)) as cache:
        await grow(cache, 2)
        time.advance(40)
        await cache.checkpoints.put_writes("t", Place("", "0001"), [write("a")])
        time.advance(40)
        assert await cache.checkpoints.get("t") is not None
        time.advance(20)
        assert await cache.checkpoints.get("t") is None
        assert await cache.checkpoints.places("t") == []
        assert await cache.checkpoints.destroy_thread("t") == 0
        assert await cache.checkpoints.threads() == []


# Sessions


async def test_destroy_thread_of_sessions_removes_the_checkpoints_and_counts_them(either: AgentCache) -> None:
    await grow(either, 3)
    await grow(either, 1, thread="u")
    await either.session.set("t", "field", "x")
    assert await either.session.destroy_thread("t") == 4
    assert await either.session.destroy_thread("t") == 0
    assert await either.checkpoints.threads() == ["u"]
    await grow(either, 2)
    assert await either.session.destroy_thread("t") == 2
    assert await either.flush(include_session=True) == 1


async def test_destroy_thread_of_sessions_without_checkpoints_takes_no_exchange_more(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.session.set("t", "field", "x")
    batches = record_writes(monkeypatch)
    await cache.session.destroy_thread("t")
    # The script that deletes the fields; then the question, with the announcement.
    assert len(batches) == 2


# Arguments


@pytest.mark.parametrize("bad", ["", None, 5, b"t", "\ud800", "x" * 513])
async def test_tier_refuses_wrong_ids_in_every_method(either: AgentCache, bad: Any) -> None:
    tier = either.checkpoints
    calls = [
        lambda: tier.put(bad, new(1, {})),
        lambda: tier.put_writes(bad, Place("", "1"), [write("a")]),
        lambda: tier.get(bad),
        lambda: tier.places(bad),
        lambda: tier.destroy_thread(bad),
        lambda: tier.copy_thread(bad, "t"),
        lambda: tier.copy_thread("t", bad),
        lambda: tier.remove(bad, [Place("", "1")]),
        lambda: tier.remove("t", [Place("", bad)]),
        lambda: tier.remove_run(bad),
        lambda: tier.put_writes("t", Place("", bad), [write("a")]),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            await call()
    assert await tier.threads() == []


async def test_tier_refuses_values_that_are_too_large(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", session=SessionOptions(max_value_bytes=100))
    with pytest.raises(UsageError, match="'big'"):
        await cache.checkpoints.put("t", new(1, {"big": "x" * 101}))
    with pytest.raises(UsageError, match="'channel'"):
        await cache.checkpoints.put_writes("t", Place("", "1"), [write("a", value="x" * 101)])
    with pytest.raises(UsageError, match="channel"):
        await cache.checkpoints.put("t", new(1, {"c" * 20_000: "x"}))
    assert await cache.checkpoints.threads() == []


async def test_tier_in_memory_belongs_to_one_face() -> None:
    cache = AgentCache.in_memory()
    cache.sync.checkpoints.put("t", new(1, {"a": "1"}))
    assert values_of(cache.sync.checkpoints.get("t")) == {"a": "1"}
    with pytest.raises(UsageError, match="memory alone"):
        await cache.checkpoints.get("t")
    await cache.aclose()


async def test_damaged_index_is_an_error(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.zadd(INDEX, {b"\xfe\0x": 0})
    with pytest.raises(UnreadableCheckpointError):
        await cache.checkpoints.places("t")
    plain.zadd(INDEX, {b"\0" + b"1": 0})
    with pytest.raises(UnreadableCheckpointError):
        await cache.checkpoints.get("t")
    plain.hset(CONTENT, b"c\0\0" + b"1", b"foreign")
    with pytest.raises(UnreadableCheckpointError):
        await cache.checkpoints.get("t")
    with pytest.raises(L2CommandError):
        await cache.checkpoints.remove("t", [Place("", "2")])
    assert await cache.checkpoints.destroy_thread("t") == 2
