"""The figures of the page about capacity: ``python -m benchmarks.capacity`` measures them and prints Markdown tables.

    python -m benchmarks.capacity [--caches 1 8 32 96] [--rounds 3] [--short]

``python -m benchmarks fleet`` measures the costs of a load, a store and an invalidation. Here are the other costs.
Caches of one name, all in this process, follow one private Valkey; the first of them does the work. CPU of the server
is that of ``INFO cpu``, less the CPU that the same caches cost while they are idle. Each figure is the smallest of the
rounds. Nothing is pinned: give the command two cores or more.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, NamedTuple, cast

from valkey import Valkey

from benchmarks.peers import Endpoint
from benchmarks.server import Counters, raise_file_limit, running_valkey
from tiercache import AgentCache, L1Options, SessionOptions, ToolPolicy

__all__ = ["Capacity", "Lengths", "main", "table"]

_VALUE = "x" * 200
_ENTRIES = (1_000, 100_000)
_ITEMS = (10, 1_000, 10_000)
# Fields whose lists grow by a few items while they are measured.
_FIELDS = 40
_APPENDS = 4
_DROPS = 200
_KEYS_AT_ONCE = 500


class Lengths(NamedTuple):
    """How much is measured.

    Attributes:
        idle_seconds: Seconds for which idle caches are watched.
        load_seconds: Seconds of the load for which all caches wait.
        entries: The numbers of entries in L1.
        registered: Keys that are read.
    """

    idle_seconds: float = 10.0
    load_seconds: float = 3.0
    entries: tuple[int, ...] = _ENTRIES
    registered: int = 100_000


_SHORT = Lengths(idle_seconds=0.5, load_seconds=0.3, entries=(100, 1_000), registered=2_000)


class Capacity:
    """The measurements, on one server."""

    def __init__(self, endpoint: Endpoint, counters: Counters, lengths: Lengths) -> None:
        self._url = endpoint.url
        self._counters = counters
        self._lengths = lengths

    async def fleet(self, count: int) -> dict[str, float]:
        """Return the costs of ``count`` caches that follow one Valkey."""
        costs: dict[str, float] = {}
        async with self._caches(count) as caches:
            idle, own = await self._idle()
            costs["an idle fleet, ms of the server a second"] = 1_000 * idle
            costs["an idle process, ms of its own CPU a second"] = 1_000 * own / count
            costs["one load for which all processes wait, ms of the server"] = await self._shared_load(caches, idle)
            costs["`set_policy`, ms of the server"] = await self._policy(caches[0], idle)
        return costs

    async def appends(self) -> dict[str, float]:
        """Return microseconds of the server for one ``session.append``, by the number of items in the list."""
        costs = {}
        options = SessionOptions(ttl=None)
        with Valkey.from_url(self._url) as client:
            async with AgentCache.from_url(self._url, name="capacity", session=options) as cache:
                for items in _ITEMS:
                    fields = [f"{number}" for number in range(_FIELDS)]
                    for field in fields:
                        await cache.session.set_json(str(items), field, list(range(items)))
                        # The first append counts the items.
                        await cache.session.append(str(items), field, 0)
                    client.config_resetstat()
                    for _ in range(_APPENDS):
                        for field in fields:
                            await cache.session.append(str(items), field, 0)
                    commands = cast("dict[str, Any]", client.info("commandstats"))
                    name = f"`session.append`, {items:,} items, µs of the server"
                    costs[name] = commands["cmdstat_eval"]["usec_per_call"]
        return costs

    async def registrations(self) -> dict[str, float]:
        """Return bytes of the server for a key that a process has read, of whose changes the server must report."""
        count = self._lengths.registered
        keys = [f"{number}" for number in range(count)]
        async with self._caches(2) as caches:
            memory = [self._counters.shared_bytes()]
            for cache in caches:
                for first in range(0, count, _KEYS_AT_ONCE):
                    await cache.kv.get_many(keys[first : first + _KEYS_AT_ONCE])
                memory.append(self._counters.shared_bytes())
        first, further = ((after - before) / count for before, after in pairwise(memory))
        return {
            "a key that one process has read, bytes of the server": first,
            "the same for each further process, bytes of the server": further,
        }

    async def drops(self) -> dict[str, float]:
        """Return microseconds of a cache without Valkey for an invalidation of one entry, by the entries in L1."""
        costs = {}
        for entries in self._lengths.entries:
            async with AgentCache.in_memory(l1=L1Options(max_entries=2 * entries, max_bytes=1 << 30)) as cache:
                for number in range(entries):
                    await cache.tool.store("other", {"n": number}, _VALUE, tags=[f"tag {number}"])
                for name, drop in (("tool", cache.tool.invalidate_by_tool), ("tag", cache.invalidate_tag)):
                    spent = 0.0
                    for _ in range(_DROPS):
                        await cache.tool.store("lone", {}, _VALUE, tags=["lone"])
                        began = time.thread_time()
                        assert await drop("lone") == 1
                        spent += time.thread_time() - began
                    costs[f"invalidation by {name}, {entries:,} entries in L1, µs"] = 1e6 * spent / _DROPS
        return costs

    @asynccontextmanager
    async def _caches(self, count: int) -> AsyncIterator[list[AgentCache]]:
        self._counters.reset()
        async with AsyncExitStack() as stack:
            caches = [AgentCache.from_url(self._url, name="capacity") for _ in range(count)]
            yield [await stack.enter_async_context(cache) for cache in caches]

    async def _idle(self) -> tuple[float, float]:
        """Return the seconds of CPU that the server, and then this process, spend in a second without work."""
        await asyncio.sleep(min(1.0, self._lengths.idle_seconds))
        began, server, own = time.perf_counter(), self._counters.cpu(), time.process_time()
        await asyncio.sleep(self._lengths.idle_seconds)
        spent_own = time.process_time() - own
        seconds = time.perf_counter() - began
        return (self._counters.cpu() - server) / seconds, spent_own / seconds

    async def _spent(self, work: Awaitable[object], idle: float) -> float:
        """Return the seconds of server CPU that ``work`` costs."""
        began, before = time.perf_counter(), self._counters.cpu()
        await work
        # The messages to the other caches are part of the cost.
        await asyncio.sleep(0.2)
        return self._counters.cpu() - before - idle * (time.perf_counter() - began)

    async def _shared_load(self, caches: Sequence[AgentCache], idle: float) -> float:
        async def load() -> str:
            await asyncio.sleep(self._lengths.load_seconds)
            return _VALUE

        async def run() -> None:
            await asyncio.gather(*(cache.kv.get_or_load("shared", load) for cache in caches))

        return 1_000 * await self._spent(run(), idle)

    async def _policy(self, cache: AgentCache, idle: float) -> float:
        async def run() -> None:
            for seconds in range(1, 11):
                await cache.tool.set_policy("lookup", ToolPolicy(ttl=seconds))
                await asyncio.sleep(0.05)

        return 1_000 * await self._spent(run(), idle) / 10


def table(columns: Sequence[dict[str, float]], heads: Sequence[str]) -> str:
    """Return a Markdown table of costs, one column for each of ``heads``."""
    lines = ["| cost | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for name in columns[0]:
        cells = [f"{column[name]:,.1f}" if column[name] < 100 else f"{column[name]:,.0f}" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _least(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: min(costs[name] for costs in rounds) for name in rounds[0]}


async def _alone(capacity: Capacity) -> dict[str, float]:
    return {**await capacity.appends(), **await capacity.drops(), **await capacity.registrations()}


async def _measure(capacity: Capacity, counts: Sequence[int], rounds: int) -> None:
    columns = [_least([await capacity.fleet(count) for _ in range(rounds)]) for count in counts]
    print(table(columns, [f"N = {count}" for count in counts]), end="\n\n")
    alone = _least([await _alone(capacity) for _ in range(rounds)])
    print(table([alone], ["N = 1"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description="Measure what a fleet costs.")
    parser.add_argument("--caches", type=int, nargs="+", default=[1, 8, 32, 96], help="numbers of caches (1 8 32 96)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--short", action="store_true", help="only see that it runs: the figures mean nothing")
    args = parser.parse_args(arguments)
    raise_file_limit()
    with running_valkey() as (endpoint, _), Counters(endpoint) as counters:
        capacity = Capacity(endpoint, counters, _SHORT if args.short else Lengths())
        asyncio.run(_measure(capacity, args.caches, args.rounds))


if __name__ == "__main__":
    main()
