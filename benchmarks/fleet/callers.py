"""A process of the fleet whose throughput is measured: callers that take the requests of one sequence in turn.

Of the requests, 80 % ask for one of 64 entries that the process has read before: L1 hits, where the cache has an L1.
15 % ask for an entry that another process has stored, and that this process has not read: L2 hits. 5 % are new, and the
loader answers them at once. The sequence depends on the number of the process alone, so it is the same for all caches.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.data import SIZES, Answer, Params
from benchmarks.fleet.member import Member, run
from benchmarks.peers import Endpoint, Peer, Setting, peer_class
from benchmarks.timing import Clock
from benchmarks.works.work import WrongAnswerError, expect, expect_level

L1_SHARE = 0.80
L2_SHARE = 0.15
HOT = 64
_FIRST_NEW = 1_000_000
_NEW_OF_A_PROCESS = 1_000_000
_SEED = 20_261_128
_STORES_AT_ONCE = 64
_SIZE = SIZES["short"]


def windows(process: int, stored: int, count: int) -> list[list[int]]:
    """Return the numbers of the requests of a process, for each of ``count`` windows.

    A window ends when its share of the stored entries is used up, so that no window is without entries to read.

    Args:
        stored: The number of entries in Valkey. The first `HOT` are those of the L1 hits.
    """
    chance = random.Random(_SEED + process)
    unread = list(range(HOT, stored))
    chance.shuffle(unread)
    new = itertools.count(_FIRST_NEW + process * _NEW_OF_A_PROCESS)
    return [list(_window(chance, unread[window::count], new)) for window in range(count)]


def _window(chance: random.Random, unread: list[int], new: Iterator[int]) -> Iterator[int]:
    while unread:
        share = chance.random()
        if share < L1_SHARE:
            yield chance.randrange(HOT)
        elif share < L1_SHARE + L2_SHARE:
            yield unread.pop()
        else:
            yield next(new)


def level_of(number: int) -> str:
    """Return the level that answers the request ``number`` in a cache that has all levels."""
    return "l1" if number < HOT else "l2" if number < _FIRST_NEW else "loader"


class Callers(Member):
    """The callers of one process, which share a peer."""

    peer: Peer
    _loads = 0

    async def open(self, peer: str, endpoint: dict[str, Any]) -> None:
        """Connect the peer."""
        self.peer = peer_class(peer)()
        await self.peer.open(Setting(Endpoint(**endpoint)))

    async def store(self, count: int) -> None:
        """Store the entries that the other processes read."""
        for first in range(0, count, _STORES_AT_ONCE):
            numbers = range(first, min(first + _STORES_AT_ONCE, count))
            await asyncio.gather(*(self.peer.store(_SIZE.build(each), _SIZE.reply(each)) for each in numbers))
        await self.peer.settle()

    async def prepare(self, process: int, stored: int, count: int) -> None:
        """Draw the requests of this process for ``count`` windows, and read the entries of the L1 hits."""
        self._windows = iter(windows(process, stored, count))  # Drawn now, and not while the clock runs.
        for number in range(HOT):
            expect(self.peer, await self.peer.check(_SIZE.build(number)), _SIZE.reply(number))

    async def call(self, callers: int, seconds: float) -> dict[str, float]:
        """Make the calls of the next window for some seconds; compare every answer after the clock has stopped.

        Returns:
            The number of operations, and their seconds and CPU seconds in this process.

        Raises:
            WrongAnswerError: An answer was wrong, or over one percent came from another level than the expected one.
        """
        found: list[tuple[int, Any]] = []
        numbers = iter(next(self._windows))
        self._loads = 0
        clock = Clock()
        with clock:
            end = perf_counter() + seconds
            await asyncio.gather(*(self._call(numbers, end, found) for _ in range(callers)))
            await self.peer.settle()
        self._compare(found)
        return {"operations": len(found), "wall": clock.wall, "cpu": clock.cpu}

    async def _call(self, numbers: Iterator[int], end: float, found: list[tuple[int, Any]]) -> None:
        get_or_load = self.peer.get_or_load
        assert get_or_load is not None
        for number in numbers:
            found.append((number, await get_or_load(_SIZE.build(number), partial(self._load, number))))
            if perf_counter() >= end:
                return

    async def _load(self, number: int, _: Params) -> Answer:
        self._loads += 1
        return _SIZE.reply(number)

    def _compare(self, found: list[tuple[int, Any]]) -> None:
        for number, result in found:
            expect(self.peer, result, _SIZE.reply(number))
        for level in ("l1", "l2", "loader"):
            expect_level(self.peer, [result for number, result in found if level_of(number) == level], level)
        new = sum(level_of(number) == "loader" for number, _ in found)
        if not new <= self._loads <= new + len(found) // 100:
            raise WrongAnswerError(f"{self.peer.title} called the loader {self._loads} times for {new} new requests")

    async def close(self) -> None:
        if hasattr(self, "peer"):
            await self.peer.close()


if __name__ == "__main__":
    run(Callers())
