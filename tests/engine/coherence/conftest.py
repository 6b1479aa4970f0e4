"""Replicas as users have them: with announcements, and with invalidations from the server."""

from __future__ import annotations

import pytest

from tests.support import MakeCache
from tiercache import AgentCache


@pytest.fixture
async def tracked(make_cache: MakeCache) -> tuple[AgentCache, AgentCache]:
    """Return two opened caches of one name, with every option at its default."""
    a, b = (make_cache(name="test") for _ in range(2))
    await a.open()
    await b.open()
    return a, b
