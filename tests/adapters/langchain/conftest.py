"""Fixtures of the LangChain adapters: a cache for plain code, and no tracing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import valkey

from tiercache import AgentCache
from tiercache.embedded import EmbeddedValkey

# LangChain must not send traces anywhere.
os.environ["LANGSMITH_TRACING"] = "false"


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


class MortalServer:
    """A server that a test kills."""

    def __init__(self, url: str) -> None:
        self.url = url
        with valkey.Valkey.from_url(url) as client:
            self._pid: int | None = client.info("server")["process_id"]

    def kill(self) -> None:
        """Kill the server at once. A second call does nothing."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
        self._pid = None


@pytest.fixture
def mortal_server() -> Iterator[MortalServer]:
    """Return a server for this test alone, which the test may kill."""
    server = EmbeddedValkey()
    server.start()
    yield MortalServer(server.url)
    server.stop()
