"""Caches with and without leases: what one process guards by itself must hold without them too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tiercache import AgentCache, TierOptions

MakeCache = Callable[..., AgentCache]


async def _opened(make_cache: MakeCache, *, lease: bool) -> AgentCache:
    cache = make_cache(name="test", llm=TierOptions(lease=lease), kv=TierOptions(lease=lease))
    await cache.open()
    return cache


@pytest.fixture
async def unleased(make_cache: MakeCache) -> AgentCache:
    """An opened cache whose loads take no leases: only the fences of this process keep older values out."""
    return await _opened(make_cache, lease=False)


@pytest.fixture(params=[True, False], ids=["with leases", "without leases"])
async def either(make_cache: MakeCache, request: pytest.FixtureRequest) -> AgentCache:
    """An opened cache of the one kind, then of the other."""
    return await _opened(make_cache, lease=request.param)
