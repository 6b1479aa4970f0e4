"""Several processes on one server: they share one load, also when the process that loads is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import valkey

from tests.requests import Loader
from tests.support import MakeCache, until
from tiercache import CoherenceOptions

ROOT = Path(__file__).parents[1]
WORKERS = 8

# A worker: it opens a cache, reports that it is ready, waits for the start, loads, and reports the source of its value.
WORKER = """
import asyncio, sys
import valkey, valkey.asyncio
from tiercache import AgentCache, CoherenceOptions

url, seconds, lease_ttl, follows = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
plain = valkey.Valkey.from_url(url)

async def load():
    plain.incr("loads")
    await asyncio.sleep(seconds)
    return "loaded"

async def main():
    options = CoherenceOptions(lease_ttl=lease_ttl)
    async with AgentCache.from_url(url, name="test", coherence=options) as cache:
        plain.incr("ready")
        while not await asyncio.to_thread(plain.get, "go"):
            await asyncio.sleep(0.005)
        result = await cache.kv.get_or_load("k", load)
        plain.rpush("sources", result.source)
        if follows == "follow":
            while await cache.kv.get("k") == "loaded":
                await asyncio.sleep(0.005)
            plain.rpush("received", str(await cache.kv.get("k")))

asyncio.run(main())
"""


class Workers:
    """Worker processes, which the fixture ends with the test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, *, load_seconds: float, lease_ttl: float = 10, follows: bool = False) -> None:
        arguments = (self._url, str(load_seconds), str(lease_ttl), "follow" if follows else "")
        self.processes.append(await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, *arguments, cwd=ROOT))

    async def finished(self) -> list[int]:
        """Return the exit codes."""
        return list(await asyncio.gather(*(process.wait() for process in self.processes)))

    async def end(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def workers(url: str) -> AsyncIterator[Workers]:
    workers = Workers(url)
    yield workers
    await workers.end()


@pytest.mark.timeout(30)
async def test_processes_coalesce_stampede_into_one_load(workers: Workers, plain: valkey.Valkey) -> None:
    for _ in range(WORKERS):
        await workers.start(load_seconds=0.3)
    await until(lambda: int(plain.get("ready") or 0) == WORKERS, seconds=20)
    plain.set("go", 1)
    assert await workers.finished() == [0] * WORKERS
    assert plain.get("loads") == b"1"
    assert sorted(plain.lrange("sources", 0, -1)) == [b"l2"] * (WORKERS - 1) + [b"loader"]


@pytest.mark.timeout(30)
async def test_processes_receive_a_change(workers: Workers, plain: valkey.Valkey, make_cache: MakeCache) -> None:
    for _ in range(WORKERS):
        await workers.start(load_seconds=0, follows=True)
    await until(lambda: int(plain.get("ready") or 0) == WORKERS, seconds=20)
    plain.set("go", 1)
    await until(lambda: plain.llen("sources") == WORKERS, seconds=10)
    cache = make_cache(name="test")
    await cache.kv.set("k", "changed")
    assert await workers.finished() == [0] * WORKERS
    assert plain.lrange("received", 0, -1) == [b"changed"] * WORKERS


@pytest.mark.timeout(30)
async def test_processes_load_after_lease_of_killed_process_expires(
    workers: Workers, plain: valkey.Valkey, make_cache: MakeCache
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=1))
    await cache.open()
    await workers.start(load_seconds=60, lease_ttl=1)
    plain.set("go", 1)
    await until(lambda: plain.get("loads") == b"1", seconds=15)
    loader = Loader("ours")
    loading = asyncio.create_task(cache.kv.get_or_load("k", loader))
    await until(lambda: cache.local_stats().tiers["kv"].lease_waits == 1)
    # The holder lives, and renews its lease.
    began = time.monotonic()
    await until(lambda: time.monotonic() > began + 1.2)
    assert loader.calls == 0
    workers.processes[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    result = await loading
    assert time.monotonic() - killed < 1 + 1
    assert (result.value, result.source) == ("ours", "loader")
    await cache.flush_writes()
    assert plain.get(result.key) == b"sours"
