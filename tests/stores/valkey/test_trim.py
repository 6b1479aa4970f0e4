"""Trimming: indexes forget keys that are gone, and keep all others; every index of ours ends."""

from __future__ import annotations

import asyncio
import time

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import internals
from tests.support import REGISTER, MakeCache, make_due, until
from tiercache import NO_EXPIRY, AgentCache, CoherenceOptions, LlmResponse

INDEX = "test:__tc:idx:tag:t"


async def test_index_forgets_members_without_keys_after_a_minute(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", 1, tags=["t"])
    now = int(time.time() * 1000)
    plain.zadd(INDEX, {f"gone{i}": now - 61_000 for i in range(2500)})
    plain.zadd(INDEX, {"young": now - 50_000})
    make_due(plain)
    await internals(cache).trim_indexes()
    assert set(plain.zrange(INDEX, 0, -1)) == {b"test:__tc:kv:kv:k", b"young"}


async def test_index_keeps_members_with_keys_at_any_age(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", 1, tags=["t"])
    plain.zadd(INDEX, {"test:__tc:kv:kv:k": 1})
    make_due(plain)
    await internals(cache).trim_indexes()
    assert await cache.invalidate_tag("t") == 1


async def test_index_is_trimmed_by_one_process_in_two_minutes(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    first, second = make_cache(name="test"), make_cache(name="test")
    await first.kv.set("k", 1, tags=["t"])
    await second.open()
    await internals(first).trim_indexes()
    assert plain.zscore(REGISTER, INDEX) > 1  # Not due yet: a trim at once would find only young members.
    make_due(plain)
    await internals(first).trim_indexes()
    plain.zadd(INDEX, {"gone": 1})
    await internals(second).trim_indexes()
    assert plain.zscore(INDEX, "gone") == 1
    make_due(plain)
    await internals(second).trim_indexes()
    assert plain.zscore(INDEX, "gone") is None


async def test_index_is_trimmed_by_a_process_that_never_used_it(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """The process that wrote 300 entries without an expiry is gone, and so are the entries."""
    writer, other = make_cache(name="test"), make_cache(name="test")
    await writer.kv.set_many({str(n): n for n in range(100)})
    for n in range(300):
        await writer.kv.set(f"k{n}", 1, ttl=NO_EXPIRY, tags=[f"tag{n}"])
    await writer.aclose()
    plain.delete(*(f"test:__tc:kv:kv:k{n}" for n in range(300)))
    assert len(plain.keys("test:__tc:idx:*")) == 300
    for index in plain.keys("test:__tc:idx:*"):
        for member in plain.zrange(index, 0, -1):
            plain.zadd(index, {member: 1})
    make_due(plain)
    await other.open()
    await internals(other).trim_indexes()
    assert plain.keys("test:__tc:idx:*") == []
    assert not plain.exists(REGISTER)


async def test_index_lives_a_minute_longer_than_its_entries(cache: AgentCache, plain: valkey.Valkey) -> None:
    tool, model = "test:__tc:idx:tool:t", "test:__tc:idx:model:gpt-4o"
    await cache.tool.store("t", {}, "x", ttl=100, tags=["t"])
    await cache.llm.store(HELLO, "x", ttl=50, tags=["t"])
    for index, life in ((tool, 160), (model, 110), (INDEX, 160)):
        assert life - 10 < plain.pttl(index) / 1000 <= life
    await cache.tool.store("t", {"n": 1}, "x", ttl=10)
    assert plain.ttl(tool) > 140
    await cache.tool.store("t", {"n": 1}, "x", ttl=NO_EXPIRY)
    await cache.tool.store("t", {"n": 2}, "x", ttl=10)
    assert plain.ttl(tool) == -1
    assert plain.ttl(REGISTER) == -1  # An index without an end is listed in it.


async def test_register_of_indexes_lives_as_long_as_the_indexes(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test")
    await cache.kv.set("k", 1, ttl=20, tags=["t"])
    assert 70 < plain.ttl(REGISTER) <= 80
    await cache.kv.set("k", 1, ttl=NO_EXPIRY, tags=["forever"])
    assert plain.ttl(REGISTER) == -1


async def test_index_of_a_loaded_entry_outlives_a_ttl_that_the_loader_chose(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """The lease registers the key before the loader has chosen a lifetime."""
    cache = make_cache(name="test", default_ttl=5)
    await cache.llm.get_or_load(HELLO, lambda: "x", tags=["t"])
    await cache.flush_writes()
    assert 55 < plain.ttl(INDEX) <= 65
    await cache.llm.get_or_load(HELLO, lambda: LlmResponse("x", ttl=500), tags=["t"], mode="refresh")
    await cache.llm.get_or_load(asking("other"), lambda: LlmResponse("x", ttl=700))
    await cache.flush_writes()
    assert 550 < plain.ttl(INDEX) <= 560
    assert 750 < plain.ttl("test:__tc:idx:model:gpt-4o") <= 760


async def test_index_does_not_end_during_a_load_that_takes_longer(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    """Its entry will live for a second, and the loader takes longer than the index would live."""
    cache = make_cache(name="test", default_ttl=1, coherence=CoherenceOptions(lease_ttl=0.3))
    loader = Loader(held=True)
    loading = asyncio.create_task(cache.kv.get_or_load("k", loader, tags=["t"]))
    await loader.started.wait()
    plain.delete(INDEX)  # In production the index expires by itself.
    await until(lambda: plain.exists(INDEX))
    assert await cache.invalidate_tag("t") == 0
    loader.release()
    await loading
    await cache.flush_writes()
    assert await cache.kv.get("k") is None


async def test_members_have_the_time_of_the_server(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose clock is an hour ahead must not keep members of deleted keys for that hour."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    cache = make_cache(name="test")
    await cache.kv.set("k", 1, tags=["t"])
    seconds, microseconds = plain.time()
    assert plain.zscore(INDEX, "test:__tc:kv:kv:k") <= seconds * 1000 + microseconds / 1000
    await cache.reindex()
    seconds, microseconds = plain.time()
    assert plain.zscore(INDEX, "test:__tc:kv:kv:k") <= seconds * 1000 + microseconds / 1000
