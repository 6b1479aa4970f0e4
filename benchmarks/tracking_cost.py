"""The client CPU of tracking by interest, beside tracking by broadcast: one process, caches of both kinds in turns.

    python -m benchmarks.tracking_cost [--pairs 30] [--count 500] [--only NAME ...]

All caches live in this process and follow one private Valkey. They take turns, a block of operations each, so that a
slow phase of the machine meets all of them. The figure is the CPU time of this thread. Before each block the garbage is
collected, and collection stays on. The column "broadcast" compares a second cache by broadcast with the first: its
distance from 1 is the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from valkey import Valkey

from benchmarks.peers import Endpoint
from benchmarks.server import running_valkey
from tiercache import AgentCache, CoherenceOptions, DiscoveryOptions, TelemetryOptions

__all__ = ["WORKS", "TrackingCost", "main", "table"]

# A block of operations on a cache: the number of operations, and the number of the block.
Block = Callable[[AgentCache, int, int], Awaitable[object]]

_VALUE: Final = "x" * 200
_AT_ONCE: Final = 50
_KINDS: Final[dict[str, Any]] = {"first": "broadcast", "interest": "interest", "broadcast": "broadcast"}
_QUIET: Final[dict[str, Any]] = {
    "telemetry": TelemetryOptions(metrics=False, tracing=False),
    "discovery": DiscoveryOptions(enabled=False),
}


async def _load(key: str) -> str:
    return _VALUE


async def _hits(cache: AgentCache, count: int, block: int) -> None:
    for number in range(count):
        assert await cache.kv.get(f"present{number}") == _VALUE


async def _misses(cache: AgentCache, count: int, block: int) -> None:
    for number in range(count):
        assert await cache.kv.get(f"absent{number}") is None


async def _stores(cache: AgentCache, count: int, block: int) -> None:
    for number in range(count):
        await cache.kv.set(f"stored{number}", _VALUE)


async def _loads(cache: AgentCache, count: int, block: int) -> None:
    for number in range(count):
        await cache.kv.get_or_load(f"loaded{block}:{number}", _load)
    await cache.flush_writes()


async def _stores_at_once(cache: AgentCache, count: int, block: int) -> None:
    for start in range(0, count, _AT_ONCE):
        await asyncio.gather(*[cache.kv.set(f"stored{number}", _VALUE) for number in range(start, start + _AT_ONCE)])


WORKS: Final[dict[str, Block]] = {
    "L2 hit": _hits,
    "miss": _misses,
    "store": _stores,
    "load": _loads,
    f"{_AT_ONCE} stores at once": _stores_at_once,
}


class TrackingCost:
    """The measurement, on one server.

    Args:
        count: Operations in a block.
        pairs: Blocks of each cache and work.
    """

    def __init__(self, endpoint: Endpoint, *, count: int, pairs: int) -> None:
        self._url = endpoint.url
        self._count = count
        self._pairs = pairs

    async def run(self, names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
        """Return microseconds of CPU for one operation, by work and cache, one figure a block."""
        with Valkey.from_url(self._url) as client:
            for label in _KINDS:
                client.mset({f"{label}:__tc:kv:kv:present{n}": b"s" + _VALUE.encode() for n in range(self._count)})
        async with AsyncExitStack() as stack:
            caches = {}
            for label, tracking in _KINDS.items():
                coherence = CoherenceOptions(tracking=tracking)
                cache = AgentCache.from_url(self._url, name=label, coherence=coherence, **_QUIET)
                caches[label] = await stack.enter_async_context(cache)
                expected = "interest" if label == "interest" else "broadcast"
                assert cache.local_stats().tracking == expected, cache.local_stats().tracking
            gc.collect()
            gc.freeze()  # Each block is to collect its own garbage only.
            try:
                return {name: await self._work(WORKS[name], caches) for name in names}
            finally:
                gc.unfreeze()

    async def _work(self, work: Block, caches: dict[str, AgentCache]) -> dict[str, list[float]]:
        figures: dict[str, list[float]] = {label: [] for label in caches}
        labels = list(caches)
        for block in range(-1, self._pairs):
            # Each cache has each place in turn.
            first = block % len(labels)
            for label in labels[first:] + labels[:first]:
                cost = await self._block(work, caches[label], block)
                if block >= 0:  # The first one warms up.
                    figures[label].append(cost)
        return figures

    async def _block(self, work: Block, cache: AgentCache, block: int) -> float:
        cache.clear_l1()
        gc.collect()
        began = time.thread_time()
        await work(cache, self._count, block)
        return 1e6 * (time.thread_time() - began) / self._count


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """Return a Markdown table: microseconds by broadcast and by interest, and medians and quartiles of the ratios."""
    lines = [
        "| client CPU of | broadcast, µs | interest, µs | interest / broadcast | broadcast / broadcast |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, by_label in figures.items():
        first, interest = by_label["first"], by_label["interest"]
        cells = [f"{statistics.median(costs):.1f}" for costs in (first, interest)]
        cells += [_ratio(costs, first) for costs in (interest, by_label["broadcast"])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(costs: Sequence[float], others: Sequence[float]) -> str:
    lower, middle, upper = statistics.quantiles([a / b for a, b in zip(costs, others, strict=True)], n=4)
    return f"{middle:.3f} ({lower:.3f} to {upper:.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracking_cost", description="Measure the client CPU of tracking by interest."
    )
    parser.add_argument("--pairs", type=int, default=30, help="blocks of each cache (30)")
    parser.add_argument("--count", type=int, default=500, help="operations in a block, a multiple of 50 (500)")
    parser.add_argument("--only", nargs="*", help="parts of the names of works")
    args = parser.parse_args(arguments)
    names = [name for name in WORKS if not args.only or any(part in name for part in args.only)]
    with running_valkey() as (endpoint, _):
        print(table(asyncio.run(TrackingCost(endpoint, count=args.count, pairs=args.pairs).run(names))))


if __name__ == "__main__":
    main()
