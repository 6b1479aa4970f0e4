"""One real Valkey for each test process, emptied before each test, and a check that no test leaves a task behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import valkey
import valkey.asyncio

from tiercache import AgentCache
from tiercache.embedded import EmbeddedValkey


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    """A running server for this test process."""
    server = EmbeddedValkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server() -> Iterator[tuple[EmbeddedValkey, int]]:
    """A server of this test's own, and its process id."""
    server = EmbeddedValkey()
    server.start()
    with valkey.Valkey.from_url(server.url) as client:
        pid = client.info("server")["process_id"]
    yield server, pid
    os.kill(pid, signal.SIGCONT)
    server.stop()


@pytest.fixture
def plain(server: EmbeddedValkey) -> Iterator[valkey.Valkey]:
    """A blocking client of the emptied server: what somebody other than tiercache sees."""
    with valkey.Valkey.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def url(server: EmbeddedValkey, plain: valkey.Valkey) -> str:
    """The URL of the emptied server."""
    return server.url


@pytest.fixture
async def make_cache(url: str) -> AsyncIterator[Callable[..., AgentCache]]:
    """Make caches on the server, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> AgentCache:
            cache = AgentCache.from_url(url, **options)
            stack.push_async_callback(cache.aclose)
            return cache

        yield make


@pytest.fixture
async def cache(make_cache: Callable[..., AgentCache]) -> AgentCache:
    """An opened cache on the server."""
    cache = make_cache(name="test")
    await cache.open()
    return cache


@pytest.fixture(scope="session", autouse=True)
def _only_what_tests_make_is_collected() -> Iterator[None]:
    """Keep modules and the list of tests out of the collection behind each test, of which they are nearly all."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
async def _nothing_left_running() -> AsyncIterator[None]:
    """Fail a test that leaves a task, or an exception that nobody has retrieved."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left
    assert not problems
