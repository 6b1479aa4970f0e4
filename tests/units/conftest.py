"""Fixtures: a fakeredis client, and caches on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import fakeredis
import pytest

from tests.support import UNTRACKED, MakeCache
from tiercache import AgentCache


@pytest.fixture
async def fake() -> AsyncIterator[fakeredis.FakeAsyncValkey]:
    """Return a client of an empty fakeredis server."""
    async with fakeredis.FakeAsyncValkey(server=fakeredis.FakeServer()) as client:
        yield client


@pytest.fixture
async def make_fake(fake: fakeredis.FakeAsyncValkey) -> AsyncIterator[MakeCache]:
    """Return a function that makes caches named "test" on the fakeredis server; they are closed with the test."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> AgentCache:
            cache = AgentCache(fake, **{"name": "test", "coherence": UNTRACKED, **options})
            stack.push_async_callback(cache.aclose)
            return cache

        yield make
