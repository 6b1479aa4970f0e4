"""Changes of one key during a batch, and the values in both levels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tiercache import MISS, AgentCache

CHANGES: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "set": lambda cache: cache.kv.set("a", "stored"),
    "set_many": lambda cache: cache.kv.set_many({"a": "stored"}),
    "delete": lambda cache: cache.kv.delete("a"),
    "delete_many": lambda cache: cache.kv.delete_many(["a"]),
    "clear": lambda cache: cache.kv.clear(),
    "delete_pattern": lambda cache: cache.kv.delete_pattern("*"),
}
each_change = pytest.mark.parametrize("change", CHANGES)


async def in_both_levels(cache: AgentCache, key: str = "a") -> tuple[Any, Any]:
    """Return the values of ``key`` in L1 and in Valkey, MISS for none; clears L1."""
    await cache.flush_writes()
    hits = cache.local_stats().tiers["kv"].l1_hits
    value = await cache.kv.get(key, MISS)
    l1 = value if cache.local_stats().tiers["kv"].l1_hits > hits else MISS
    cache.clear_l1()
    return l1, await cache.kv.get(key, MISS)


def values_after(change: str) -> tuple[Any, Any]:
    """Return the values in L1 and in Valkey after ``change``."""
    return ("stored", "stored") if change.startswith("set") else (MISS, MISS)
