"""Decorated functions with ``per_run``: their values end with the run in both levels, on both faces."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import valkey
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import entry_keys, until
from tiercache import AgentCache, ResilienceOptions, UsageError
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.entries.counters import CounterBook
from tiercache.engine.entries.entry import Group
from tiercache.scopes import RUN, SCOPE, CallScopes, KeyScopes
from tiercache.tiers.kv.key import KvKeys

Made = tuple[Any, list[int]]


def memoized(cache: AgentCache, **options: Any) -> Made:
    calls: list[int] = []

    @cache.memoize(**options)
    async def square(number: int) -> int:
        calls.append(number)
        return number * number

    return square, calls


def tool(cache: AgentCache, **options: Any) -> Made:
    calls: list[int] = []

    @cache.tool.cached(**options)
    async def square(number: int) -> int:
        calls.append(number)
        return number * number

    return square, calls


def model(cache: AgentCache, **options: Any) -> Made:
    calls: list[int] = []

    @cache.llm.cached(**options)
    async def complete(number: int, model: str = "m", messages: Any = ()) -> str:
        calls.append(number)
        return f"{number}"

    return complete, calls


def generator(cache: AgentCache, **options: Any) -> Made:
    calls: list[int] = []

    @cache.memoize(**options)
    async def numbers(number: int) -> AsyncIterator[int]:
        calls.append(number)
        for each in range(number):
            yield each

    return numbers, calls


KINDS: list[Callable[..., Made]] = [memoized, tool, model, generator]
each_kind = pytest.mark.parametrize("make", KINDS)


async def value_of(function: Any, number: int) -> Any:
    made = function(number)
    return [item async for item in made] if hasattr(made, "__aiter__") else await made


@each_kind
async def test_per_run_value_ends_with_its_run_in_both_levels(
    cache: AgentCache, plain: valkey.Valkey, make: Callable[..., Made]
) -> None:
    shared, shared_calls = make(cache)
    own, calls = make(cache, per_run=True)
    await value_of(shared, 3)
    await cache.flush_writes()
    before = entry_keys(plain)
    async with cache.agent("r1"):
        first = await value_of(own, 3)
        await cache.flush_writes()
        assert await value_of(own, 3) == first
        assert plain.exists(own.key(3))
        assert await own.is_cached(3)
        assert own.key(3) != shared.key(3)
        assert await value_of(shared, 3) == first
    assert calls == [3]
    assert [key for key in entry_keys(plain) if "__tc:i" not in key] == [key for key in before if "__tc:i" not in key]
    async with cache.agent("r1"):
        assert not await own.is_cached(3)
        await value_of(own, 3)
    assert calls == [3, 3]
    await value_of(shared, 3)
    assert shared_calls == [3]


@each_kind
async def test_per_run_values_of_other_runs_are_apart(cache: AgentCache, make: Callable[..., Made]) -> None:
    own, calls = make(cache, per_run=True)

    async def run(session_id: str | None) -> str:
        async with cache.agent(session_id):
            await value_of(own, 2)
            await value_of(own, 2)
            return str(own.key(2))

    keys = await asyncio.gather(*(run(session_id) for session_id in (None, None, ":", "%", "*", "\u00e9", "%3A")))
    assert len(set(keys)) == 7
    assert calls == [2] * 7
    async with cache.agent():
        await value_of(own, 2)
        await run(None)
        await value_of(own, 2)
    assert len(calls) == 9


@each_kind
async def test_per_run_values_stay_with_keep_and_join_the_scope(cache: AgentCache, make: Callable[..., Made]) -> None:
    own, calls = make(cache, per_run=True)
    async with cache.agent("r", keep=True):
        await value_of(own, 2)
        with cache.calls(scope="acme"):
            await value_of(own, 2)
            scoped = own.key(2)
        assert scoped != own.key(2)
    async with cache.agent("r"):
        await value_of(own, 2)
    assert calls == [2, 2]


@each_kind
async def test_per_run_function_needs_a_run(cache: AgentCache, make: Callable[..., Made]) -> None:
    own, calls = make(cache, per_run=True)
    for use in (lambda: value_of(own, 2), lambda: own.is_cached(2), lambda: own.invalidate(2)):
        with pytest.raises(UsageError, match="per_run is for calls within a run"):
            await use()
    with pytest.raises(UsageError, match="per_run"):
        own.key(2)
    assert calls == []
    with pytest.raises(UsageError, match="per_run must be True or False"):
        make(cache, per_run=1)


async def test_per_run_function_stores_refreshes_and_removes_in_its_run(cache: AgentCache) -> None:
    own, calls = memoized(cache, per_run=True, tags=["t"])
    async with cache.agent() as first:
        await own.set(7, 2)
        assert await own(2) == 7
        assert await own.refresh(2) == 4
        assert await own.invalidate(2)
        assert not await own.is_cached(2)
        await own(2)
        assert await cache.invalidate_tag("t") == 1
        await own(2)
        assert await own.clear() == 1
        await own.set(9, 2)
    async with cache.agent(first.session_id):
        assert not await own.is_cached(2)
    assert calls == [2, 2, 2]


async def test_per_run_load_in_progress_at_the_end_of_its_run_is_not_stored(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    @cache.memoize(per_run=True)
    async def slow(number: int) -> int:
        began.set()
        await release.wait()
        return number

    async with cache.agent("r"):
        key = slow.key(2)
        waiting = asyncio.create_task(slow(2))
        await began.wait()
    release.set()
    assert await waiting == 2
    await cache.flush_writes()
    assert not plain.exists(key)
    async with cache.agent("r"):
        assert not await slow.is_cached(2)


async def test_per_run_values_are_removed_once_valkey_is_back(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_pause=0.05)
    async with AgentCache.from_url(server.url, name="test", resilience=resilience) as cache:
        own, _ = memoized(cache, per_run=True)
        with valkey.Valkey.from_url(server.url) as plain:
            async with cache.agent("r"):
                key = own.key(2)
                await own(2)
                await cache.flush_writes()
                assert plain.exists(key)
                os.kill(pid, signal.SIGSTOP)
            # The block has ended without an error. The cache serves the value no longer.
            async with cache.agent("r", keep=True):
                assert not await own.is_cached(2)
            os.kill(pid, signal.SIGCONT)
            await until(lambda: not plain.exists(key), 10)


def test_per_run_functions_of_plain_code_end_with_their_run(url: str, plain: valkey.Valkey) -> None:
    cache = AgentCache.from_url(url, name="test").sync
    calls: list[str] = []

    @cache.memoize(per_run=True)
    def square(number: int) -> int:
        calls.append("memoize")
        return number * number

    @cache.tool.cached(per_run=True)
    def search(number: int) -> int:
        calls.append("tool")
        return number

    @cache.llm.cached(per_run=True)
    def complete(number: int, model: str = "m", messages: Any = ()) -> str:
        calls.append("llm")
        return "x"

    @cache.memoize(per_run=True)
    def numbers(number: int) -> Any:
        calls.append("items")
        yield from range(number)

    functions: list[Any] = [square, search, complete]
    for _ in range(2):
        with cache.agent("r"):
            for _ in range(2):
                for function in functions:
                    function(2)
                assert list(numbers(2)) == [0, 1]
            cache.flush_writes()
            keys = [function.key(2) for function in (*functions, numbers)]
            assert plain.exists(*keys) == 4
        assert plain.exists(*keys) == 0
    assert sorted(calls) == sorted(["memoize", "tool", "llm", "items"] * 2)
    for function in functions:
        with pytest.raises(UsageError, match="per_run"):
            function(2)
    cache.close()


async def test_flush_clear_and_tags_cover_values_of_runs(cache: AgentCache) -> None:
    own, _ = memoized(cache, per_run=True, tier="kv")
    async with cache.agent("r", keep=True):
        for remove in (cache.flush, own.clear, cache.kv.clear, lambda: cache.invalidate_tag("__tc_run:r")):
            await own(2)
            await cache.flush_writes()
            assert await remove() == 1
            assert not await own.is_cached(2)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
OWNERS = st.tuples(NAMES | st.none(), NAMES | st.none(), NAMES)


@example([("run=r", None, "k"), (None, "r", "k"), ("%run=r", None, "k")])
@example([("arun=r", None, "k"), ("a", "r", "k"), ("a%run=r", None, "k"), ("a%25run=r", None, "k")])
@given(st.lists(OWNERS, min_size=2, max_size=6, unique=True))
def test_keys_of_scopes_and_runs_are_distinct(owners: list[tuple[str | None, str | None, str]]) -> None:
    rules: Any = SimpleNamespace(
        tier="kv", scopes=KeyScopes(CallScopes()), counters=CounterBook(), group=Group("tier", "kv")
    )
    keys, made = KvKeys("test", rules), set()
    for scope, run, key in owners:
        named = ((SCOPE, scope), (RUN, run))
        full = keys.within(key, tuple([each for each in named if each[1] is not None])).key  # type: ignore[misc]
        assert keys.given(full) == key
        made.add(full)
    assert len(made) == len(owners)
