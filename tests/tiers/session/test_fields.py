"""Session fields: set, read, list and delete; threads whose ids look alike; refused arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.support import MakeCache, entry_keys
from tests.tiers.session.threads import ttls_of
from tiercache import AgentCache, LlmOptions, TierOptions, UsageError


async def test_session_sets_reads_lists_and_deletes_fields(make_either: MakeCache) -> None:
    async with make_either() as cache:
        session = cache.session
        assert await session.get("t", "a") is None
        await session.set("t", "a", "é 👍🏽")
        await session.set("t", "b:c %*?[x]\\", "")
        assert await session.get("t", "a") == "é 👍🏽"
        assert await session.get("t", "a", fresh=True) == "é 👍🏽"
        assert await session.get("t", "b:c %*?[x]\\") == ""
        assert await session.get_all("t") == {"a": "é 👍🏽", "b:c %*?[x]\\": ""}
        assert await session.touch("t") == 2
        assert await session.delete("t", "a") is True
        assert await session.delete("t", "a") is False
        assert await session.get("t", "a") is None
        assert await session.get_all("t") == {"b:c %*?[x]\\": ""}
        assert await session.destroy_thread("t") == 1
        assert await session.destroy_thread("t") == 0
        assert await session.get_all("t") == {}
        assert await session.touch("t") == 0


async def test_session_destroy_thread_leaves_no_key(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "1")
    await cache.session.set("t", "b", "2", ttl=60)
    assert entry_keys(plain) == ["test:__tc:thread:t", "test:session:t:a", "test:session:t:b"]
    assert await cache.session.destroy_thread("t") == 2
    assert entry_keys(plain) == []


async def test_session_stores_raw_values_under_contract_keys(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("user:1%", "a:b", "é", ttl=60)
    assert entry_keys(plain) == ["test:__tc:thread:user%3A1%25", "test:session:user%3A1%25:a:b"]
    assert plain.get("test:session:user%3A1%25:a:b") == "é".encode()
    assert ttls_of(plain, "user%3A1%25") == {"a:b": 60_000}


async def test_session_separates_threads_with_common_id_prefix(make_either: MakeCache) -> None:
    async with make_either() as cache:
        session = cache.session
        for thread in ("user", "user:42", "user%3A42", "us*r", "user:"):
            await session.set(thread, "f", thread)
        assert await session.get("user", "42:f") is None
        for sweep in (False, True):
            assert await session.get_all("user", sweep=sweep) == {"f": "user"}
            assert await session.touch("user", sweep=sweep) == 1
            assert await session.get_all("us*r", sweep=sweep) == {"f": "us*r"}
        assert await session.destroy_thread("us*r", sweep=True) == 1
        assert await session.destroy_thread("user", sweep=True) == 1
        for thread in ("user:42", "user%3A42", "user:"):
            assert await session.get_all(thread) == {"f": thread}


async def test_session_handles_600_fields_in_pages(cache: AgentCache, plain: valkey.Valkey) -> None:
    await asyncio.gather(*(cache.session.set("t", f"f{n}", str(n)) for n in range(600)))
    plain.config_resetstat()
    assert await cache.session.get_all("t") == {f"f{n}": str(n) for n in range(600)}
    assert await cache.session.touch("t") == 600
    assert await cache.session.destroy_thread("t") == 600
    # Three pages each, and the announcement that the thread was destroyed.
    assert plain.info("commandstats")["cmdstat_eval"]["calls"] == 9 + 1


# Refused arguments


@pytest.mark.parametrize("bad", ["", None, 5, b"t", "\ud800"])
async def test_session_refuses_bad_thread_id_and_field_in_every_method(
    cache: AgentCache, plain: valkey.Valkey, bad: Any
) -> None:
    session = cache.session
    of_fields: list[Callable[[Any, Any], Awaitable[Any]]] = [
        session.get,
        lambda thread, field: session.set(thread, field, "x"),
        session.delete,
        session.get_json,
        lambda thread, field: session.set_json(thread, field, 1),
        lambda thread, field: session.append(thread, field, 1),
        session.incr,
        lambda thread, field: session.compare_and_set(thread, field, None, "x"),
        lambda thread, field: session.get_or_load(thread, field, lambda: "x"),
    ]
    for call in of_fields:
        with pytest.raises(UsageError, match="thread_id "):
            await call(bad, "a")
        with pytest.raises(UsageError, match="field "):
            await call("t", bad)
    for whole in (session.get_all, session.touch, session.destroy_thread):
        with pytest.raises(UsageError, match="thread_id "):
            await whole(bad)
    assert entry_keys(plain) == []


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], "\udc00"])
async def test_session_refuses_value_that_is_no_text(cache: AgentCache, plain: valkey.Valkey, value: Any) -> None:
    calls = [
        lambda: cache.session.set("t", "a", value),
        lambda: cache.session.compare_and_set("t", "a", None, value),
    ]
    if not isinstance(value, str):  # A text that a loader returns reaches its callers.
        calls.append(lambda: cache.session.get_or_load("t", "a", lambda: value))
    for call in calls:
        with pytest.raises(UsageError, match=r"str|Unicode"):
            await call()
    assert entry_keys(plain) == []
    assert cache.session.writes == 0


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "soon", True])
async def test_session_refuses_bad_ttl(cache: AgentCache, plain: valkey.Valkey, ttl: Any) -> None:
    session = cache.session
    for call in (
        lambda: session.set("t", "a", "x", ttl=ttl),
        lambda: session.set_json("t", "a", "x", ttl=ttl),
        lambda: session.append("t", "a", "x", ttl=ttl),
        lambda: session.incr("t", "a", ttl=ttl),
        lambda: session.compare_and_set("t", "a", None, "x", ttl=ttl),
        lambda: session.get_or_load("t", "a", lambda: "x", ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            await call()
    assert entry_keys(plain) == []


@pytest.mark.parametrize(
    "options", [LlmOptions(ignore=("a",)), LlmOptions(key=lambda params: params), TierOptions(jitter=0.1), 5]
)
def test_session_refuses_options_without_meaning_for_sessions(options: Any) -> None:
    with pytest.raises(UsageError, match="session must be"):
        AgentCache.in_memory(session=options)


async def test_session_refuses_calls_on_closed_cache(make_either: MakeCache) -> None:
    cache = make_either()
    await cache.session.set("t", "a", "x")
    await cache.aclose()
    for call in (lambda: cache.session.get("t", "a"), lambda: cache.session.set("t", "a", "x")):
        with pytest.raises(UsageError, match="closed"):
            await call()
