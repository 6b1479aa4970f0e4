"""The session tier's helpers: JSON values, changes in one step, derived state."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import valkey

from tests.requests import Loader
from tests.support import HeldReads, entry_keys
from tiercache import NO_EXPIRY, AgentCache, CoherenceOptions, L1Options, ResilienceOptions, TierOptions, UsageError
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.testing import FakeClock

MakeCache = Callable[..., AgentCache]


@pytest.fixture(params=["valkey", "memory"])
async def cache(request: pytest.FixtureRequest, make_cache: MakeCache) -> AsyncIterator[AgentCache]:
    """An opened cache, on Valkey or of process memory alone."""
    made = make_cache(name="test") if request.param == "valkey" else AgentCache.in_memory(name="test")
    async with made as cache:
        yield cache


@pytest.fixture
async def on_valkey(make_cache: MakeCache) -> AgentCache:
    """An opened cache on Valkey."""
    cache = make_cache(name="test")
    await cache.open()
    return cache


def left(plain: valkey.Valkey, field: str) -> Any:
    return plain.pttl(f"test:session:t:{field}")


# JSON


@pytest.mark.parametrize("value", [None, 0, False, "text", 1.5, [1, [2]], {"a": {"é": None}}, float("inf")])
async def test_a_json_value_comes_back(cache: AgentCache, value: Any) -> None:
    await cache.session.set_json("t", "a", value)
    assert await cache.session.get_json("t", "a", "default") == value
    assert await cache.session.get("t", "a") == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


async def test_what_is_not_there_or_not_json_is_the_default(cache: AgentCache) -> None:
    assert await cache.session.get_json("t", "a") is None
    assert await cache.session.get_json("t", "a", [1]) == [1]
    await cache.session.set("t", "a", "plain text")
    assert await cache.session.get_json("t", "a", 5) == 5
    assert cache.local_stats().tiers["session"].undecodable == 1


@pytest.mark.parametrize("value", [{1}, b"x", object(), "\ud800", {1: 1, "a": 2}.keys()])
async def test_what_is_not_json_is_refused(cache: AgentCache, value: Any) -> None:
    with pytest.raises(UsageError, match="value"):
        await cache.session.set_json("t", "a", value)
    with pytest.raises(UsageError, match="item"):
        await cache.session.append("t", "a", value)
    assert await cache.session.get_all("t") == {}


# Append

ITEMS: list[Any] = [[], {}, 2**70, 1e-7, "é\x00\n\u2028", None, True, [1, [2, []]], float("nan"), {"a": [{}]}]


async def test_items_are_appended_in_order_and_none_is_changed_by_it(cache: AgentCache) -> None:
    counts = [await cache.session.append("t", "a", item) for item in ITEMS]
    assert counts == list(range(1, len(ITEMS) + 1))
    assert repr(await cache.session.get_json("t", "a")) == repr(ITEMS)


@pytest.mark.parametrize("before", ["[]", " [ ] ", "[1]", ' [ 1 , "]" ] \n', "[[1],[2]]"])
async def test_a_list_that_somebody_else_wrote_is_appended_to(cache: AgentCache, before: str) -> None:
    await cache.session.set("t", "a", before)
    assert await cache.session.append("t", "a", "x") == len(json.loads(before)) + 1
    assert await cache.session.get_json("t", "a") == [*json.loads(before), "x"]


@pytest.mark.parametrize("before", ["", "text", "{}", "5", "null", '"[]"', "[1,]", "[1],[2]", "[abc]", "["])
async def test_appending_to_something_else_is_refused_and_changes_nothing(cache: AgentCache, before: str) -> None:
    await cache.session.set("t", "a", before)
    with pytest.raises(UsageError, match="holds no JSON list"):
        await cache.session.append("t", "a", 1)
    assert await cache.session.get("t", "a") == before


async def test_concurrent_appends_of_one_process_keep_all(cache: AgentCache) -> None:
    counts = await asyncio.gather(*(cache.session.append("t", "a", n) for n in range(200)))
    assert sorted(counts) == list(range(1, 201))
    assert sorted(await cache.session.get_json("t", "a")) == list(range(200))


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


async def test_fifty_appends_from_four_processes_keep_fifty_items(on_valkey: AgentCache, url: str) -> None:
    command = (sys.executable, "-W", "error", "-c", textwrap.dedent(APPEND), url)
    processes = [await asyncio.create_subprocess_exec(*command, str(n)) for n in range(4)]
    assert [await process.wait() for process in processes] == [0] * 4
    assert sorted(await on_valkey.session.get_json("t", "items")) == list(range(50))
    assert await on_valkey.session.get("t", "count") == "50"
    assert await on_valkey.session.get("t", "sum") == str(sum(range(50)))


# Increments


async def test_an_integer_is_incremented(cache: AgentCache) -> None:
    session = cache.session
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
async def test_incrementing_something_else_is_refused_and_changes_nothing(cache: AgentCache, before: str) -> None:
    await cache.session.set("t", "n", before)
    with pytest.raises(UsageError, match="holds no integer"):
        await cache.session.incr("t", "n")
    assert await cache.session.get("t", "n") == before


@pytest.mark.parametrize("by", [1.0, "1", True, None, 2**63])
async def test_an_increment_that_is_no_integer_is_refused(cache: AgentCache, by: Any) -> None:
    with pytest.raises(UsageError, match="by must be"):
        await cache.session.incr("t", "n", by)
    assert await cache.session.get_all("t") == {}


# Compare and set


async def test_a_field_is_set_only_if_it_holds_what_is_expected(cache: AgentCache) -> None:
    session = cache.session
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


# What the changes have in common


async def change_all(cache: AgentCache, **options: Any) -> None:
    await cache.session.append("t", "list", 1, **options)
    await cache.session.incr("t", "n", **options)
    await cache.session.compare_and_set("t", "text", await cache.session.get("t", "text"), "x", **options)


async def test_a_change_keeps_the_fields_window_unless_it_gives_one(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=50))
    fields = ("list", "n", "text")
    for options, window in (({}, 50), ({"ttl": 10}, 10), ({}, 10), ({"ttl": "20s"}, 20), ({}, 20)):
        await change_all(cache, **options)
        for field in fields:
            assert window * 1000 - 1000 < left(plain, field) <= window * 1000
        assert set(plain.hvals("test:__tc:thread:t")) == {str(window * 1000).encode()}
    for field in fields:
        plain.pexpire(f"test:session:t:{field}", 5000)
    await change_all(cache)
    assert all(19_000 < left(plain, field) <= 20_000 for field in fields)
    await change_all(cache, ttl=NO_EXPIRY)
    await change_all(cache)
    assert [left(plain, field) for field in fields] == [-1, -1, -1]


async def test_a_change_of_another_writers_field_does_not_shorten_its_life(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", session=TierOptions(ttl=50))
    for field, value in (("list", "[]"), ("n", "1"), ("text", "a")):
        plain.set(f"test:session:t:{field}", value, ex=1000)
    await change_all(cache)
    assert all(999_000 < left(plain, field) <= 1_000_000 for field in ("list", "n", "text"))


async def test_a_change_keeps_the_window_in_memory_too() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, session=TierOptions(ttl=50)) as cache:
        await change_all(cache)
        await change_all(cache, ttl=10)
        await change_all(cache)
        time.advance(11)
        assert await cache.session.get_all("t") == {}


@pytest.mark.parametrize("junk", [True, False], ids=["a hash", "nothing"])
async def test_a_key_that_is_no_string_counts_as_absent(
    on_valkey: AgentCache, plain: valkey.Valkey, junk: bool
) -> None:
    for field in ("list", "n", "text"):
        if junk:
            plain.hset(f"test:session:t:{field}", "a", "b")
    await change_all(on_valkey, ttl=60)
    assert await on_valkey.session.get_all("t") == {"list": "[1]", "n": "1", "text": "x"}
    assert all(59_000 < left(plain, field) <= 60_000 for field in ("list", "n", "text"))


async def test_a_change_is_read_back_at_once(cache: AgentCache) -> None:
    session = cache.session
    for n in range(1, 6):
        await session.get("t", "n")
        assert await session.incr("t", "n") == n
        assert await session.get("t", "n") == str(n)
        await session.append("t", "list", n)
        assert await session.get_json("t", "list") == list(range(1, n + 1))


async def test_a_change_under_way_when_its_loop_ends_is_not_made_twice(url: str, plain: valkey.Valkey) -> None:
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


# Derived state


async def test_a_field_is_loaded_once_for_all_who_wait_and_kept(cache: AgentCache) -> None:
    loader = Loader("derived", held=True)
    waiting = [asyncio.create_task(cache.session.get_or_load("t", "a", loader)) for _ in range(20)]  # type: ignore[arg-type]
    await loader.started.wait()
    loader.release()
    assert await asyncio.gather(*waiting) == ["derived"] * 20
    assert loader.calls == 1
    assert await cache.session.get_or_load("t", "a", lambda: "again") == "derived"
    assert await cache.session.get("t", "a", fresh=True) == "derived"
    assert await cache.session.get_all("t") == {"a": "derived"}
    counters = cache.local_stats().tiers["session"]
    assert (counters.loads, counters.misses, counters.coalesced) == (1, 20, 19)
    assert (cache.session.reads, cache.session.writes) == (22, 1)


async def test_what_is_loaded_is_in_valkey_when_the_caller_gets_it(on_valkey: AgentCache, plain: valkey.Valkey) -> None:
    await on_valkey.session.get_or_load("t", "a", lambda: "x", ttl=10)
    assert plain.get("test:session:t:a") == b"x"
    assert 9000 < left(plain, "a") <= 10_000
    assert plain.hgetall("test:__tc:thread:t") == {b"a": b"10000"}
    plain.pexpire("test:session:t:a", 4000)
    on_valkey.clear_l1()
    assert await on_valkey.session.get_or_load("t", "a", lambda: "y") == "x"
    await on_valkey.flush_writes()
    assert 9000 < left(plain, "a") <= 10_000


@pytest.mark.parametrize("change", ["set", "delete", "destroy_thread"])
async def test_a_change_during_the_load_wins_over_it(cache: AgentCache, change: str) -> None:
    loader = Loader("older", held=True)
    waiting = asyncio.create_task(cache.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    if change == "set":
        await cache.session.set("t", "a", "newer")
    elif change == "delete":
        await cache.session.delete("t", "a")
    else:
        await cache.session.destroy_thread("t")
    loader.release()
    assert await waiting == "older"
    expected = "newer" if change == "set" else None
    assert await cache.session.get("t", "a") == expected
    assert await cache.session.get("t", "a", fresh=True) == expected
    assert cache.local_stats().tiers["session"].overtaken == 1


async def test_a_change_while_the_loaded_value_is_on_its_way_wins_over_it(
    on_valkey: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, release = asyncio.Event(), asyncio.Event()
    apply = ValkeyLevel2.apply

    async def held(level2: ValkeyLevel2, writes: Any) -> Any:
        sending.set()
        await release.wait()
        return await apply(level2, writes)

    with monkeypatch.context() as patch:
        patch.setattr(ValkeyLevel2, "apply", held)
        loading = asyncio.create_task(on_valkey.session.get_or_load("t", "a", lambda: "older"))
        await sending.wait()
        deleting = asyncio.create_task(on_valkey.session.delete("t", "a"))
        await asyncio.sleep(0)
        release.set()
        assert await loading == "older"
        assert await deleting
    assert await on_valkey.session.get("t", "a") is None
    assert await on_valkey.session.get("t", "a", fresh=True) is None


@pytest.mark.parametrize("change", ["set", "delete", "incr", "destroy_thread"])
async def test_a_load_that_ends_while_a_change_is_on_its_way_is_not_stored_behind_it(
    on_valkey: AgentCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = on_valkey.session
    loader = Loader("1", held=True)
    waiting = asyncio.create_task(session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    sending, release = asyncio.Event(), asyncio.Event()
    apply = ValkeyLevel2.apply

    async def held(level2: ValkeyLevel2, writes: Any) -> Any:
        sending.set()
        await release.wait()
        return await apply(level2, writes)

    calls: dict[str, Callable[[], Any]] = {
        "set": lambda: session.set("t", "a", "7"),
        "delete": lambda: session.delete("t", "a"),
        "incr": lambda: session.incr("t", "a", 7),
        "destroy_thread": lambda: session.destroy_thread("t"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(ValkeyLevel2, "apply", held)
        changing = asyncio.create_task(calls[change]())
        await sending.wait()
        loader.release()
        assert await waiting == "1"
        release.set()
        await changing
    expected = "7" if change in ("set", "incr") else None
    assert await session.get("t", "a") == expected
    assert await session.get("t", "a", fresh=True) == expected


async def test_a_field_that_another_process_sets_during_the_load_is_not_overwritten(
    on_valkey: AgentCache, make_cache: MakeCache
) -> None:
    loader = Loader("older", held=True)
    waiting = asyncio.create_task(on_valkey.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    await make_cache(name="test").session.set("t", "a", "newer")
    loader.release()
    assert await waiting == "older"
    assert await on_valkey.session.get("t", "a") == "newer"


async def test_a_value_from_elsewhere_that_the_process_hears_of_wins_over_the_load(
    on_valkey: AgentCache, plain: valkey.Valkey
) -> None:
    loader = Loader("loaded", held=True)
    waiting = asyncio.create_task(on_valkey.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    plain.set("test:session:t:a", "from elsewhere")
    runtime = await on_valkey._engine.open()
    for _ in range(1000):
        if runtime.flights.joinable("test:session:t:a") is None:
            break
        await asyncio.sleep(0.002)
    loader.release()
    assert await waiting == "loaded"
    assert await on_valkey.session.get("t", "a") == "from elsewhere"
    assert plain.get("test:session:t:a") == b"from elsewhere"


async def test_a_read_that_the_loaded_value_overtook_does_not_fill_l1(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing tells the process of the value from elsewhere, so the load replaces it.
    on_valkey = make_cache(name="test", coherence=CoherenceOptions(tracking="off"))
    loader = Loader("loaded", held=True)
    waiting = asyncio.create_task(on_valkey.session.get_or_load("t", "a", loader))  # type: ignore[arg-type]
    await loader.started.wait()
    plain.set("test:session:t:a", "from elsewhere")
    with monkeypatch.context() as patch:
        reads = HeldReads(patch)
        reading = asyncio.create_task(on_valkey.session.get("t", "a"))
        await reads.answered.wait()
        loader.release()
        assert await waiting == "loaded"
        reads.release.set()
        assert await reading == "from elsewhere"
    assert await on_valkey.session.get("t", "a") == "loaded"


async def test_what_a_loader_raises_reaches_every_waiter_and_stores_nothing(cache: AgentCache) -> None:
    loader = Loader(RuntimeError("no"), held=True)
    waiting = [asyncio.create_task(cache.session.get_or_load("t", "a", loader)) for _ in range(3)]  # type: ignore[arg-type]
    await loader.started.wait()
    loader.release()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no"] * 3
    assert await cache.session.get_all("t") == {}


async def test_a_loader_may_ask_for_its_own_field(cache: AgentCache) -> None:
    async def outer() -> str:
        return "outer " + await cache.session.get_or_load("t", "a", lambda: "inner")

    async with asyncio.timeout(10):
        assert await cache.session.get_or_load("t", "a", outer) == "outer inner"
    assert await cache.session.get("t", "a", fresh=True) == "outer inner"


@pytest.mark.parametrize("loader", ["text", None, lambda key: "x", lambda a, b: "x"])
async def test_a_loader_that_cannot_be_called_is_refused(cache: AgentCache, loader: Any) -> None:
    with pytest.raises(UsageError, match="loader"):
        await cache.session.get_or_load("t", "a", loader)
    assert await cache.session.get_all("t") == {}


async def test_a_load_that_takes_too_long_stores_nothing(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(load_timeout=0.05))
    with pytest.raises(TimeoutError, match="load_timeout"):
        await cache.session.get_or_load("t", "a", lambda: asyncio.sleep(60))
    assert entry_keys(plain) == []


# In memory


async def test_memory_keeps_what_l1_would_have_evicted_and_lets_go_of_what_has_expired() -> None:
    time = FakeClock()
    async with AgentCache.in_memory(clock=time.clock, l1=L1Options(max_entries=1, max_bytes=1)) as cache:
        for n in range(3000):
            await cache.session.set(f"t{n}", "a", str(n), ttl=None if n < 500 else 10)
        cache.clear_l1()
        assert await cache.session.get("t0", "a") == "0"
        assert await cache.session.get("t2999", "a") == "2999"
        time.advance(11)
        for n in range(3000):
            await cache.session.set("new", f"f{n}", "x")
        store: Any = cache.session._store
        assert store._count == sum(map(len, store._threads.values())) == 3500
        assert len(store._threads) == 501


async def test_sessions_in_memory_survive_the_end_of_a_loop() -> None:
    cache = AgentCache.in_memory()

    def run(call: Any) -> Any:
        with asyncio.Runner() as runner:
            return runner.run(call())

    await asyncio.to_thread(run, lambda: cache.session.set("t", "a", "x"))
    assert await asyncio.to_thread(run, lambda: cache.session.get("t", "a")) == "x"
