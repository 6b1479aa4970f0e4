"""Session caches on Valkey, and in process memory alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support import MakeCache
from tiercache import AgentCache


@pytest.fixture(params=["valkey", "memory"])
def make_either(request: pytest.FixtureRequest, make_cache: MakeCache) -> MakeCache:
    """Return a function that makes caches on Valkey, then one that makes caches in process memory alone."""
    if request.param == "valkey":
        return lambda **options: make_cache(name="test", **options)
    return lambda **options: AgentCache.in_memory(name="test", **options)


@pytest.fixture
async def either(make_either: MakeCache) -> AsyncIterator[AgentCache]:
    """Return an opened cache on Valkey, then one in process memory alone."""
    async with make_either() as cache:
        yield cache
