"""Appends to long lists: the list is not read, and a change by another client is noticed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.support import UNTRACKED, MakeCache
from tests.tiers.session.threads import ttl_left_ms
from tiercache import AgentCache, UsageError

KEY, NOTE = "test:session:t:a", "test:__tc:list:t:a"
# The form of tiercache.
COMPACT: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False}
LONG: list[Any] = [{"n": n, "text": "é"} for n in range(500)]


async def appended(cache: AgentCache, items: list[Any] = LONG, **options: Any) -> bytes:
    """Set the field to a list, append an item to it, and return the text of the list."""
    await cache.session.set_json("t", "a", items, **options)
    assert await cache.session.append("t", "a", "last") == len(items) + 1
    return json.dumps([*items, "last"], **COMPACT).encode()


async def test_append_to_long_list_neither_reads_nor_writes_the_list(cache: AgentCache, plain: valkey.Valkey) -> None:
    await appended(cache, ttl=60)
    plain.config_resetstat()
    assert await cache.session.append("t", "a", 1) == 502
    stats = plain.info("commandstats")
    # The note is read and written.
    assert [stats[f"cmdstat_{name}"]["calls"] for name in ("get", "set", "setrange")] == [1, 1, 1]
    assert "cmdstat_getex" not in stats


async def test_append_to_long_list_keeps_items_and_their_order(either: AgentCache) -> None:
    items = await appended(either) and [*LONG, "last"]
    for number, item in enumerate(({}, [], "]", 'a"b', 2**70, "x" * 5000, None), start=1):
        items.append(item)
        assert await either.session.append("t", "a", item) == 501 + number
        assert await either.session.get_json("t", "a") == items


@pytest.mark.parametrize("text", [b"x" * 12_000, b'["' + b"x" * 100 + b'"]', b"[1,2,3]"], ids=len)
async def test_append_to_list_that_another_client_replaced_reads_it(
    cache: AgentCache, plain: valkey.Valkey, text: bytes
) -> None:
    size = len(await appended(cache))
    plain.set(KEY, text[:size] if text.startswith(b"x") else text)
    before = plain.get(KEY)
    if text.startswith(b"x"):
        assert len(before) == size
        with pytest.raises(UsageError, match="holds no JSON list"):
            await cache.session.append("t", "a", 1)
        assert plain.get(KEY) == before
    else:
        assert await cache.session.append("t", "a", 1) == len(json.loads(text)) + 1
        assert json.loads(plain.get(KEY)) == [*json.loads(text), 1]


@pytest.mark.parametrize("place", [0, -1])
async def test_append_refuses_list_of_which_another_client_changed_an_end(
    cache: AgentCache, plain: valkey.Valkey, place: int
) -> None:
    text = bytearray(await appended(cache))
    text[place] = ord("x")
    plain.set(KEY, bytes(text))
    with pytest.raises(UsageError, match="holds no JSON list"):
        await cache.session.append("t", "a", 1)
    assert plain.get(KEY) == text


async def test_append_refuses_list_behind_which_another_client_wrote(cache: AgentCache, plain: valkey.Valkey) -> None:
    text = await appended(cache)
    plain.append(KEY, "and more")
    with pytest.raises(UsageError, match="holds no JSON list"):
        await cache.session.append("t", "a", 1)
    assert plain.get(KEY) == text + b"and more"


async def test_append_replaces_value_of_another_type_as_an_absent_list(cache: AgentCache, plain: valkey.Valkey) -> None:
    await appended(cache)
    plain.delete(KEY)
    plain.hset(KEY, "a", "b")
    assert await cache.session.append("t", "a", 1) == 1
    assert plain.get(KEY) == b"[1]"


async def test_append_after_other_writes_of_the_field_counts_their_items(cache: AgentCache) -> None:
    await appended(cache)
    await cache.session.set_json("t", "a", ["é" * 1000, 2])
    assert await cache.session.append("t", "a", 3) == 3
    assert await cache.session.compare_and_set("t", "a", await cache.session.get("t", "a"), "[1]")
    assert await cache.session.append("t", "a", 2) == 2
    await cache.session.delete("t", "a")
    assert await cache.session.append("t", "a", 1) == 1


async def test_append_to_long_list_keeps_and_renews_its_window(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set_json("t", "a", LONG, ttl=60)
    await cache.session.append("t", "a", 1)
    plain.pexpire(KEY, 1000)
    await cache.session.append("t", "a", 2)
    assert 50_000 < ttl_left_ms(plain, "a") <= 60_000
    await cache.session.append("t", "a", 3, ttl=600)
    assert 500_000 < ttl_left_ms(plain, "a") <= 600_000


async def test_note_of_list_ends_by_itself_and_short_list_has_none(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.append("t", "short", 1)
    for window in (None, 7200):
        await appended(cache, ttl=window)
        assert plain.keys("test:__tc:list:*") == [NOTE.encode()]
        assert 0 < plain.pttl(NOTE) <= 3_600_000
        await cache.session.delete("t", "a")


@pytest.mark.parametrize("note", [None, b"no note", b"9 9 9", b"9" * 40 + b" 9 9", ["of another type"]], ids=str)
async def test_append_without_readable_note_counts_items(cache: AgentCache, plain: valkey.Valkey, note: Any) -> None:
    await appended(cache)
    plain.delete(NOTE)
    if isinstance(note, list):
        plain.rpush(NOTE, *note)
    elif note is not None:
        plain.set(NOTE, note)
    assert await cache.session.append("t", "a", 1) == 502


@pytest.mark.parametrize("right", ["getrange", "setrange"])
async def test_append_without_the_right_to_overwrite_writes_whole_list(
    cache: AgentCache, plain: valkey.Valkey, right: str
) -> None:
    text = await appended(cache)
    plain.execute_command("ACL", "SETUSER", "default", f"-{right}")
    try:
        assert await cache.session.append("t", "a", 1) == 502
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "+@all")
    assert plain.get(KEY) == text[:-1] + b",1]"


@pytest.mark.parametrize("right", ["set", "get"])
async def test_append_without_the_right_to_its_note_writes_whole_list(
    cache: AgentCache, plain: valkey.Valkey, right: str
) -> None:
    text = await appended(cache)
    others = ("~test:session:*", "~test:__tc:thread:*", "~test:__tc:s*", "~__betterdb:*")
    note = "%R~test:__tc:list:*" if right == "set" else "%W~test:__tc:list:*"
    plain.execute_command("ACL", "SETUSER", "default", "resetkeys", note, *others)
    try:
        assert await cache.session.append("t", "a", 1) == 502
        assert await cache.session.append("t", "a", 2) == 503
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "~*")
    assert plain.get(KEY) == text[:-1] + b",1,2]"


Removal = Callable[[AgentCache], Awaitable[object]]
REMOVALS: dict[str, Removal] = {
    "delete": lambda cache: cache.session.delete("t", "a"),
    "destroy_thread": lambda cache: cache.session.destroy_thread("t"),
    "destroy_thread, sweep": lambda cache: cache.session.destroy_thread("t", sweep=True),
    "clear": lambda cache: cache.session.clear(),
    "flush": lambda cache: cache.flush(include_session=True),
}


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
async def test_note_goes_with_its_field(cache: AgentCache, plain: valkey.Valkey, remove: Removal) -> None:
    """The key of a note has the id of the thread: the deletion of the data of a person must not leave it."""
    await appended(cache)
    assert plain.exists(NOTE)
    await remove(cache)
    assert plain.keys("test:*t:a*") == []


async def test_note_does_not_outlive_its_field(cache: AgentCache, plain: valkey.Valkey) -> None:
    await appended(cache)
    for window in (20, 10, 30):
        await cache.session.append("t", "a", 1, ttl=window)
        assert 0 < plain.pexpiretime(NOTE) <= plain.pexpiretime(KEY)
        assert plain.pttl(NOTE) > (window - 5) * 1000


@pytest.mark.parametrize("way", ["set", "compare_and_set", "get_or_load"])
async def test_append_after_change_of_the_middle_counts_items(
    make_cache: MakeCache, plain: valkey.Valkey, way: str
) -> None:
    """The two ends do not show such a change; the change removes the note."""
    # Without tracking: the report of the delete would overtake the load.
    cache = make_cache(name="test", coherence=UNTRACKED)
    before = json.dumps([*["ab"] * 200, "x", "y", *["ab"] * 200], separators=(",", ":"))
    after = json.dumps([*["ab"] * 200, "x123y", *["ab"] * 200], separators=(",", ":"))
    await cache.session.set("t", "a", before, ttl=None)
    assert await cache.session.append("t", "a", 1) == 403
    before, after = before[:-1] + ",1]", after[:-1] + ",1]"
    assert plain.get(KEY) == before.encode()
    if way == "set":
        await cache.session.set("t", "a", after)
    elif way == "compare_and_set":
        assert await cache.session.compare_and_set("t", "a", before, after)
    else:
        plain.delete(KEY)
        await cache.session.get_or_load("t", "a", lambda: after)
    assert await cache.session.append("t", "a", 2) == 403


class Other:
    """Another client, which changes the field as it likes; and the list that the field then has."""

    def __init__(self, plain: valkey.Valkey, chance: random.Random) -> None:
        self._plain = plain
        self._chance = chance

    def items(self) -> list[Any]:
        """Return a list, most often a long one."""
        kinds = (0, -(2**70), 1.5, "é]", '"[', {}, [], None, {"a": [1]}, "x" * 300)
        return [self._chance.choice(kinds) for _ in range(self._chance.choice((0, 1, 2, 40, 200)))]

    def change(self, items: list[Any] | None) -> list[Any] | None:
        """Change the field, whose list is ``items`` (None: no list); return its list."""
        match self._chance.randrange(8):
            case 0:
                items = self.items()
                # With spaces, in ASCII, or as tiercache writes it.
                forms: tuple[dict[str, Any], ...] = (
                    {},
                    {"indent": 1},
                    {"separators": (",", ":"), "ensure_ascii": False},
                )
                self._plain.set(KEY, json.dumps(items, **self._chance.choice(forms)) + self._chance.choice(("", " \n")))
            case 1 if items:
                # As an older tiercache appends: it knows no note.
                text: Any = self._plain.get(KEY)
                self._plain.set(KEY, text.rstrip()[:-1] + b',"older"]', keepttl=True)
                items = [*items, "older"]
            case 2 if items and len(items) > 2:
                # The same size: two items change their places.
                first, second = sorted(self._chance.sample(range(len(items)), 2))
                items[first], items[second] = items[second], items[first]
                self._plain.set(KEY, json.dumps(items, **COMPACT))
            case 3:
                self._plain.delete(KEY)
                items = []
            case 4:
                self._plain.set(KEY, self._chance.choice(["", "x" * 5000, '{"a":1}', "[1,2", "[1] [2]", "7"]))
                items = None
            case 5:
                self._plain.delete(NOTE)
            case 6 if items is not None:
                self._plain.pexpire(KEY, 600_000)
            case _ if items:
                # A byte behind the list, or none of its bytes.
                self._plain.append(KEY, "x")
                items = None
        return items


async def append(cache: AgentCache, item: Any) -> int | None:
    try:
        return await cache.session.append("t", "a", item)
    except UsageError:
        return None


@pytest.mark.parametrize("seed", range(15))
async def test_appends_match_a_plain_list_while_others_change_the_field(
    make_cache: MakeCache, plain: valkey.Valkey, seed: int
) -> None:
    chance = random.Random(seed)
    other = Other(plain, chance)
    caches = [make_cache(name="test") for _ in range(2)]
    items: list[Any] | None = []
    for _ in range(80):
        cache = chance.choice(caches)
        match chance.randrange(10):
            case 0:
                items = other.change(items)
            case 1:
                items = other.items()
                await cache.session.set_json("t", "a", items, ttl=chance.choice([60, None]))
            case 2:
                value = await cache.session.get("t", "a", fresh=True)
                items = other.items()
                assert await cache.session.compare_and_set("t", "a", value, json.dumps(items))
            case 3 if chance.random() < 0.3:
                await cache.session.destroy_thread("t", sweep=True)
                items = []
            case _:
                (item,) = chance.choice([other.items()[:1] or [1], [other.items()]])
                count = await append(cache, item)
                if items is None:
                    assert count is None
                    continue
                items = [*items, item]
                assert count == len(items)
        if items:
            assert json.loads(plain.get(KEY)) == items


async def test_concurrent_appends_and_changes_lose_no_item(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    caches = [make_cache(name="test") for _ in range(3)]
    await caches[0].session.set_json("t", "a", LONG)

    async def append_all(cache: AgentCache, name: str) -> list[int]:
        return [await cache.session.append("t", "a", f"{name}{number}") for number in range(60)]

    async def change(cache: AgentCache) -> None:
        """Insert an item at the front, as a caller that replaces the whole list."""
        for number in range(20):
            while True:
                before = await cache.session.get("t", "a", fresh=True)
                after = json.dumps([f"front{number}", *json.loads(before)], **COMPACT)
                if await cache.session.compare_and_set("t", "a", before, after):
                    break

    appending = [append_all(cache, name) for cache, name in zip(caches, "abc", strict=True)]
    *counts, _ = await asyncio.gather(*appending, change(caches[0]))
    items = json.loads(plain.get(KEY))
    assert len(items) == len(LONG) + 3 * 60 + 20
    # Each append returns the length of the list behind it: no length twice, and none too large.
    lengths = [count for each in counts for count in each]
    assert len(set(lengths)) == len(lengths)
    assert max(lengths) <= len(items)
    for name in "abc":
        assert [item for item in items if isinstance(item, str) and item.startswith(name)] == [
            f"{name}{number}" for number in range(60)
        ]
