"""A process of the fleet whose changes are measured: caches of one name, each with connections of its own.

One process has the cache that makes the changes, and the other processes have the caches that follow.
"""

import asyncio
from time import perf_counter
from typing import Any

from benchmarks.fleet.bare import BareSubscribers, BareWriter
from benchmarks.fleet.member import Member, run
from benchmarks.peers import Endpoint
from benchmarks.works.work import WrongAnswerError
from tiercache import AgentCache, CoherenceOptions, DiscoveryOptions, TelemetryOptions

_NAME = "bench"
_LENGTH = 300
_MOST_READS = 100
_PAUSE_SECONDS = 0.02


def value_of(key: str) -> str:
    """Return the value of a key: 300 characters."""
    return f"the value of {key} ".ljust(_LENGTH, "x")


class Followers(Member):
    """The caches of one process. The keys of a change are ``{kind}-{number}``."""

    def __init__(self) -> None:
        self.caches: list[AgentCache] = []
        self._bare: BareWriter | None = None
        self._subscribers: BareSubscribers | None = None

    async def open(self, endpoint: dict[str, Any], count: int, tracking: Any) -> None:
        """Open the caches."""
        # Reports to the Monitor and Prometheus, every second from each cache, are no part of a change.
        quiet: dict[str, Any] = {
            "telemetry": TelemetryOptions(metrics=False, tracing=False),
            "discovery": DiscoveryOptions(enabled=False),
        }
        coherence = CoherenceOptions(tracking=tracking)
        for _ in range(count):
            cache = AgentCache.from_url(Endpoint(**endpoint).url, name=_NAME, coherence=coherence, **quiet)
            self.caches.append(cache)
            await cache.open()

    async def load(self, first: int, count: int) -> float:
        """Load new keys one after the other; return the seconds until Valkey has all of them."""
        cache, start = self.caches[0], perf_counter()
        for key in _keys("load", first, count):
            loaded = await cache.kv.get_or_load(key, value_of)
            _expect(key, loaded.value, value_of(key))
        await cache.flush_writes()
        return perf_counter() - start

    async def store(self, first: int, count: int, kind: str = "store") -> float:
        """Store new keys one after the other; return the seconds."""
        cache, start = self.caches[0], perf_counter()
        for key in _keys(kind, first, count):
            await cache.kv.set(key, value_of(key))
        return perf_counter() - start

    async def invalidate(self, first: int, count: int) -> float:
        """Remove keys one after the other; return the seconds."""
        cache, start = self.caches[0], perf_counter()
        for key in _keys("invalidate", first, count):
            if not await cache.kv.delete(key):
                raise WrongAnswerError(f"there was no {key} to remove")
        return perf_counter() - start

    async def read(self, kind: str, first: int, count: int, holders: int) -> None:
        """Read the keys in the first caches, until all of the keys are in the memory of each.

        Raises:
            WrongAnswerError: A value was wrong, or a cache does not keep the keys.
        """
        for cache in self.caches[:holders]:
            for _ in range(_MOST_READS):
                before = cache.local_stats().tiers["kv"].l1_hits
                for key in _keys(kind, first, count):
                    _expect(key, await cache.kv.get(key), value_of(key))
                if cache.local_stats().tiers["kv"].l1_hits - before == count:
                    break
                # The server still reports the last writes, and that report drops the keys again.
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                raise WrongAnswerError("a follower does not keep the keys in its memory")

    async def expect_gone(self, kind: str, first: int, count: int, holders: int) -> None:
        """Wait until the first caches answer none of the keys.

        Raises:
            WrongAnswerError: A cache still answers a key when ``max_staleness`` is over.
        """
        end = perf_counter() + CoherenceOptions().max_staleness
        for cache in self.caches[:holders]:
            left = _keys(kind, first, count)
            while left := [key for key in left if await cache.kv.get(key) is not None]:
                if perf_counter() > end:
                    raise WrongAnswerError(f"a follower still answers {len(left)} keys that were removed")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def open_bare(self, endpoint: dict[str, Any], count: int) -> None:
        """Connect the writer of the floor, and store ``count`` keys for it."""
        self._bare = BareWriter()
        await self._bare.open(Endpoint(**endpoint), count)

    async def subscribe_bare(self, endpoint: dict[str, Any], count: int) -> None:
        """Connect the subscribers of the floor."""
        self._subscribers = BareSubscribers()
        await self._subscribers.open(Endpoint(**endpoint), count)

    async def finish_bare(self) -> None:
        """Return when the subscribers of the floor have each message.

        Raises:
            WrongAnswerError: A message was wrong.
        """
        assert self._subscribers is not None
        await self._subscribers.finish()

    async def bare(self, first: int, count: int) -> float:
        """Remove keys of the floor one after the other; return the seconds."""
        assert self._bare is not None
        start = perf_counter()
        await self._bare.invalidate(first, count)
        return perf_counter() - start

    async def close(self) -> None:
        for floor in (self._bare, self._subscribers):
            if floor is not None:
                floor.close()
        await asyncio.gather(*(cache.aclose() for cache in self.caches))


def _keys(kind: str, first: int, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(first, first + count)]


def _expect(key: str, found: Any, wanted: str) -> None:
    if found != wanted:
        raise WrongAnswerError(f"{key} was answered {found!r}")


if __name__ == "__main__":
    run(Followers())
