"""Trimming: indexes forget keys that are gone, and keep all others."""

from __future__ import annotations

import time

import valkey

from tests.seams import internals
from tiercache import AgentCache

INDEX = "test:__tc:idx:tag:t"


async def test_index_forgets_members_without_keys_after_a_minute(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", 1, tags=["t"])
    now = int(time.time() * 1000)
    plain.zadd(INDEX, {f"gone{i}": now - 61_000 for i in range(2500)})
    plain.zadd(INDEX, {"young": now - 50_000})
    await internals(cache).trim_indexes()
    assert set(plain.zrange(INDEX, 0, -1)) == {b"test:__tc:kv:kv:k", b"young"}


async def test_index_keeps_members_with_keys_at_any_age(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", 1, tags=["t"])
    plain.zadd(INDEX, {"test:__tc:kv:kv:k": 1})
    await internals(cache).trim_indexes()
    assert await cache.invalidate_tag("t") == 1


async def test_index_is_trimmed_once_after_each_addition(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", 1, tags=["t"])
    await internals(cache).trim_indexes()
    plain.zadd(INDEX, {"gone": 1})
    await internals(cache).trim_indexes()
    assert plain.zscore(INDEX, "gone") == 1
    await cache.kv.set("k", 2, tags=["t"])
    await internals(cache).trim_indexes()
    assert plain.zscore(INDEX, "gone") is None
