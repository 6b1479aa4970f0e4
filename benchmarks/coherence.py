"""The command ``python -m benchmarks.coherence``: what an invalidation costs beside a bare PUBLISH.

One cache deletes a key that eight others have in process memory; timed from the start of the call until each of the
eight has dropped it. Beside it, one connection publishes a message of the same bytes to eight subscribers; timed from
before the command is sent until each of them has read it. Both run in this process, one after the other, turn by turn.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Any

from valkey.asyncio import Connection

from benchmarks.peers.protocol import Endpoint
from benchmarks.report import duration
from benchmarks.server import cores, pin, running_valkey
from tiercache import AgentCache, DiscoveryOptions, TelemetryOptions
from tiercache.engine.announcement import Announcement
from tiercache.l2.messages import encode

REPLICAS = 8
GOAL = 2.0
_OUTPUT = Path(__file__).parent / "results" / "coherence.json"
_NAME = "bench"
_KEY = "answer"
_FULL_KEY = f"{_NAME}:__tc:kv:kv:{_KEY}"
_CHANNEL = "bench-bare"
_TIMEOUT = 5.0
_QUIET_SECONDS = 0.001
_MAX_FILLS = 100
_WARM_UP = 20


class NotDeliveredError(Exception):
    """A replica did not have the key, or a subscriber or replica heard nothing."""


class Arrivals:
    """The moments at which something reached each of the receivers, for one publication at a time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._moments: list[float] = []
        self._all = asyncio.Event()

    def note(self) -> None:
        """Note that one more receiver has it."""
        self._moments.append(perf_counter())
        if len(self._moments) == self._count:
            self._all.set()

    async def since(self, start: float) -> list[float]:
        """Return the seconds from ``start`` to each arrival, once all are there."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._all.wait()
        except TimeoutError:
            raise NotDeliveredError(f"{len(self._moments)} of {self._count} have heard after {_TIMEOUT} s") from None
        seconds = [moment - start for moment in self._moments]
        self._moments.clear()
        self._all.clear()
        return seconds


class Bare:
    """One publisher and eight subscribers on connections of valkey-py, with nothing in between."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._arrivals = Arrivals(REPLICAS)

    @contextlib.asynccontextmanager
    async def opened(self, endpoint: Endpoint) -> AsyncIterator["Bare"]:
        """Connect; disconnect on leaving."""
        connections = [Connection(host=endpoint.host, port=endpoint.port) for _ in range(1 + REPLICAS)]
        self._publisher, *subscribers = connections
        async with asyncio.TaskGroup() as readers:
            for connection in connections:
                await connection.connect()  # type: ignore[no-untyped-call]
            for connection in subscribers:
                await connection.send_command("SUBSCRIBE", _CHANNEL)
                await connection.read_response()
            tasks = [readers.create_task(self._read(connection)) for connection in subscribers]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                for connection in connections:
                    await connection.disconnect(nowait=True)

    async def _read(self, connection: Connection) -> None:
        while True:
            message = await connection.read_response()
            if message[2] != self._message:
                raise NotDeliveredError(f"a subscriber heard {message!r}")
            self._arrivals.note()

    async def deliver(self) -> list[float]:
        """Publish once; return the seconds to each subscriber."""
        start = perf_counter()
        # Not by a client, whose pool and retries cost a third on top.
        await self._publisher.send_command("PUBLISH", _CHANNEL, self._message)
        await self._publisher.read_response()
        return await self._arrivals.since(start)


class Caches:
    """One cache that deletes and eight that have the key in process memory."""

    def __init__(self) -> None:
        self._arrivals = Arrivals(REPLICAS)
        self._is_timed = False

    @contextlib.asynccontextmanager
    async def opened(self, endpoint: Endpoint) -> AsyncIterator["Caches"]:
        """Open the nine; close them on leaving."""
        async with contextlib.AsyncExitStack() as stack:
            self._writer, *self._replicas = [
                await stack.enter_async_context(_cache(endpoint.url)) for _ in range(1 + REPLICAS)
            ]
            for replica in self._replicas:
                self._observe(replica)
            yield self

    def _observe(self, replica: AgentCache) -> None:
        """Note when the key leaves the process memory of ``replica``. Costs a call of a Python function."""
        l1 = replica._engine.l1
        drop = l1.drop

        def observed(key: str) -> bool:
            was_there = drop(key)
            if was_there and key == _FULL_KEY and self._is_timed:
                self._arrivals.note()
            return was_there

        l1.drop = observed  # type: ignore[method-assign]

    async def fill(self) -> None:
        """Have every replica hold the key; return when all is quiet."""
        await self._writer.kv.set(_KEY, "an answer")
        for _ in range(_MAX_FILLS):
            # What the server still tells of the last write drops the key again, and is waited for.
            await asyncio.gather(*(replica.kv.get(_KEY) for replica in self._replicas))
            await asyncio.sleep(_QUIET_SECONDS)
            if all(replica._engine.l1.peek(_FULL_KEY) is not None for replica in self._replicas):
                return
        raise NotDeliveredError("a replica does not keep the key in its memory")

    async def deliver(self) -> list[float]:
        """Delete the key once; return the seconds until each replica has dropped it."""
        self._is_timed = True
        start = perf_counter()
        existed = await self._writer.kv.delete(_KEY)
        seconds = await self._arrivals.since(start)
        self._is_timed = False
        if not existed:
            raise NotDeliveredError("there was nothing to delete")
        return seconds


def _cache(url: str) -> AgentCache:
    # What all nine would tell the Monitor and Prometheus every second is no part of an invalidation.
    quiet = TelemetryOptions(metrics=False, tracing=False)
    return AgentCache.from_url(url, name=_NAME, telemetry=quiet, discovery=DiscoveryOptions(enabled=False))


def _message() -> bytes:
    """The bytes that the deletion of the key is announced by."""
    before, after = encode(Announcement(keys=(_FULL_KEY,)), "0123456789abcdef")
    return before + b"1700000000000000" + after


def main() -> int:
    """Run the command; returns the exit code, 1 with ``--check`` and the goal missed."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped on this one too
    with running_valkey() as (endpoint, server_pid):
        pin(server_pid, cores()[:1] if args.pin else [])
        rounds = asyncio.run(_measure(endpoint, args.rounds, args.count))
    figures = summary(rounds, args.count)
    text = markdown(figures)
    print(text)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(figures, indent=1) + "\n")
    args.output.with_suffix(".md").write_text(text)
    is_reached = figures["ratio"] <= GOAL
    print(f"{'reached' if is_reached else 'MISSED '}  at most {GOAL:g}x: {figures['ratio']:.2f}x", file=sys.stderr)
    return int(args.check and not is_reached)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coherence", description="Time an invalidation beside a bare PUBLISH."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--count", type=int, default=300, help="invalidations, and publications, in a round (300)")
    parser.add_argument("--pin", action="store_true", help="hold this process and Valkey to one core")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="JSON file; the Markdown goes beside it")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the goal is missed")
    return parser.parse_args()


async def _measure(endpoint: Endpoint, rounds: int, count: int) -> list[dict[str, list[float]]]:
    """Return the seconds of every delivery, by side, for each round."""
    async with Bare(_message()).opened(endpoint) as bare, Caches().opened(endpoint) as caches:
        await _turns(bare, caches, _WARM_UP)
        return [await _turns(bare, caches, count) for _ in range(rounds)]


async def _turns(bare: Bare, caches: Caches, count: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"bare": [], "cache": []}
    for turn in range(count):
        sides: list[tuple[str, Any]] = [("bare", bare), ("cache", caches)]
        for side, deliver in sides if turn % 2 else reversed(sides):
            # Before either, so that both find the process and the server as busy as each other.
            await caches.fill()
            seconds[side] += await deliver.deliver()
    return seconds


def summary(rounds: list[dict[str, list[float]]], count: int) -> dict[str, Any]:
    """Return the figures of a run: p50 and p99 of each side by round, and the ratio of the medians of the p99s."""
    by_side: dict[str, Any] = {
        side: {f"p{percent}": [_percentile(each[side], percent) for each in rounds] for percent in (50, 99)}
        for side in ("bare", "cache")
    }
    bare, cache = (by_side[side]["p99"] for side in ("bare", "cache"))
    return {
        "replicas": REPLICAS,
        "count": count,
        **by_side,
        "ratio": statistics.median(cache) / statistics.median(bare),
        "ratios": [one / other for one, other in zip(cache, bare, strict=True)],
    }


def _percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def markdown(figures: dict[str, Any]) -> str:
    """Return the table that is printed."""
    rounds = len(figures["ratios"])
    lines = [
        f"{figures['replicas']} replicas, {rounds} rounds of {figures['count']}; medians of the rounds.",
        "",
        "| until all have heard, one by one | p50 | p99 |",
        "|---|--:|--:|",
    ]
    for side, title in (("bare", "a bare PUBLISH, read by a subscriber"), ("cache", "`delete`, dropped by a replica")):
        p50, p99 = (duration(statistics.median(figures[side][name])) for name in ("p50", "p99"))
        lines.append(f"| {title} | {p50} | {p99} |")
    low, high = min(figures["ratios"]), max(figures["ratios"])
    lines += ["", f"The p99 of the invalidation is {figures['ratio']:.2f} times that of the PUBLISH "]
    lines[-1] += f"({low:.2f} to {high:.2f} in the rounds)."
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
