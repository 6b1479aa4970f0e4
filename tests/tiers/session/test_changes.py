"""JSON values, and changes that Valkey makes in one step: ``append``, ``incr``, ``compare_and_set``."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import valkey

from tests.support import MakeCache
from tests.tiers.session.threads import change_all, ttl_left_ms
from tiercache import NO_EXPIRY, AgentCache, TierOptions, UsageError

# JSON values


@pytest.mark.parametrize("value", [None, 0, False, "text", 1.5, [1, [2]], {"a": {"é": None}}, float("inf")])
async def test_session_json_returns_stored_value(either: AgentCache, value: Any) -> None:
    await either.session.set_json("t", "a", value)
    assert await either.session.get_json("t", "a", "default") == value
    assert await either.session.get("t", "a") == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


async def test_session_json_returns_default_for_absent_and_undecodable_field(either: AgentCache) -> None:
    assert await either.session.get_json("t", "a") is None
    assert await either.session.get_json("t", "a", [1]) == [1]
    await either.session.set("t", "a", "plain text")
    assert await either.session.get_json("t", "a", 5) == 5
    assert either.local_stats().tiers["session"].undecodable == 1


@pytest.mark.parametrize("value", [{1}, b"x", object(), "\ud800", {1: 1, "a": 2}.keys()])
async def test_session_json_refuses_value_that_is_not_json(either: AgentCache, value: Any) -> None:
    with pytest.raises(UsageError, match="value"):
        await either.session.set_json("t", "a", value)
    with pytest.raises(UsageError, match="item"):
        await either.session.append("t", "a", value)
    assert await either.session.get_all("t") == {}


# Append

ITEMS: list[Any] = [[], {}, 2**70, 1e-7, "é\x00\n\u2028", None, True, [1, [2, []]], float("nan"), {"a": [{}]}]


async def test_session_append_keeps_items_and_their_order(either: AgentCache) -> None:
    counts = [await either.session.append("t", "a", item) for item in ITEMS]
    assert counts == list(range(1, len(ITEMS) + 1))
    assert repr(await either.session.get_json("t", "a")) == repr(ITEMS)


@pytest.mark.parametrize("before", ["[]", " [ ] ", "[1]", ' [ 1 , "]" ] \n', "[[1],[2]]"])
async def test_session_append_extends_list_of_other_writer(either: AgentCache, before: str) -> None:
    await either.session.set("t", "a", before)
    assert await either.session.append("t", "a", "x") == len(json.loads(before)) + 1
    assert await either.session.get_json("t", "a") == [*json.loads(before), "x"]


@pytest.mark.parametrize("before", ["", "text", "{}", "5", "null", '"[]"', "[1,]", "[1],[2]", "[abc]", "["])
async def test_session_append_refuses_field_that_is_no_list(either: AgentCache, before: str) -> None:
    await either.session.set("t", "a", before)
    with pytest.raises(UsageError, match="holds no JSON list"):
        await either.session.append("t", "a", 1)
    assert await either.session.get("t", "a") == before


async def test_session_append_keeps_items_of_concurrent_calls(either: AgentCache) -> None:
    counts = await asyncio.gather(*(either.session.append("t", "a", n) for n in range(200)))
    assert sorted(counts) == list(range(1, 201))
    assert sorted(await either.session.get_json("t", "a")) == list(range(200))


APPEND = """
    import asyncio, sys
    from tiercache import AgentCache

    async def main(url, process):
        async with AgentCache.from_url(url, name="test") as cache:
            mine = range(process, 50, 4)
            await asyncio.gather(*(cache.session.append("t", "items", n) for n in mine),
                                 *(cache.session.incr("t", "count") for n in mine))
            for n in mine:
                while True:
                    old = await cache.session.get("t", "sum", fresh=True)
                    new = str(int(old or 0) + n)
                    if await cache.session.compare_and_set("t", "sum", old, new):
                        break

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_session_changes_of_four_processes_lose_no_update(cache: AgentCache, url: str) -> None:
    command = (sys.executable, "-W", "error", "-c", textwrap.dedent(APPEND), url)
    processes = [await asyncio.create_subprocess_exec(*command, str(n)) for n in range(4)]
    assert [await process.wait() for process in processes] == [0] * 4
    assert sorted(await cache.session.get_json("t", "items")) == list(range(50))
    assert await cache.session.get("t", "count") == "50"
    assert await cache.session.get("t", "sum") == str(sum(range(50)))


# Increments


async def test_session_incr_adds_within_64_bits(either: AgentCache) -> None:
    session = either.session
    assert await session.incr("t", "n") == 1
    assert await session.incr("t", "n", -5) == -4
    assert await session.get("t", "n") == "-4"
    await session.set("t", "n", "0")
    assert await session.incr("t", "n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(UsageError, match="64 bits"):
        await session.incr("t", "n")
    assert await session.get("t", "n") == str(2**63 - 1)
    assert await session.incr("t", "m", -(2**63)) == -(2**63)


@pytest.mark.parametrize("before", ["", "text", "1.5", " 1", "1 ", "+1", "01", "-0", "9223372036854775808", "1_0", "٣"])
async def test_session_incr_refuses_field_that_is_no_integer(either: AgentCache, before: str) -> None:
    await either.session.set("t", "n", before)
    with pytest.raises(UsageError, match="holds no integer"):
        await either.session.incr("t", "n")
    assert await either.session.get("t", "n") == before


@pytest.mark.parametrize("by", [1.0, "1", True, None, 2**63])
async def test_session_incr_refuses_increment_that_is_no_integer(either: AgentCache, by: Any) -> None:
    with pytest.raises(UsageError, match="by must be"):
        await either.session.incr("t", "n", by)
    assert await either.session.get_all("t") == {}


# Compare and set


async def test_session_compare_and_set_writes_only_over_expected_value(either: AgentCache) -> None:
    session = either.session
    assert not await session.compare_and_set("t", "a", "x", "y")
    assert await session.compare_and_set("t", "a", None, "x")
    assert not await session.compare_and_set("t", "a", None, "y")
    assert not await session.compare_and_set("t", "a", "", "y")
    assert await session.compare_and_set("t", "a", "x", "")
    assert not await session.compare_and_set("t", "a", None, "y")
    assert await session.compare_and_set("t", "a", "", "é")
    assert await session.compare_and_set("t", "a", "é", "z")
    assert await session.get("t", "a") == "z"
    for expected in (5, b"z", "\ud800"):
        with pytest.raises(UsageError, match="expected"):
            await session.compare_and_set("t", "a", expected, "y")  # type: ignore[arg-type]


async def test_session_change_keeps_ttl_of_field_unless_given(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=50))
    fields = ("list", "n", "text")
    for options, window in (({}, 50), ({"ttl": 10}, 10), ({}, 10), ({"ttl": "20s"}, 20), ({}, 20)):
        await change_all(cache, **options)
        for field in fields:
            assert window * 1000 - 1000 < ttl_left_ms(plain, field) <= window * 1000
        assert set(plain.hvals("test:__tc:thread:t")) == {str(window * 1000).encode()}
    for field in fields:
        plain.pexpire(f"test:session:t:{field}", 5000)
    await change_all(cache)
    assert all(19_000 < ttl_left_ms(plain, field) <= 20_000 for field in fields)
    await change_all(cache, ttl=NO_EXPIRY)
    await change_all(cache)
    assert [ttl_left_ms(plain, field) for field in fields] == [-1, -1, -1]


async def test_session_change_never_shortens_ttl_of_other_writers_field(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=50))
    for field, value in (("list", "[]"), ("n", "1"), ("text", "a")):
        plain.set(f"test:session:t:{field}", value, ex=1000)
    await change_all(cache)
    assert all(999_000 < ttl_left_ms(plain, field) <= 1_000_000 for field in ("list", "n", "text"))


@pytest.mark.parametrize("junk", [True, False], ids=["a hash", "nothing"])
async def test_session_change_treats_key_that_is_no_string_as_absent(
    cache: AgentCache, plain: valkey.Valkey, junk: bool
) -> None:
    for field in ("list", "n", "text"):
        if junk:
            plain.hset(f"test:session:t:{field}", "a", "b")
    await change_all(cache, ttl=60)
    assert await cache.session.get_all("t") == {"list": "[1]", "n": "1", "text": "x"}
    assert all(59_000 < ttl_left_ms(plain, field) <= 60_000 for field in ("list", "n", "text"))


async def test_session_change_is_visible_to_next_read(either: AgentCache) -> None:
    session = either.session
    for n in range(1, 6):
        await session.get("t", "n")
        assert await session.incr("t", "n") == n
        assert await session.get("t", "n") == str(n)
        await session.append("t", "list", n)
        assert await session.get_json("t", "list") == list(range(1, n + 1))


async def test_session_change_in_flight_at_end_of_loop_is_not_sent_twice(url: str, plain: valkey.Valkey) -> None:
    script = """
        import asyncio, sys
        from tiercache import AgentCache
        from tiercache.stores.valkey.store import ValkeyLevel2

        apply = ValkeyLevel2.apply
        async def answered_late(level2, writes):
            outcomes = await apply(level2, writes)
            await asyncio.sleep(60)
            return outcomes

        cache = AgentCache.from_url(sys.argv[1], name="test")
        async def main():
            await cache.session.incr("t", "n")
            ValkeyLevel2.apply = answered_late
            changing = asyncio.create_task(cache.session.incr("t", "n"))
            await asyncio.sleep(0.1)
            ValkeyLevel2.apply = apply

        asyncio.run(main())
    """
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), url],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert plain.get("test:session:t:n") == b"2"
