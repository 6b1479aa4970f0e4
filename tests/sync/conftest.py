"""Fixtures of the sync face: a face on the server, and a check that no private thread is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tiercache import AgentCache, SyncCache


@pytest.fixture
def sync(url: str) -> Iterator[SyncCache]:
    """Return the open sync face of a cache on the server, whose async face is never used."""
    with AgentCache.from_url(url, name="test").sync as sync:
        yield sync


@pytest.fixture(autouse=True)
def _thread_check() -> Iterator[None]:
    """Fail a test that leaves a private thread, or a thread of a loader."""
    yield
    give_up_at = time.monotonic() + 10
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("tiercache-sync")]:
        assert time.monotonic() < give_up_at, left
        time.sleep(0.01)
