"""The latency of small calls beside large values: ``python -m benchmarks.large_values`` prints a Markdown table.

    python -m benchmarks.large_values [--seconds 8] [--megabytes 4] [--megabits 100] [--short]

A cache reads and writes through a line of limited speed, which all its connections share as those of one machine do
(``ChaosProxy.slow_link`` with ``shared``, in a process of its own). With each kind of tracking, four small calls are
repeated side by side while the line is quiet, while large values are read one after the other, while large values are
stored, and while many callers read values of 60 kB at once. A renewal counts by the moment at which Valkey has carried
it out; its sampler sees 5 ms. A call that raises, returns a degraded or wrong value, or a lease that is lost, counts as
failed. The command ends in two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from valkey.asyncio import Valkey

from benchmarks.peers import Endpoint
from benchmarks.process import Process
from benchmarks.server import running_valkey
from tiercache import AgentCache, CoherenceOptions, L1Options, ResilienceOptions, TierCacheError, TierOptions
from tiercache.testing import ChaosProxy

__all__ = ["Calls", "Lengths", "main", "table"]

KINDS: Final = ("interest", "broadcast")
STATES: Final = ("quiet", "large reads", "large stores", "many reads")
_NAME: Final = "lines"
_SMALL: Final = "x" * 200
_LARGE_KEYS: Final = 8
_SMALL_KEYS: Final = 2000
_MIDDLE: Final = "x" * 60_000
_MIDDLE_KEYS: Final = 200
_PAUSE_SECONDS: Final = 0.01
_LEASES: Final = 8
_LEASE_SECONDS: Final = 1.5
_SAMPLE_SECONDS: Final = 0.005


@dataclass(frozen=True)
class Lengths:
    """How much is measured.

    Attributes:
        seconds: Seconds of each state of the line.
        bytes_per_second: The speed of the line in each direction.
        large_bytes: Bytes of a large value.
    """

    seconds: float = 8.0
    bytes_per_second: float = 12_500_000.0
    large_bytes: int = 4_000_000


@dataclass
class Calls:
    """The calls of one kind.

    Attributes:
        seconds: The latencies of the calls that succeeded.
        failed: The number of the others.
    """

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Time the ``with`` block, and count its error as a failed call."""
        began = time.perf_counter()
        try:
            yield
        except (TierCacheError, WrongValueError):
            self.failed += 1
        else:
            self.seconds.append(time.perf_counter() - began)

    def at(self, share: float) -> float:
        """Return the latency that this share of the calls (0 to 1) does not exceed, in ms."""
        ordered = sorted(self.seconds)
        return 1_000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class WrongValueError(Exception):
    """A call returned a degraded or a wrong value."""


class SmallCalls:
    """The small calls of one cache, each kind in a loop of its own.

    Args:
        direct: Reaches Valkey past the line.
    """

    def __init__(self, cache: AgentCache, direct: Valkey, lengths: Lengths) -> None:
        self._cache = cache
        self._direct = direct
        self._lengths = lengths
        self._names = itertools.count()

    async def in_state(self, state: str) -> dict[str, Calls]:
        """Return the calls in a state of the line: the small ones, and those that make the state."""
        calls = {name: Calls() for name in ("`kv.delete`", "`session.set`", "hit in L2", "lease renewal")}
        delete, write, hit, renewal = calls.values()
        stop = asyncio.Event()
        tasks = [
            self._repeat(delete, stop, self._delete),
            self._repeat(write, stop, self._set),
            self._repeat(hit, stop, self._hit),
            *(self._renew(renewal, stop, number) for number in range(_LEASES)),
        ]
        making = {"large reads": self._read, "large stores": self._store, "many reads": self._read_many}
        if state in making:
            calls[f"the {state}"] = Calls()
            tasks.append(self._repeat(calls[f"the {state}"], stop, making[state], pause=0.0))
        timer = asyncio.get_running_loop().call_later(self._lengths.seconds, stop.set)
        await asyncio.gather(*tasks)
        timer.cancel()
        return calls

    async def _repeat(
        self, calls: Calls, stop: asyncio.Event, call: Callable[[int], Awaitable[None]], pause: float = _PAUSE_SECONDS
    ) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            with calls.timed():
                await call(number)
            await asyncio.sleep(pause)

    async def _delete(self, number: int) -> None:
        await self._cache.kv.delete(f"gone {number % _SMALL_KEYS}")

    async def _set(self, number: int) -> None:
        await self._cache.session.set("thread", f"field {number % 50}", _SMALL)

    async def _hit(self, number: int) -> None:
        # Its tier has no L1.
        _check(await self._cache.tier("hits").get(str(number % _SMALL_KEYS)) == _SMALL)

    async def _read(self, number: int) -> None:
        if number % _LARGE_KEYS == 0:
            self._cache.clear_l1()
        found = await self._cache.kv.get(f"large {number % _LARGE_KEYS}")
        _check(found is not None and len(found) == self._lengths.large_bytes)

    async def _read_many(self, _: int) -> None:
        self._cache.clear_l1()
        names = [f"middle {number}" for number in range(_MIDDLE_KEYS)]
        _check(await asyncio.gather(*map(self._cache.kv.get, names)) == [_MIDDLE] * _MIDDLE_KEYS)

    async def _store(self, number: int) -> None:
        await self._cache.kv.set(f"stored {number % _LARGE_KEYS}", "x" * self._lengths.large_bytes)

    async def _renew(self, calls: Calls, stop: asyncio.Event, number: int) -> None:
        """Hold a lease, and look how long its placeholder still lives when it is renewed."""

        async def load(_: str) -> str:
            await stop.wait()
            return _SMALL

        # The renewals of the leases are spread.
        await asyncio.sleep(number * 0.06)
        name = f"held {next(self._names)}"
        holder = asyncio.ensure_future(self._cache.kv.get_or_load(name, load))
        key, before = f"{_NAME}:__tc:kv:kv:{name}", _LEASE_SECONDS
        while not stop.is_set():
            left = await self._direct.pttl(key) / 1_000
            if left > before:  # Renewed since the last look. It was due when a third of the life had passed.
                calls.seconds.append(max(0.0, _LEASE_SECONDS * 2 / 3 - before))
            before = left if left > 0 else _LEASE_SECONDS
            await asyncio.sleep(_SAMPLE_SECONDS)
        await holder
        await self._cache.flush_writes()
        # Without the lease, the loaded value is not stored.
        calls.failed += not await self._direct.exists(key)


def _check(is_right: bool) -> None:
    if not is_right:
        raise WrongValueError


@contextlib.contextmanager
def slow_line(endpoint: Endpoint, bytes_per_second: float) -> Iterator[str]:
    """Yield the URL of ``endpoint`` behind a line, whose proxy has a process of its own."""
    process = Process("benchmarks.large_values", "--line", str(bytes_per_second), endpoint.url)
    try:
        yield process.receive()["url"]
    finally:
        process.stop()


async def _be_line(url: str, bytes_per_second: float) -> None:
    async with ChaosProxy(url) as proxy:
        proxy.slow_link(bytes_per_second, shared=True)
        print(f'{{"url": "{proxy.url}"}}', flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.asynccontextmanager
async def _cache(url: str, kind: Any) -> AsyncIterator[AgentCache]:
    async with AgentCache.from_url(
        url,
        name=_NAME,
        coherence=CoherenceOptions(tracking=kind, lease_ttl=_LEASE_SECONDS),
        l1=L1Options(max_bytes=1 << 30),
        resilience=ResilienceOptions(breaker_failures=1_000_000),
        kv=TierOptions(max_value_bytes=1 << 26),
    ) as cache:
        cache.tier("hits", TierOptions(l1=False))
        yield cache


async def measure(endpoint: Endpoint, line: str, kind: str, lengths: Lengths) -> dict[str, dict[str, Calls]]:
    """Return the small calls with one kind of tracking, by the state of the line."""
    async with Valkey.from_url(endpoint.url) as direct:
        await direct.flushall()
        async with _cache(endpoint.url, "off") as filler:
            for number in range(_LARGE_KEYS):
                await filler.kv.set(f"large {number}", "x" * lengths.large_bytes)
            await filler.kv.set_many({f"middle {number}": _MIDDLE for number in range(_MIDDLE_KEYS)})
            await filler.tier("hits").set_many({str(number): _SMALL for number in range(_SMALL_KEYS)})
        async with _cache(line, kind) as cache:
            used = cache.local_stats().tracking
            if used != kind:
                sys.exit(f"Valkey tracks by {used}, not by {kind}")
            calls = SmallCalls(cache, direct, lengths)
            return {state: await calls.in_state(state) for state in STATES}


def table(found: dict[str, dict[str, dict[str, Calls]]]) -> str:
    """Return the calls as a Markdown table: a row for each kind of call and state, columns for each tracking."""
    kinds = list(found)
    heads = [f"{kind}: p50 | p99 | longest | failed" for kind in kinds]
    lines = ["| call | line | " + " | ".join(heads) + " |", "|---|---|" + "--:|" * 4 * len(kinds)]
    for state in STATES:
        for name in found[kinds[0]][state]:
            cells = [name, state]
            for kind in kinds:
                calls = found[kind][state][name]
                cells += [f"{calls.at(share):,.1f}" for share in (0.5, 0.99, 1.0)]
                cells.append(f"{calls.failed} of {calls.failed + len(calls.seconds):,}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table. Latencies are in ms."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_values", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of each state of the line (8)")
    parser.add_argument("--megabytes", type=float, default=4.0, help="size of a large value, in MB (4)")
    parser.add_argument("--megabits", type=float, default=100.0, help="speed of the line, in Mbit/s (100)")
    parser.add_argument("--short", action="store_true", help="only see that it runs: the figures mean nothing")
    parser.add_argument("--line", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.line:
        asyncio.run(_be_line(args.line[1], float(args.line[0])))
        return
    seconds = 0.8 if args.short else args.seconds
    megabytes = 0.5 if args.short else args.megabytes
    lengths = Lengths(seconds, args.megabits * 125_000, int(megabytes * 1_000_000))
    found = {}
    with running_valkey() as (endpoint, _), slow_line(endpoint, lengths.bytes_per_second) as line:
        for kind in KINDS:
            found[kind] = asyncio.run(measure(endpoint, line, kind, lengths))
    print(table(found))


if __name__ == "__main__":
    main()
