"""Fixtures of the adapters of Google ADK: a server that a test kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import valkey

from tiercache.embedded import EmbeddedValkey


@pytest.fixture
def mortal_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """Return the URL of a server for this test alone, and a function that kills the server."""
    server = EmbeddedValkey()
    server.start()
    with valkey.Valkey.from_url(server.url) as client:
        pid = client.info("server")["process_id"]
    yield server.url, lambda: os.kill(pid, signal.SIGKILL)
    server.stop()
