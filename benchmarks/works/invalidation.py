"""The cost of an invalidation beside a bare PUBLISH.

One cache deletes a key that eight other caches hold in process memory, timed from the start of the call until each of
the eight has dropped the key. Beside it, one connection publishes a message of the same bytes to eight subscribers,
timed from before the command is sent until each subscriber has read it. Both run in this process, in turns.
"""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

from valkey.asyncio import Connection

from benchmarks.peers.protocol import Endpoint, Peer
from benchmarks.timing import Measured
from benchmarks.works.work import Bench, Variant, Work
from tiercache import AgentCache, DiscoveryOptions, TelemetryOptions
from tiercache.engine.level2.announcement import Announcement
from tiercache.stores.valkey.messages import encode

REPLICAS = 8
_NAME = "bench"
_KEY = "answer"
_FULL_KEY = f"{_NAME}:__tc:kv:kv:{_KEY}"
_CHANNEL = "bench-bare"
_TIMEOUT = 5.0
_QUIET_SECONDS = 0.001
_MAX_FILLS = 100
_WARM_UP = 20
_COUNT = 300
_QUICK_COUNT = 100


class NotDeliveredError(Exception):
    """A replica did not have the key, or a replica or subscriber did not receive the message."""


class Arrivals:
    """The times at which one publication reaches each receiver."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._moments: list[float] = []
        self._all = asyncio.Event()

    def note(self) -> None:
        """Note that one more receiver has the publication."""
        self._moments.append(perf_counter())
        if len(self._moments) == self._count:
            self._all.set()

    async def wait_since(self, start: float) -> list[float]:
        """Return the seconds from ``start`` to each arrival, once all receivers have it."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._all.wait()
        except TimeoutError:
            raise NotDeliveredError(
                f"{len(self._moments)} of {self._count} have received it after {_TIMEOUT} s"
            ) from None
        seconds = [moment - start for moment in self._moments]
        self._moments.clear()
        self._all.clear()
        return seconds


class BarePublish:
    """One publisher and eight subscribers on plain connections of valkey-py."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._arrivals = Arrivals(REPLICAS)

    @contextlib.asynccontextmanager
    async def opened(self, endpoint: Endpoint) -> AsyncIterator["BarePublish"]:
        """Connect; disconnect on exit."""
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
                raise NotDeliveredError(f"a subscriber received {message!r}")
            self._arrivals.note()

    async def deliver(self) -> list[float]:
        """Publish once; return the seconds to each subscriber."""
        start = perf_counter()
        # On a connection and not with a client, whose pool and retries would add a third.
        await self._publisher.send_command("PUBLISH", _CHANNEL, self._message)
        await self._publisher.read_response()
        return await self._arrivals.wait_since(start)


class Replicas:
    """One cache that deletes a key, and eight caches that hold it in process memory."""

    def __init__(self) -> None:
        self._arrivals = Arrivals(REPLICAS)
        self._is_timed = False

    @contextlib.asynccontextmanager
    async def opened(self, endpoint: Endpoint) -> AsyncIterator["Replicas"]:
        """Open the nine caches; close them on exit."""
        async with contextlib.AsyncExitStack() as stack:
            self._writer, *self._replicas = [
                await stack.enter_async_context(_cache(endpoint.url)) for _ in range(1 + REPLICAS)
            ]
            for replica in self._replicas:
                self._observe(replica)
            yield self

    def _observe(self, replica: AgentCache) -> None:
        """Note when the key leaves the process memory of ``replica``. This adds one Python call to the time."""
        l1 = _l1_of(replica)
        drop = l1.drop

        def observed(key: str) -> bool:
            was_there = drop(key)
            if was_there and key == _FULL_KEY and self._is_timed:
                self._arrivals.note()
            return was_there

        l1.drop = observed  # type: ignore[method-assign]

    async def fill(self) -> None:
        """Return when every replica holds the key and no message that drops it is in flight."""
        await self._writer.kv.set(_KEY, "an answer")
        for _ in range(_MAX_FILLS):
            # The server still reports the last write, and that report drops the key again: wait until it has arrived.
            await asyncio.gather(*(replica.kv.get(_KEY) for replica in self._replicas))
            await asyncio.sleep(_QUIET_SECONDS)
            if all(_l1_of(replica).peek(_FULL_KEY) is not None for replica in self._replicas):
                return
        raise NotDeliveredError("a replica does not keep the key in its memory")

    async def deliver(self) -> list[float]:
        """Delete the key once; return the seconds until each replica has dropped it."""
        self._is_timed = True
        start = perf_counter()
        existed = await self._writer.kv.delete(_KEY)
        seconds = await self._arrivals.wait_since(start)
        self._is_timed = False
        if not existed:
            raise NotDeliveredError("there was nothing to delete")
        return seconds


def _l1_of(cache: AgentCache) -> Any:
    return cache._parts.sides[0].engine.l1


def _cache(url: str) -> AgentCache:
    # Reports to the Monitor and Prometheus, every second from nine caches, are no part of an invalidation.
    quiet = TelemetryOptions(metrics=False, tracing=False)
    return AgentCache.from_url(url, name=_NAME, telemetry=quiet, discovery=DiscoveryOptions(enabled=False))


def _message() -> bytes:
    """Return the bytes of the message that announces the deletion of the key."""
    before, after = encode(Announcement(keys=(_FULL_KEY,)), "0123456789abcdef")
    return before + b"1700000000000000" + after


class Invalidation(Work):
    """The 99th percentile over all deliveries of one round."""

    name = "invalidation"
    title = "Invalidation over eight replicas, p99"
    explained = "`kv.delete` until eight other caches have dropped the key; the floor is a bare PUBLISH, read by eight"

    def variants(self) -> list[Variant]:
        return [Variant("p99", "until a replica has it", "p99", callers=REPLICAS)]

    def offers(self, peer: type[Peer], variant: Variant) -> bool:
        return peer.title == "tiercache"  # The floor is measured with tiercache, in turns.

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> dict[str, Measured]:
        count = _COUNT if bench.budget.values > 2 else _QUICK_COUNT
        async with BarePublish(_message()).opened(bench.endpoint) as bare, Replicas().opened(bench.endpoint) as caches:
            await _turns(bare, caches, _WARM_UP)
            seconds = await _turns(bare, caches, count)
        return {name: _measured(each, count) for name, each in seconds.items()}


async def _turns(bare: BarePublish, caches: Replicas, count: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"tiercache": [], "floor": []}
    for turn in range(count):
        sides: list[tuple[str, Any]] = [("floor", bare), ("tiercache", caches)]
        for side, deliver in sides if turn % 2 else reversed(sides):
            # Before both kinds of delivery, so that the process and the server are equally busy for both.
            await caches.fill()
            seconds[side] += await deliver.deliver()
    return seconds


def _measured(seconds: list[float], count: int) -> Measured:
    p50, p99 = (statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] for percent in (50, 99))
    return Measured([p99], [], count, {"p50": p50})
