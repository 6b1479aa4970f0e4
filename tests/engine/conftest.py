"""Caches with and without leases: the guards within one process must hold without leases too."""

from __future__ import annotations

import pytest

from tests.support import MakeCache
from tiercache import AgentCache, TierOptions


async def _opened(make_cache: MakeCache, *, lease: bool) -> AgentCache:
    cache = make_cache(name="test", llm=TierOptions(lease=lease), kv=TierOptions(lease=lease))
    await cache.open()
    return cache


@pytest.fixture
async def unleased(make_cache: MakeCache) -> AgentCache:
    """Return an opened cache whose loads take no leases: only fences keep older values out."""
    return await _opened(make_cache, lease=False)


@pytest.fixture(params=[True, False], ids=["with leases", "without leases"])
async def either(make_cache: MakeCache, request: pytest.FixtureRequest) -> AgentCache:
    """Return an opened cache with leases, then one without."""
    return await _opened(make_cache, lease=request.param)
