"""Fixtures of wrapped clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.adapters.http.callers import NewCaller, callers_of
from tests.providers import ProviderServer
from tests.support import MakeCache


@pytest.fixture
async def new_caller(make_cache: MakeCache, provider: ProviderServer) -> AsyncIterator[NewCaller]:
    """Return a function that returns a caller: a wrapped client of the provider, for a cache of its own."""
    async with callers_of(provider) as new:
        yield lambda **options: new(make_cache(name="test", **options))
