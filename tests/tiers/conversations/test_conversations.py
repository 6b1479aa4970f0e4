"""The stores of conversations, in Valkey and in memory: writers at the same time, shared entries, lifetimes, names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import valkey

from tests.seams import conversations_of
from tests.support import MakeCache, until
from tiercache import NO_EXPIRY, AgentCache, L2UnavailableError, SessionOptions, UsageError
from tiercache.testing import ChaosProxy
from tiercache.tiers.conversations.key import ConversationKeys
from tiercache.tiers.conversations.store import Conversations, Entry, Record

PREFIX = "test:__tc:conv:{test}:"


@pytest.fixture(params=["valkey", "memory"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Conversations]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield conversations_of(cache)


def record(name: str, revision: str, head: str | None, *branches: str, at: int = 0, scope: str | None = None) -> Record:
    return Record(name, revision, head, branches, scope, at, f"{name} {revision}".encode(errors="replace"))


def log(*names: str, after: str | None = None) -> list[Entry]:
    """Return entries, each after the one before it."""
    parents = [after, *names]
    return [Entry(name, parent, name.encode()) for name, parent in zip(names, parents, strict=False)]


async def names(store: Conversations, head: str, limit: int | None = None) -> list[str] | None:
    entries = await store.history(head, limit)
    return None if entries is None else [entry.id for entry in entries]


async def test_conversation_is_read_as_it_was_written(store: Conversations) -> None:
    entries = log("1", "2", "3:é")
    assert await store.write(record("a", "r1", "3:é"), entries, None, None)
    assert await store.record("a", None) == b"a r1"
    assert await store.history("3:é", None) == entries
    for limit, expected in ((0, []), (1, ["3:é"]), (2, ["2", "3:é"]), (9, ["1", "2", "3:é"])):
        assert await names(store, "3:é", limit) == expected
    assert (await store.record("b", None), await store.history("4", None)) == (None, None)


async def test_write_needs_the_revision_that_is_stored(store: Conversations) -> None:
    assert not await store.write(record("a", "r1", None), [], "r0", None)
    assert await store.write(record("a", "r1", "1"), log("1"), None, None)
    for expected in (None, "r0"):
        assert not await store.write(record("a", "r2", "2"), log("2", after="1"), expected, None)
    assert await store.record("a", None) == b"a r1"
    # A refused write leaves no entry behind.
    assert await store.history("2", None) is None
    assert await store.write(record("a", "r2", "2"), log("2", after="1"), "r1", None)
    assert await names(store, "2") == ["1", "2"]


async def test_write_needs_the_entry_at_its_head(store: Conversations) -> None:
    assert not await store.write(record("a", "r1", "1"), [], None, None)
    assert await store.record("a", None) is None
    assert await store.write(record("a", "r1", None), [], None, None)


async def test_delete_needs_the_revision_that_is_stored(store: Conversations) -> None:
    await store.write(record("a", "r1", "1"), log("1"), None, None)
    assert not await store.delete("a", "r0")
    assert not await store.delete("b", "r1")
    assert await store.delete("a", "r1")
    assert (await store.record("a", None), await store.history("1", None)) == (None, None)
    assert not await store.delete("a", "r1")


async def test_deleted_conversation_leaves_the_entries_that_another_one_shares(
    store: Conversations, plain: valkey.Valkey
) -> None:
    await store.write(record("a", "r1", "4"), log("1", "2", "3", "4"), None, None)
    await store.write(record("fork", "r1", "2"), [], None, None)
    await store.write(record("fork", "r2", "f"), log("f", after="2"), "r1", None)
    assert await store.delete("a", "r1")
    assert (await names(store, "f"), await store.history("3", None)) == (["1", "2", "f"], None)
    assert await store.delete("fork", "r2")
    assert await store.history("1", None) is None
    assert plain.keys("*conv*") == []


async def test_branch_that_is_left_keeps_its_entries_until_the_record_drops_it(store: Conversations) -> None:
    await store.write(record("a", "r1", "2"), log("1", "2"), None, None)
    await store.write(record("a", "r2", "3", "2"), log("3", after="1"), "r1", None)
    assert [await names(store, tip) for tip in ("2", "3")] == [["1", "2"], ["1", "3"]]
    await store.write(record("a", "r3", "3"), [], "r2", None)
    assert [await names(store, tip) for tip in ("2", "3")] == [None, ["1", "3"]]


async def test_records_are_listed_by_scope_and_the_latest_save_first(store: Conversations) -> None:
    for name, at, scope in (("a", 1, "u"), ("b", 3, "u"), ("c", 2, None), ("d", 4, "v")):
        await store.write(record(name, "r1", None, at=at, scope=scope), [], None, None)
    assert await store.records(None, None) == [b"d r1", b"b r1", b"c r1", b"a r1"]
    assert await store.records("u", None) == [b"b r1", b"a r1"]
    assert [await store.records(None, limit) for limit in (0, 1)] == [[], [b"d r1"]]
    await store.write(record("a", "r2", None, at=9, scope="v"), [], "r1", None)
    assert (await store.records("u", None), await store.records("v", None)) == ([b"b r1"], [b"a r2", b"d r1"])
    await store.delete("a", "r2")
    assert await store.records("v", None) == [b"d r1"]


async def test_one_writer_of_a_revision_wins(make_cache: MakeCache) -> None:
    stores = [conversations_of(make_cache(name="test")) for _ in range(4)]
    await stores[0].write(record("a", "0", None), [], None, None)

    async def write(store: Conversations, number: int) -> bool:
        return await store.write(record("a", f"r{number}", str(number)), log(str(number)), "0", None)

    won = await asyncio.gather(*(write(stores[number % 4], number) for number in range(20)))
    assert sum(won) == 1
    winner = won.index(True)
    assert await stores[1].record("a", None) == f"a r{winner}".encode()
    found = [await stores[2].history(str(number), None) for number in range(20)]
    assert [entries is not None for entries in found] == won


async def test_conversation_ends_a_window_after_its_last_use(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url, name="test", session=SessionOptions(ttl=1000)) as cache:
        store = conversations_of(cache)
        await store.write(record("a", "r1", "2", scope="u"), log("1", "2"), None, 0.3)
        await store.write(record("b", "r1", "3", scope="u"), log("3"), None, None)
        await store.write(record("c", "r1", "4"), log("4"), None, NO_EXPIRY)
        assert 300 < plain.pttl(f"{PREFIX}r:b") <= 1_000_000
        assert {plain.pttl(f"{PREFIX}{key}") for key in ("r:c", "e:4", "all")} == {-1}
        await store.record("a", 1000)
        await until(lambda: plain.pttl(f"{PREFIX}e:1") > 10_000)
        assert plain.pttl(f"{PREFIX}r:a") > 10_000
        await store.record("b", 0.05)
        await until(lambda: not plain.exists(f"{PREFIX}r:b"))
        assert await store.records("u", None) == [b"a r1"]
        # The list forgets a conversation that has ended.
        assert plain.zrange(f"{PREFIX}s:u", 0, -1) == [b"a"]


async def test_entries_that_two_conversations_share_live_as_long_as_the_longer_one(
    url: str, plain: valkey.Valkey
) -> None:
    async with AgentCache.from_url(url, name="test") as cache:
        store = conversations_of(cache)
        await store.write(record("a", "r1", "2"), log("1", "2"), None, 1000)
        await store.write(record("fork", "r1", "1"), [], None, 0.1)
        assert plain.pttl(f"{PREFIX}e:1") > 10_000
        await until(lambda: not plain.exists(f"{PREFIX}r:fork"))
        assert await names(store, "2") == ["1", "2"]


async def test_conversation_in_memory_ends_a_window_after_its_last_use() -> None:
    async with AgentCache.in_memory() as cache:
        store = conversations_of(cache)
        await store.write(record("a", "r1", "1"), log("1"), None, 0.05)
        await store.write(record("b", "r1", "2"), log("2"), None, None)

        async def has_ended() -> bool:
            return await store.history("1", None) is None

        await until(has_ended)
        assert (await store.record("a", None), await store.records(None, None)) == (None, [b"b r1"])
        assert await store.write(record("a", "r2", None), [], None, None)


async def test_writes_forget_conversations_that_have_ended(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url, name="test") as cache:
        store = conversations_of(cache)
        await store.write(record("lasting", "r", None, scope="u"), [], None, None)
        for number in range(20):
            await store.write(record(f"ended{number}", "r", None, scope="u"), [], None, 0.2)
        await until(lambda: len(plain.keys(f"{PREFIX}r:*")) == 1)
        for number in range(40):
            await store.write(record(f"new{number}", "r", None, scope="u"), [], None, None)
        lists = [plain.zrange(f"{PREFIX}{key}", 0, -1) for key in ("all", "s:u")]
        assert [sum(name.startswith(b"ended") for name in members) < 20 for members in lists] == [True, True]


@pytest.mark.parametrize("bad", ["x" * 513, 7, "\ud800"], ids=["long", "number", "surrogate"])
async def test_name_that_a_key_cannot_contain_is_refused(store: Conversations, bad: Any) -> None:
    await store.write(record("a", "r1", "1"), log("1"), None, None)
    calls = [
        store.record(bad, None),
        store.records(bad, None),
        store.history(bad, None),
        store.delete(bad, "r1"),
        store.write(record(bad, "r1", None), [], None, None),
        store.write(record("b", "r1", None, scope=bad), [], None, None),
        store.write(record("b", "r1", None, bad), [], None, None),
        store.write(record("b", "r1", None), [Entry(bad, None, b"")], None, None),
        store.write(record("b", "r1", None), [Entry("1", bad, b"")], None, None),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            await call
    assert await store.records(None, None) == [b"a r1"]


async def test_data_that_is_too_large_is_refused(url: str) -> None:
    async with AgentCache.from_url(url, name="test", session=SessionOptions(max_value_bytes=10)) as cache:
        store = conversations_of(cache)
        for write in (
            store.write(Record("a", "r", None, (), None, 0, b"x" * 11), [], None, None),
            store.write(record("a", "r", "1"), [Entry("1", None, b"x" * 11)], None, None),
        ):
            with pytest.raises(UsageError, match="too large"):
                await write
        assert await store.records(None, None) == []


@pytest.mark.parametrize("name", ["", "a:b", "a" * 129, None, "{}"])
def test_name_of_a_store_is_checked(name: Any) -> None:
    with pytest.raises(UsageError, match="the name of a store"):
        ConversationKeys("test", name)


async def test_stores_of_two_names_share_nothing(cache: AgentCache) -> None:
    await conversations_of(cache, "a").write(record("a", "r", "1"), log("1"), None, None)
    other = conversations_of(cache, "b")
    assert (await other.record("a", None), await other.history("1", None)) == (None, None)


async def test_conversations_are_an_error_without_valkey(proxy: ChaosProxy, make_cache: MakeCache) -> None:
    async with AgentCache.from_url(proxy.url, name="test") as cache:
        store = conversations_of(cache)
        await store.write(record("a", "r1", "1"), log("1"), None, None)
        proxy.refuse()
        proxy.kill()
        for call in (
            store.record("a", None),
            store.records(None, None),
            store.history("1", None),
            store.delete("a", "r1"),
            store.write(record("a", "r2", None), [], "r1", None),
        ):
            with pytest.raises(L2UnavailableError):
                await call
        proxy.heal()
        proxy.refuse(False)
