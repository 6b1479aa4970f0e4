"""The four works: what is checked before a peer is measured, and the timed coroutine of each.

A wrong answer, an answer from the wrong level or a loader called too often raises `WrongAnswerError` and ends the
run.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from benchmarks.peers import PEERS, Endpoint, Peer, PeerInfo, Work, make_peer
from benchmarks.requests import Answer, Params, Size
from benchmarks.server import Counters

LOADER_SECONDS = 0.05
CALLERS = 1_000
_BATCH = 256
_CHECKED_CALLS = 50


class WrongAnswerError(Exception):
    """A peer did not do the work that it was about to be measured on."""


class Measurement:
    """One peer at one work and size, for the life of one worker process: opened and checked once, timed many
    times.
    """

    def __init__(self, peer_name: str, work: Work, size: Size, endpoint: Endpoint, *, same_request: bool) -> None:
        self.loader_calls_max = 0
        self._peer_name = peer_name
        self._info: PeerInfo = PEERS[peer_name]
        self._peer: Peer | None = None
        self._work = work
        self._size = size
        self._endpoint = endpoint
        self._fixed = size.build(None) if same_request else None
        self._numbers = itertools.count()
        self._loader_calls = 0
        self._loop = asyncio.Runner()

    def time(self, loops: int) -> float:
        """Seconds that ``loops`` calls took, by the signature of `pyperf.Runner.bench_time_func`."""
        return self._loop.run(self._time(loops))

    def close(self) -> None:
        """Disconnect the peer, if this process opened it, and close the event loop."""
        if self._peer is not None:
            self._loop.run(self._peer.close())
        self._loop.close()

    async def _time(self, loops: int) -> float:
        if self._peer is None:
            self._peer = await self._open_checked()
        match self._work:
            case Work.L1_HIT | Work.L2_HIT:
                return await self._time_calls(self._peer.check, loops, self._repeated)
            case Work.MISS_STORE:
                return await self._time_calls(self._miss_and_store(self._peer), loops, self._unasked)
            case Work.STAMPEDE:
                return sum([await self._time_stampede(self._peer) for _ in range(loops)])

    def _repeated(self, count: int) -> list[Params]:
        if self._fixed is not None:
            return [self._fixed] * count
        return [self._size.build(None) for _ in range(count)]

    def _unasked(self, count: int) -> list[Params]:
        return [self._size.build(number) for number in itertools.islice(self._numbers, count)]

    async def _time_calls(
        self, call: Callable[[Params], Awaitable[Any]], loops: int, make: Callable[[int], list[Params]]
    ) -> float:
        """Time ``loops`` calls one after another; the requests are built and the last answer compared off the
        clock.
        """
        seconds, found = 0.0, None
        while loops > 0:
            batch = make(min(loops, _BATCH))
            loops -= len(batch)
            start = perf_counter()
            for params in batch:
                found = await call(params)
            seconds += perf_counter() - start
            if self._work is not Work.MISS_STORE:
                self._expect(found)
            await asyncio.sleep(0)
        return seconds

    def _miss_and_store(self, peer: Peer) -> Callable[[Params], Awaitable[None]]:
        check, store, answer = peer.check, peer.store, self._size.answer

        async def miss_and_store(params: Params) -> None:
            await check(params)
            await store(params, answer)

        return miss_and_store

    async def _time_stampede(self, peer: Peer) -> float:
        """Time until all callers of one request that nobody asked before have their answer."""
        number = next(self._numbers)
        batch = [self._size.build(number) for _ in range(CALLERS)]
        self._loader_calls = 0
        start = perf_counter()
        found = await asyncio.gather(*map(peer.get_or_load, batch))
        seconds = perf_counter() - start
        for each in found:
            self._expect(each)
        if self._info.single_flight and self._loader_calls != 1:
            raise WrongAnswerError(f"{self._info.title} called the loader {self._loader_calls} times, not once")
        self.loader_calls_max = max(self.loader_calls_max, self._loader_calls)
        return seconds

    async def _load(self, params: Params) -> Answer:
        self._loader_calls += 1
        await asyncio.sleep(LOADER_SECONDS)
        return self._size.answer

    async def _opened(self, work: Work) -> Peer:
        peer = make_peer(self._peer_name)
        await peer.open(self._endpoint, work, self._load)
        self._peer = peer  # so that close() finds it when a check fails
        return peer

    async def _open_checked(self) -> Peer:
        """Open the peer on an empty Valkey and see it do its work, each level being the one that the work
        names.
        """
        with Counters(self._endpoint) as counters:
            counters.flush_server()
            peer = await self._opened(self._work)
            match self._work:
                case Work.L1_HIT | Work.L2_HIT:
                    await self._check_hits(peer, counters)
                case Work.MISS_STORE:
                    await self._check_stores(peer, counters)
                case Work.STAMPEDE:
                    await self._time_stampede(peer)
        return peer

    async def _check_hits(self, peer: Peer, counters: Counters) -> None:
        if self._info.is_cache:
            self._expect_miss(await peer.check(self._size.build(None)))
        await peer.store(self._size.build(None), self._size.answer)
        await asyncio.sleep(0.05)  # own invalidations of the store may still be on their way
        before = counters.reads()
        for params in self._repeated(_CHECKED_CALLS):
            self._expect(await peer.check(params))
        reads = counters.reads() - before
        expected = 0 if self._work is Work.L1_HIT and self._info.has_l1 else _CHECKED_CALLS
        if reads != expected:
            done = f"{reads} times in {_CHECKED_CALLS} lookups"
            raise WrongAnswerError(f"{self._info.title} read Valkey {done}, not {expected}")

    async def _check_stores(self, peer: Peer, counters: Counters) -> None:
        before = counters.keys()
        asked = self._unasked(_CHECKED_CALLS)
        for params in asked:
            self._expect_miss(await peer.check(params))
            await peer.store(params, self._size.answer)
        if counters.keys() - before < _CHECKED_CALLS:
            raise WrongAnswerError(f"{self._info.title} stored {_CHECKED_CALLS} answers, Valkey holds fewer")
        for params in asked:
            self._expect(await peer.check(params))

    def _expect(self, found: Any) -> None:
        assert self._peer is not None
        try:
            answer = self._peer.answer(found)
        except ValueError as error:
            raise WrongAnswerError(str(error)) from error
        if answer != self._size.answer:
            raise WrongAnswerError(f"{self._info.title} answered {answer!r}, not {self._size.answer!r}")

    def _expect_miss(self, found: Any) -> None:
        assert self._peer is not None
        if self._peer.answer(found) is not None:
            raise WrongAnswerError(f"{self._info.title} had an answer to what was never asked")
