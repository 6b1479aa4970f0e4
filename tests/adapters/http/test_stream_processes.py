"""Streams of wrapped clients in real processes: one upstream stream, live parts, and a holder that is killed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import valkey

from tests.adapters.http.callers import exchanges, library, live_streams, placeholders
from tests.providers import Gate, ProviderServer, Script
from tests.support import until

ROOT: Final = Path(__file__).parents[3]
TEXT: Final = "Answer 1: part 1 part 2 part 3 part 4"

# A process: it opens a cache and reports it, waits for the start, streams the same call several times at once, and
# reports each part that each reader gets, then the outcome.
READERS: Final = """
import asyncio, json, sys
from importlib import import_module
import valkey
from tiercache import AgentCache, CoherenceOptions

url, provider, name, count, lease_ttl, library = sys.argv[1:]
plain = valkey.Valkey.from_url(url)
lib = import_module(library)
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "stream": True}

async def read(client, number):
    text, error = "", ""
    try:
        async with client.stream("POST", "chat/completions", json=BODY) as response:
            plain.incr("begun")
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        part = choice["delta"].get("content") or ""
                        text += part
                        if part:
                            plain.hincrby("parts", f"{name}:{number}")
    except Exception as failure:
        error = type(failure).__name__
    plain.rpush("outcomes", json.dumps([name, text, error]))

async def main():
    options = CoherenceOptions(lease_ttl=float(lease_ttl))
    async with AgentCache.from_url(url, name="test", coherence=options) as cache:
        inner = lib.AsyncClient(base_url=provider + "/", timeout=60)
        async with cache.wrap(inner) as client:
            plain.incr("ready")
            while not await asyncio.to_thread(plain.get, f"go:{name}"):
                await asyncio.sleep(0.005)
            await asyncio.gather(*(read(client, number) for number in range(int(count))))
            await read(client, "again")
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("tiercache")]
    plain.rpush("left", len(left))

asyncio.run(main())
"""


class Readers:
    """Processes that stream one call; the fixture ends them with the test."""

    def __init__(self, url: str, provider: ProviderServer, plain: valkey.Valkey) -> None:
        self._url = url
        self._provider = provider
        self._plain = plain
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, *names: str, count: int, lease_ttl: float = 10) -> None:
        """Start a process for each of ``names``, and wait until they are ready."""
        for name in names:
            arguments = (self._url, self._provider.openai_url, name, str(count), str(lease_ttl), library().__name__)
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-c", READERS, *arguments, cwd=ROOT
            )
        await until(lambda: int(self._plain.get("ready") or 0) == len(self.processes), 40)

    def go(self, *names: str) -> None:
        """Let the processes call."""
        for name in names:
            self._plain.set(f"go:{name}", 1)

    async def finished(self) -> list[int]:
        """Return the exit codes."""
        async with asyncio.timeout(50):
            return [await process.wait() for process in self.processes.values()]

    def outcomes(self) -> list[list[str]]:
        """Return the process, the text and the error of each call that has ended."""
        return [json.loads(outcome) for outcome in self._plain.lrange("outcomes", 0, -1)]

    def parts(self) -> dict[str, int]:
        """Return the number of parts that each reader has."""
        return {reader.decode(): int(count) for reader, count in self._plain.hgetall("parts").items()}

    async def end(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def readers(url: str, provider: ProviderServer, plain: valkey.Valkey) -> AsyncIterator[Readers]:
    readers = Readers(url, provider, plain)
    yield readers
    await readers.end()


async def test_stream_of_fifty_callers_in_four_processes_is_one_upstream_stream(
    readers: Readers, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    """Every reader has all parts up to the gate before the gate opens."""
    gates = (Gate(1), Gate(3))
    provider.enqueue(Script(gates=gates))
    names = ("a", "b", "c", "d")
    await readers.start(*names, count=13)
    readers.go(*names)
    for gate in gates:
        await until(lambda gate=gate: list(readers.parts().values()) == [gate.before] * 52, 40)
        gate.release()
    assert await readers.finished() == [0] * 4
    outcomes = readers.outcomes()
    assert len(outcomes) == 56
    assert all(outcome[1:] == [TEXT, ""] for outcome in outcomes)
    assert provider.call_count == 1
    assert plain.lrange("left", 0, -1) == [b"0"] * 4
    assert not placeholders(plain)
    assert len(exchanges(plain)) == 1
    assert all(plain.pttl(key) > 0 for key in live_streams(plain))
    await provider.until(lambda: not provider.open_connection_count)


async def test_stream_of_a_process_that_is_killed_ends_with_an_error_and_the_next_call_begins_again(
    readers: Readers, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    gate = Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    await readers.start("holder", "reader", count=3, lease_ttl=1.5)
    readers.go("holder")
    await until(lambda: list(readers.parts().values()) == [2] * 3, 40)
    readers.go("reader")
    await until(lambda: list(readers.parts().values()) == [2] * 6, 40)
    readers.processes["holder"].kill()
    await provider.until(lambda: provider.hung_up)
    assert (await readers.finished())[1] == 0
    gate.release()
    outcomes = readers.outcomes()
    assert outcomes[:3] == [["reader", "Answer 1: part 1", "RemoteProtocolError"]] * 3
    # The call after them.
    assert outcomes[3:] == [["reader", TEXT.replace("1", "2", 1), ""]]
    assert provider.call_count == 2
    assert plain.lrange("left", 0, -1) == [b"0"]
    stored: Any = [plain.get(key) for key in exchanges(plain)]
    assert len(stored) == 1
    assert b"Answer 2" in stored[0]
    assert not placeholders(plain)
