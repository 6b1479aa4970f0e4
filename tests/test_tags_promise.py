"""The promise of tags in races and refusals: no entry with a tag survives the invalidation of the tag."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import valkey

from tests.requests import Loader, turns
from tests.seams import act_after_reads, caught_up, replace_reads
from tests.support import REGISTER, MakeCache, Pair, until
from tiercache import NO_EXPIRY, AgentCache, L2CommandError

KEY = "test:__tc:kv:kv:k"
INDEX = "test:__tc:idx:tag:doc"


@contextmanager
def evicting(plain: valkey.Valkey) -> Iterator[None]:
    """While the block runs, let the server have a policy that evicts."""
    plain.config_set("maxmemory-policy", "allkeys-lru")
    try:
        yield
    finally:
        plain.config_set("maxmemory-policy", "noeviction")


async def one(cache: AgentCache, loader: Callable[[], Any], **options: Any) -> Any:
    """Return the value of ``get_or_load``."""
    return (await cache.kv.get_or_load("k", loader, **options)).value


async def many(cache: AgentCache, loader: Callable[[], Any], **options: Any) -> Any:
    """Return the value of ``get_or_load_many``."""

    async def load(keys: Sequence[str]) -> list[Any]:
        return [await loader() for _ in keys]

    return (await cache.kv.get_or_load_many(["k"], load, **options))["k"]


async def test_tag_of_a_waiter_is_in_its_index_while_the_load_runs(replicas: Pair, plain: valkey.Valkey) -> None:
    """The message of the invalidation may be lost: the load loses its right to store in Valkey."""
    a, b = replicas
    loader = Loader("older", held=True)
    first = asyncio.create_task(a.kv.get_or_load("k", loader))
    await loader.started.wait()
    second = asyncio.create_task(a.kv.get_or_load("k", loader, tags=["doc"]))
    await until(lambda: plain.zscore(INDEX, KEY))
    await b.invalidate_tag("doc")
    assert not plain.exists(KEY)
    loader.release()
    await asyncio.gather(first, second)
    await a.flush_writes()
    assert not plain.exists(KEY)


@pytest.mark.parametrize("get", [one, many])
async def test_call_whose_entry_lacks_its_tag_returns_nothing_that_a_joined_flight_reads(
    replicas: Pair, get: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is gone when the call adds its tag; the call then joins a flight, which cannot add the tag either."""
    a, b = replicas
    await b.kv.set("k", "older")
    flights: list[asyncio.Task[Any]] = []
    is_started = False
    reading, missed, stored = asyncio.Event(), asyncio.Event(), asyncio.Event()
    has_value = get is many  # ``get_or_load_many`` reads its value by another command.

    async def read(real: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal has_value, is_started
        if not has_value:
            has_value = True
            return await real()
        if not is_started:
            is_started = True
            # The call adds its tag. Another caller starts a flight, and the entry is gone.
            a.clear_l1()
            flights.append(asyncio.create_task(a.kv.get_or_load("k", Loader("unused"))))
            await reading.wait()
            missed.set()
            return None
        if not reading.is_set():
            reading.set()
            await stored.wait()
            return await real()
        # The call adds its tag to the entry that the flight has read.
        return None

    replace_reads(monkeypatch, read)
    call = asyncio.create_task(get(a, Loader("loaded"), tags=["doc"]))
    await missed.wait()
    await turns(10)
    stored.set()
    assert await call == "loaded"
    await asyncio.gather(*flights)


async def test_index_lives_as_long_as_an_entry_whose_life_has_just_grown(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process stores the same bytes with a longer life between the read and the write of the tag."""
    cache = make_cache(name="test")
    await cache.kv.set("k", "older", ttl=20)
    cache.clear_l1()
    lives = iter((20, 5000, 5000, 5000))
    act_after_reads(monkeypatch, lambda: plain.expire(KEY, next(lives)))
    assert await one(cache, Loader(), tags=["doc"]) == "older"
    assert plain.ttl(KEY) > 4000
    assert plain.ttl(INDEX) > plain.ttl(KEY)


async def test_index_does_not_end_before_an_entry_that_has_just_lost_its_end(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("k", "older", ttl=20)
    cache.clear_l1()
    act_after_reads(monkeypatch, lambda: plain.persist(KEY))
    assert await one(cache, Loader(), tags=["doc"]) == "older"
    assert plain.ttl(INDEX) == -1


async def test_entry_whose_tag_the_index_has_refused_is_not_kept(
    make_cache: MakeCache, plain: valkey.Valkey, url: str
) -> None:
    """Otherwise a process with all rights would read the tag in the entry, and take the key for indexed."""
    other = make_cache(name="test")
    await other.kv.set("k", "older")
    other.clear_l1()
    plain.acl_setuser(
        "own",
        enabled=True,
        passwords=["+pw"],
        categories=["+@all"],
        channels=["*"],
        keys=["test:__tc:kv:*", "test:__tc:s*", "test:__stats", "__betterdb:*"],
    )
    try:
        async with AgentCache.from_url(f"{url}?username=own&password=pw", name="test") as cache:
            result = await cache.kv.get_or_load("k", Loader("newer"), tags=["doc"], mode="only_cached")
            assert result.source is None
            await cache.flush_writes()
    finally:
        plain.acl_deluser("own")
    value = await one(other, Loader("newest"), tags=["doc"])
    await other.flush_writes()
    assert value == "newest"
    assert await other.invalidate_tag("doc") == 1


async def test_sweep_that_may_not_read_entries_is_refused(
    make_cache: MakeCache, plain: valkey.Valkey, url: str
) -> None:
    await make_cache(name="test").kv.set("k", "older", tags=["doc"])
    plain.delete(INDEX)
    plain.set("test:__tc:evicted", 1)
    plain.acl_setuser(
        "own", enabled=True, passwords=["+pw"], categories=["+@all"], commands=["-getrange"], channels=["*"], keys=["*"]
    )
    try:
        with evicting(plain):
            async with AgentCache.from_url(f"{url}?username=own&password=pw", name="test") as cache:
                with pytest.raises(L2CommandError):
                    await cache.invalidate_tag("doc")
        async with AgentCache.from_url(f"{url}?username=own&password=pw", name="test") as cache:
            with pytest.raises(L2CommandError):
                await cache.reindex()
    finally:
        plain.acl_deluser("own")
    assert plain.exists("test:__tc:evicted")


async def test_first_look_at_the_keys_completes_no_index_of_a_tag(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """The look finds no entry whose index is in doubt for other software, but an entry of a kv tier is there."""
    await make_cache(name="test").kv.set("k", "older", tags=["doc"])
    # As while the server evicts keys.
    plain.delete(INDEX, "test:__tc:indexed")
    plain.set("test:__tc:evicted", 1)
    cache = make_cache(name="test")
    await cache.open()
    assert plain.exists("test:__tc:indexed")
    assert await cache.invalidate_tag("doc") == 1


async def test_copy_that_lacks_a_tag_goes_although_entry_and_index_were_evicted(
    replicas: Pair, plain: valkey.Valkey
) -> None:
    a, b = replicas
    await a.kv.set("k", "older")
    assert await b.kv.get("k") == "older"
    with evicting(plain):
        assert await one(a, Loader(), tags=["doc"]) == "older"
        plain.delete(KEY, INDEX)
        await a.invalidate_tag("doc")
        await caught_up(b, plain)
        assert await b.kv.get("k") is None


async def test_register_lives_as_long_as_an_index_that_has_just_lost_its_end(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("k", 1, ttl=20, tags=["doc"])
    await cache.kv.set("k", 1, ttl=NO_EXPIRY, tags=["doc"])
    assert plain.ttl(INDEX) == -1
    assert plain.ttl(REGISTER) == -1
