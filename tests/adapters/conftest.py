"""Fixtures of all adapters: caches for plain code, and a server that a test kills."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.mortal_server import MortalServer
from tiercache import AgentCache
from tiercache.embedded import EmbeddedValkey


@pytest.fixture
def plain_cache(url: str) -> Iterator[AgentCache]:
    """Return a cache on the server whose async face is never used."""
    cache = AgentCache.from_url(url, name="test")
    yield cache
    cache.sync.close()


@pytest.fixture
def plain_memory() -> Iterator[AgentCache]:
    """Return a cache in process memory alone whose async face is never used."""
    cache = AgentCache.in_memory()
    yield cache
    cache.sync.close()


@pytest.fixture
def mortal_server() -> Iterator[MortalServer]:
    """Return a server for this test alone, which the test may kill."""
    server = EmbeddedValkey()
    server.start()
    yield MortalServer(server.url)
    server.stop()
