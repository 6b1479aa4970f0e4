"""Appends to long lists: the list is not read, and a change by another client is noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import valkey

from tests.tiers.session.threads import ttl_left_ms
from tiercache import AgentCache, UsageError

KEY, NOTE = "test:session:t:a", "test:__tc:list:t:a"
LONG: list[Any] = [{"n": n, "text": "é"} for n in range(500)]


async def appended(cache: AgentCache, items: list[Any] = LONG, **options: Any) -> bytes:
    """Set the field to a list, append an item to it, and return the text of the list."""
    await cache.session.set_json("t", "a", items, **options)
    assert await cache.session.append("t", "a", "last") == len(items) + 1
    return json.dumps([*items, "last"], separators=(",", ":"), ensure_ascii=False).encode()


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
    await appended(cache)
    assert plain.keys("test:__tc:list:*") == [NOTE.encode()]
    assert 0 < plain.pttl(NOTE) <= 3_600_000


@pytest.mark.parametrize("note", [None, b"no note", b"9 9 9", ["of another type"]], ids=str)
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
