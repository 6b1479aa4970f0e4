"""Helpers that many tests use: waiting for a condition, the entries on the server, a thread, a stalling proxy."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import prometheus_client
import pytest
import valkey

from tiercache import AgentCache, CoherenceOptions
from tiercache.engine.coherence.placeholders import is_placeholder

# For tests of tasks that have not taken their first step yet: an eager task takes it while it is made.
NOT_EAGER = pytest.mark.skipif(bool(os.environ.get("TIERCACHE_EAGER")), reason="an eager task has taken its first step")

# The fixture ``make_cache``.
MakeCache: TypeAlias = Callable[..., AgentCache]
# The fixtures ``replicas`` and ``tracked``.
Pair: TypeAlias = tuple[AgentCache, AgentCache]

# The key in Valkey that holds the number of the last change of the cache named "test".
SEQUENCE = "test:__tc:sequence"
# A replica with this option receives announcements over the bus alone, and no invalidations from the server itself.
UNTRACKED = CoherenceOptions(tracking="off")


# The registries that a cache of betterdb-agent-cache has seen. It remembers their metrics by the id of the registry, so
# that none may be freed and leave its id to another.
_REGISTRIES: list[prometheus_client.CollectorRegistry] = []


def kept_registry(**options: Any) -> prometheus_client.CollectorRegistry:
    """Return a new registry of metrics, for a cache of betterdb-agent-cache too."""
    _REGISTRIES.append(prometheus_client.CollectorRegistry(**options))
    return _REGISTRIES[-1]


# Keys of the cache that hold no entry, by the beginning of their names.
_OWN_KEYS = ("alive", "sequence", "idx:", "indexe", "evicted", "looked", "others", "live:")


async def until(condition: Callable[[], Any], seconds: float = 4.0) -> None:
    """Return once ``condition``, plain or async, holds; fail if it does not within ``seconds``."""
    give_up_at = time.monotonic() + seconds
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < give_up_at, f"the condition does not hold after {seconds} s"
        await asyncio.sleep(0.005)


async def settled() -> None:
    """Return when no load runs in the background."""
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "tiercache-load"])


async def collect_generators() -> None:
    """Collect garbage, and let the loop close the asynchronous generators in it.

    The SDKs of model providers leave such generators behind when a stream fails; the loop closes each in a task.
    """
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)


def distrusted(cache: AgentCache) -> int:
    """Return how often ``cache`` dropped its L1 because it may have missed a change."""
    return cache.local_stats().distrusted_count


def entry_keys(plain: valkey.Valkey) -> list[str]:
    """Return the keys on the server that hold entries, sorted; statistics, indexes and leases are left out."""
    keys = (key.decode(errors="backslashreplace") for key in plain.scan_iter(count=1000))
    own = ("__betterdb:", ":__stats", *(f":__tc:{name}" for name in _OWN_KEYS))
    entries = (key for key in keys if not any(part in key for part in own))
    # The placeholder of a load that has just failed may still be there.
    return sorted(key for key in entries if plain.type(key) != b"string" or not is_placeholder(plain.get(key) or b""))


REGISTER = "test:__tc:indexes"


def make_due(plain: valkey.Valkey) -> None:
    """Let a trim look at every index of the cache "test" now; an index is due a minute after its first use."""
    for index in plain.zrange(REGISTER, 0, -1):
        plain.zadd(REGISTER, {index: 1})


def run_in_thread(work: Callable[[], object]) -> None:
    """Run ``work`` in a new thread, which has no event loop yet; raise its error here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


class StallingProxy:
    """A TCP proxy in front of a server on a Unix socket that holds the data of a client from a given text on.

    Attributes:
        stall_at: Data with this text, and all later data of its connection, passes only after ``release``.
        splits: Whether the part of the data in front of the text passes at once.
        delay: Seconds by which the proxy delays all other data of clients.
    """

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("unix://")
        self.stall_at: bytes | None = None
        self.splits = False
        self.delay = 0.0
        self.stalled = asyncio.Event()
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"valkey://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    def lead_to(self, url: str) -> None:
        """Lead new connections to the server at ``url``. Connections that are open stay where they are."""
        self._path = url.removeprefix("unix://")

    def release(self) -> None:
        """Pass the held data on."""
        self._released.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._path)
        # Data reaches the server even after the client has closed its connection, as in a network.
        answers = asyncio.ensure_future(self._pass(inner_reader, writer))
        try:
            await self._pass_slowly(reader, inner_writer)
            await answers
        finally:
            answers.cancel()
            writer.close()
            inner_writer.close()
            closing = asyncio.gather(answers, writer.wait_closed(), inner_writer.wait_closed(), return_exceptions=True)
            await asyncio.shield(closing)

    async def _pass_slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.stall_at is not None and self.stall_at in data:
                if self.splits:
                    start = data.index(self.stall_at)
                    writer.write(data[:start])
                    data = data[start:]
                self.stalled.set()
                await self._released.wait()
            await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
