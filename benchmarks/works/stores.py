"""Writes: a miss and its store, a load on a miss, and 1,000 stores at once."""

import asyncio
import itertools
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from benchmarks.data import PARTED, SIZES, Answer, Params
from benchmarks.peers.protocol import Peer
from benchmarks.timing import Clock, Measured
from benchmarks.works.work import Bench, Variant, Work, WrongAnswerError, expect, size_of

_CHUNK_CALLS = 256
_CHECKED_CALLS = 20
_CONCURRENT = 1_000


def _by_size() -> list[Variant]:
    return [
        Variant(size.name, "one caller", size.title, size=size.name)
        for size in SIZES.values()
        if size.name not in PARTED
    ]


class _NewRequests(Work):
    """One caller makes new requests, one after another; the time ends when no work of the cache is in flight."""

    def variants(self) -> list[Variant]:
        return _by_size()

    @abstractmethod
    def call(self, peer: Peer, variant: Variant) -> Callable[[Params, Answer], Awaitable[Any]]:
        """Return the timed call."""

    @abstractmethod
    def wanted(self, variant: Variant, number: int) -> Answer | None:
        """Return the answer that the call must find, or None for a miss."""

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        size, numbers = size_of(variant), itertools.count()
        call = self.call(peer, variant)

        async def body(loops: int) -> tuple[Clock, int]:
            clock, done = Clock(), 0
            while done < loops:
                batch = list(itertools.islice(numbers, min(loops - done, _CHUNK_CALLS)))
                requests = [(size.build(number), size.reply(number)) for number in batch]
                with clock:
                    found = [await call(params, answer) for params, answer in requests]
                    await peer.settle()
                for each, number in zip(found, batch, strict=True):
                    expect(peer, each, self.wanted(variant, number))
                expect(peer, await peer.check(size.build(batch[-1])), size.reply(batch[-1]))
                done += len(batch)
            return clock, done

        before = bench.counters.keys()
        await body(_CHECKED_CALLS)
        if bench.counters.keys() - before < _CHECKED_CALLS:
            raise WrongAnswerError(f"{peer.title} stored {_CHECKED_CALLS} answers, Valkey holds fewer")
        return await bench.sample(body)


class MissStore(_NewRequests):
    name = "miss-store"
    title = "Miss and store"
    explained = "`check` of a new request, then `store`, until Valkey has acknowledged the write"

    def call(self, peer: Peer, variant: Variant) -> Callable[[Params, Answer], Awaitable[Any]]:
        check, store = peer.check, peer.store

        async def miss_and_store(params: Params, answer: Answer) -> Any:
            found = await check(params)
            await store(params, answer)
            return found

        return miss_and_store

    def wanted(self, variant: Variant, number: int) -> Answer | None:
        return None


class MissLoad(_NewRequests):
    name = "miss-load"
    title = "Miss and load"
    quick = False
    explained = "`get_or_load` of a new request with a loader that returns at once, until the answer is stored"
    needs = ("get_or_load",)

    def call(self, peer: Peer, variant: Variant) -> Callable[[Params, Answer], Awaitable[Any]]:
        get_or_load = peer.get_or_load
        assert get_or_load is not None

        async def load_on_miss(params: Params, answer: Answer) -> Any:
            async def load(params: Params) -> Answer:
                return answer

            return await get_or_load(params, load)

        return load_on_miss

    def wanted(self, variant: Variant, number: int) -> Answer | None:
        return size_of(variant).reply(number)


class StoreBatch(Work):
    """1,000 stores at once; the time ends when Valkey has all values."""

    name = "store-batch"
    title = "1,000 stores at once"
    explained = "`asyncio.gather` of 1,000 stores, until Valkey has all values; time per store"

    def variants(self) -> list[Variant]:
        return [
            Variant(name, "time per store", SIZES[name].title, size=name, callers=_CONCURRENT)
            for name in ("short", "chat")
        ]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        size, numbers = size_of(variant), itertools.count()

        async def body(loops: int) -> tuple[Clock, int]:
            clock = Clock()
            for _ in range(loops):
                batch = _next(numbers)
                requests = [(size.build(number), size.reply(number)) for number in batch]
                before = bench.counters.keys()
                with clock:
                    await asyncio.gather(*(peer.store(params, answer) for params, answer in requests))
                    await peer.settle()
                if bench.counters.keys() - before < len(batch):
                    raise WrongAnswerError(f"{peer.title} stored {len(batch)} answers, Valkey holds fewer")
                for number in (batch[0], batch[-1]):
                    expect(peer, await peer.check(size.build(number)), size.reply(number))
            return clock, loops * _CONCURRENT

        await body(1)  # Opens the connections.
        return await bench.sample(body)


def _next(numbers: Iterator[int]) -> list[int]:
    return list(itertools.islice(numbers, _CONCURRENT))
