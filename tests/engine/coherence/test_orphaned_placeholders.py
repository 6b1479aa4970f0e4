"""Orphaned placeholders: a placeholder that no load renews, or that no load has written, holds up no load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.engine.coherence.holders import KEY, is_leased, load, start_holder, wait_for_lease
from tests.requests import HELLO, Loader
from tests.support import UNTRACKED, MakeCache, until
from tiercache import AgentCache, CoherenceOptions, UsageError
from tiercache.engine.coherence.placeholders import LONGEST_LEASE_SECONDS

HOUR_MS = 3_600_000
WELL_FORMED = b"tc:lease:deadbeef:1"
MALFORMED = {
    "only the prefix": b"tc:lease:",
    "no number": b"tc:lease:deadbeef",
    "no origin": b"tc:lease::1",
    "a number that is none": b"tc:lease:deadbeef:one",
    "digits of another script": "tc:lease:deadbeef:\u0661".encode(),
    "binary": b"tc:lease:\xff\x00:\xfe",
    "a huge number": b"tc:lease:deadbeef:" + b"9" * 5000,
    "a line behind it": b"tc:lease:deadbeef:1\n",
    "JSON": b'tc:lease:{"a":1}:2',
    "long": b"tc:lease:" + b"x" * 100_000,
}

Ask = Callable[[AgentCache, Any], Awaitable[Any]]


async def _many(cache: AgentCache, loader: Any) -> Any:
    async def load_all(keys: list[str]) -> dict[str, Any]:
        return {key: await loader() for key in keys}

    return (await cache.kv.get_or_load_many(["k", "l"], load_all))["k"]


async def _batch(cache: AgentCache, loader: Any) -> Any:
    async def load_all(keys: list[str]) -> list[Any]:
        return [await loader() for _ in keys]

    return (await cache.kv.get_or_load("k", cache.kv.batch_loader(load_all))).value


async def _kv(cache: AgentCache, loader: Any) -> Any:
    return (await cache.kv.get_or_load("k", loader)).value


async def _refresh(cache: AgentCache, loader: Any) -> Any:
    return (await cache.kv.get_or_load("k", loader, mode="refresh")).value


async def _llm(cache: AgentCache, loader: Any) -> Any:
    return (await cache.llm.get_or_load(HELLO, loader)).response


async def _tool(cache: AgentCache, loader: Any) -> Any:
    return (await cache.tool.get_or_load("t", {}, loader)).value


WAYS: dict[str, Ask] = {
    "kv": _kv, "llm": _llm, "tool": _tool, "refresh": _refresh, "many": _many, "batch": _batch
}  # fmt: skip


async def _key_of(cache: AgentCache, way: str) -> str:
    """Return the key in Valkey that the caller of ``way`` asks for."""
    match way:
        case "llm":
            return (await cache.llm.explain(HELLO)).key
        case "tool":
            return (await cache.tool.explain("t", {})).key
    return KEY


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("life", [None, HOUR_MS], ids=["no TTL", "an hour"])
async def test_orphan_that_no_load_renews_is_taken_over_and_its_value_stored(
    make_cache: MakeCache, plain: valkey.Valkey, way: str, life: int | None
) -> None:
    # With tracking, the report of the test's own write could overtake the load.
    cache = make_cache(name="test", coherence=UNTRACKED)
    key = await _key_of(cache, way)
    plain.set(key, WELL_FORMED, px=life)
    loader = Loader()
    async with asyncio.timeout(5):
        assert await WAYS[way](cache, loader) == "answer"
    await cache.flush_writes()
    assert not is_leased(plain, key)
    assert plain.exists(key) == 1
    cache.clear_l1()
    loader.answer = "never asked"
    again = await (_kv if way == "refresh" else WAYS[way])(cache, loader)
    assert again == "answer"


@pytest.mark.parametrize("way", ["kv", "many", "llm", "tool"])
@pytest.mark.parametrize("form", MALFORMED)
async def test_orphan_in_another_form_is_taken_over_whatever_its_life(
    make_cache: MakeCache, plain: valkey.Valkey, way: str, form: str
) -> None:
    cache = make_cache(name="test", coherence=UNTRACKED)
    key = await _key_of(cache, way)
    plain.set(key, MALFORMED[form], px=30_000)
    async with asyncio.timeout(5):
        assert await WAYS[way](cache, Loader()) == "answer"
    await cache.flush_writes()
    assert plain.exists(key) == 1
    assert not is_leased(plain, key)


async def test_orphan_is_taken_over_by_one_of_many_processes(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    caches = [make_cache(name="test", coherence=UNTRACKED) for _ in range(4)]
    for cache in caches:
        await cache.open()
    plain.set(KEY, WELL_FORMED)
    loader = Loader(held=True)
    tasks = [load(cache, loader) for cache in caches]
    await loader.started.wait()
    await until(lambda: sum(cache.local_stats().tiers["kv"].lease_waits for cache in caches) == 3)
    loader.release()
    assert {(await task).value for task in tasks} == {"answer"}
    assert loader.calls == 1


async def test_orphan_is_recognised_by_a_load_that_waits_for_it(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """While a load waits, another client makes the placeholder permanent (PERSIST)."""
    cache = make_cache(name="test", coherence=UNTRACKED)
    plain.set(KEY, WELL_FORMED, px=30_000)
    waiter = load(cache, Loader())
    await wait_for_lease(cache)
    plain.persist(KEY)
    async with asyncio.timeout(5):
        assert (await waiter).value == "answer"
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"


async def test_lease_of_a_process_with_another_lease_ttl_is_believed(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    longest = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=LONGEST_LEASE_SECONDS))
    short = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=0.5))
    await short.open()
    first, second = Loader("first", held=True), Loader("second")
    loading = await start_holder(longest, first)
    assert plain.pttl(KEY) > 0.9 * LONGEST_LEASE_SECONDS * 1000
    other = load(short, second)
    await wait_for_lease(short)
    assert (await short.kv.explain("k")).l2 == "leased"
    first.release()
    assert ((await loading).value, (await other).value) == ("first", "first")
    assert second.calls == 0


@pytest.mark.parametrize("seconds", [LONGEST_LEASE_SECONDS + 0.001, 3600, 1e6])
def test_lease_ttl_is_refused_if_other_processes_would_not_believe_it(seconds: float) -> None:
    with pytest.raises(UsageError, match=r"lease_ttl must be .* at most 60"):
        CoherenceOptions(lease_ttl=seconds)


async def test_own_lease_is_kept_although_another_client_made_it_permanent(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """A holder knows its own lease, and so a second load in its process waits for the first one."""
    cache = make_cache(name="test", coherence=UNTRACKED)
    loader, second = Loader("first", held=True), Loader("second")
    loading = await start_holder(cache, loader, mode="store_only")
    plain.persist(KEY)
    other = load(cache, second)
    await wait_for_lease(cache)
    loader.release()
    assert ((await loading).value, (await other).value) == ("first", "first")
    assert second.calls == 0


@pytest.mark.parametrize(
    ("data", "life"), [(WELL_FORMED, None), (WELL_FORMED, HOUR_MS), (b"tc:lease:\xff", 5000)], ids=repr
)
async def test_explain_reports_an_orphan(
    cache: AgentCache, plain: valkey.Valkey, data: bytes, life: int | None
) -> None:
    plain.set(KEY, data, px=life)
    report = await cache.kv.explain("k")
    assert (report.source, report.l2, report.lease_holder, report.holds_lease) == (None, "orphaned", None, False)
    assert "no load renews" in str(report)
    assert plain.get(KEY) == data
