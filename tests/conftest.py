"""Fixtures: one real Valkey for each test process, emptied before each test, and a leak check after each test."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import valkey

from tests.providers import ProviderServer
from tests.support import UNTRACKED, MakeCache
from tiercache import AgentCache
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

_EAGER_FOLDER: Final = Path(__file__).parent / "eager"
# Tests between two freezes: the objects of pytest and Hypothesis that outlive a test make each collection slower.
_TESTS_A_FREEZE: Final = 100


class _Frozen:
    """The state at the last freeze of the garbage collector."""

    # An SDK, imported by the first test that needs it, has a million objects.
    module_count = 0
    test_count = 0


def pytest_configure(config: pytest.Config) -> None:
    """With ``TIERCACHE_EAGER=1``, run every test and its child processes on loops with the eager task factory."""
    if os.environ.get("TIERCACHE_EAGER"):
        if not hasattr(asyncio, "eager_task_factory"):
            raise pytest.UsageError("TIERCACHE_EAGER needs Python 3.12 or newer")
        importlib.import_module("tests.eager.sitecustomize")
        paths = [str(_EAGER_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    """Return the running server of this test process."""
    server = EmbeddedValkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server() -> Iterator[tuple[EmbeddedValkey, int]]:
    """Return a server for this test alone, and its process id; a test may stop the process."""
    server = EmbeddedValkey()
    server.start()
    with valkey.Valkey.from_url(server.url) as client:
        pid = client.info("server")["process_id"]
    yield server, pid
    os.kill(pid, signal.SIGCONT)
    server.stop()


@pytest.fixture
def plain(server: EmbeddedValkey) -> Iterator[valkey.Valkey]:
    """Return a blocking client of the emptied server, by which a test reads and changes keys behind tiercache."""
    with valkey.Valkey.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def url(server: EmbeddedValkey, plain: valkey.Valkey) -> str:
    """Return the URL of the emptied server."""
    return server.url


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[ChaosProxy]:
    """Return a proxy in front of the server, by which a test injects network faults."""
    async with ChaosProxy(url) as proxy:
        yield proxy


@pytest.fixture
async def make_cache(url: str) -> AsyncIterator[MakeCache]:
    """Return a function that makes caches on the server; they are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> AgentCache:
            cache = AgentCache.from_url(url, **options)
            stack.push_async_callback(cache.aclose)
            return cache

        yield make


@pytest.fixture
async def cache(make_cache: MakeCache) -> AgentCache:
    """Return an opened cache on the server."""
    cache = make_cache(name="test")
    await cache.open()
    return cache


@pytest.fixture
async def memory() -> AsyncIterator[AgentCache]:
    """Return a cache in process memory alone, without a second level."""
    async with AgentCache.in_memory() as cache:
        yield cache


@pytest.fixture
async def replicas(make_cache: MakeCache) -> tuple[AgentCache, AgentCache]:
    """Return two opened caches of one name, which receive announcements over the bus alone."""
    a, b = (make_cache(name="test", coherence=UNTRACKED) for _ in range(2))
    await a.open()
    await b.open()
    return a, b


@pytest.fixture
async def peer(url: str) -> AsyncIterator[Any]:
    """Return a cache of betterdb-agent-cache on the server, under the same name as ``cache``."""
    from tests.peers import betterdb_cache  # It imports the whole peer library.

    async with betterdb_cache(url) as cache:
        yield cache


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    """Return a local server that speaks the APIs of model providers."""
    with ProviderServer() as provider:
        yield provider


@pytest.fixture(scope="session", autouse=True)
def _collect_only_garbage_of_tests() -> Iterator[None]:
    """Keep modules and the list of tests, nearly all objects, out of the garbage collection after each test."""
    _freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Keep also the objects that outlive tests out of the later collections, once no fixture of a test is left."""
    yield
    _Frozen.test_count += 1
    if _Frozen.test_count == _TESTS_A_FREEZE or len(sys.modules) != _Frozen.module_count:
        _freeze()


def _freeze() -> None:
    """Collect the garbage, and keep all other objects out of later collections."""
    gc.collect()
    gc.freeze()
    _Frozen.module_count, _Frozen.test_count = len(sys.modules), 0


@pytest.fixture(autouse=True)
async def _leak_check() -> AsyncIterator[None]:
    """Fail a test that leaves a task, or an exception that was never retrieved."""
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
