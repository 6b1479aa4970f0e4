"""Hits: of requests by size, level and number of callers, by a key made beforehand, of tools, sessions and batches."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from benchmarks.data import PARTED, SIZES
from benchmarks.peers.protocol import Peer
from benchmarks.timing import Clock, Measured
from benchmarks.works.work import (
    Bench,
    Variant,
    Work,
    WrongAnswerError,
    expect,
    expect_level,
    size_of,
)

CALLERS = (1, 10, 100, 1_000)
_QUICK_CALLERS = (1, 100)
_CHUNK_CALLS = 256
_CALLS_A_CALLER = {"l1": 8, "l2": 4}
"""Of each caller, by level: fewer and its own task would be part of the figure."""
_FEWEST_KNOWN = 16
_CHECKED_CALLS = 50
_BATCH = 100
_TOGETHER = 100
"""Stored or looked up at once before the clock starts."""
_PATIENCE = (0.01, 0.05, 0.2)
"""Seconds to wait for what the server tells of own stores, each time that a level is checked."""


class Lookups(Work):
    """Calls that find what was stored before; each result is kept, and compared when the clock stands."""

    keeps_arguments: ClassVar[bool] = False
    """Whether each call for an entry is given the same object, and not one newly built."""

    @abstractmethod
    async def store(self, peer: Peer, variant: Variant, number: int) -> None:
        """Store entry ``number``."""

    @abstractmethod
    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        """The timed call."""

    @abstractmethod
    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        """What the call is given for entry ``number``; newly built, unless they are kept."""

    @abstractmethod
    def compare(self, peer: Peer, variant: Variant, found: Any, number: int) -> None:
        """Raise if the call has not returned entry ``number``."""

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        known = max(_FEWEST_KNOWN, variant.callers)
        level = variant.use if variant.use in peer.levels else "l2"
        argument = self._arguments(peer, variant, known)
        await self._prepare(peer, variant, bench, argument, known)

        async def body(loops: int) -> tuple[Clock, int]:
            clock, done = Clock(), 0
            while done < loops:
                few, many = _CALLS_A_CALLER[level], _CHUNK_CALLS // variant.callers
                each = min(loops - done, _CHUNK_CALLS) if variant.callers == 1 else max(few, many)
                # Every caller asks for something else: nobody profits from sharing one answer among all.
                numbers = [[(caller + turn) % known for turn in range(each)] for caller in range(variant.callers)]
                found = await self._ask(peer, variant, clock, argument, numbers)
                if variant.use in peer.levels:
                    expect_level(peer, found, variant.use)
                done += each * variant.callers
                await asyncio.sleep(0)
            return clock, done

        return await bench.sample(body)

    def _arguments(self, peer: Peer, variant: Variant, known: int) -> Callable[[int], Any]:
        if not self.keeps_arguments:
            return lambda number: self.argument(peer, variant, number)
        return [self.argument(peer, variant, number) for number in range(known)].__getitem__

    async def _ask(
        self, peer: Peer, variant: Variant, clock: Clock, argument: Callable[[int], Any], numbers: list[list[int]]
    ) -> list[Any]:
        """Have each caller look up its numbers; return what was found, compared."""
        asked = [[argument(number) for number in line] for line in numbers]
        lines = await _timed(clock, self.call(peer, variant), asked)
        for line, wanted in zip(lines, numbers, strict=True):
            for found, number in zip(line, wanted, strict=True):
                self.compare(peer, variant, found, number)
        return [found for line in lines for found in line]

    async def _prepare(
        self, peer: Peer, variant: Variant, bench: Bench, argument: Callable[[int], Any], known: int
    ) -> None:
        """Store what is looked up, see that it is found, and by counting at the server that the level meant answers."""
        together = min(variant.callers, _TOGETHER)
        for first in range(0, known, together):
            numbers = range(first, min(first + together, known))
            await asyncio.gather(*(self.store(peer, variant, number) for number in numbers))
        await peer.settle()
        expected = 0 if variant.use == "l1" and "l1" in peer.levels else _CHECKED_CALLS
        checked = [turn % known for turn in range(_CHECKED_CALLS)]
        for seconds in _PATIENCE:
            await asyncio.sleep(seconds)
            # All callers at once: each has its connection before the clock starts.
            callers = [list(range(first, known, variant.callers)) for first in range(variant.callers)]
            await self._ask(peer, variant, Clock(), argument, callers)
            await asyncio.sleep(seconds)
            before = bench.counters.reads()
            await self._ask(peer, variant, Clock(), argument, [checked])
            reads = bench.counters.reads() - before
            if reads == expected:
                return
        raise WrongAnswerError(f"{peer.title} read Valkey {reads} times in {_CHECKED_CALLS} lookups")


async def _timed(clock: Clock, call: Callable[[Any], Awaitable[Any]], asked: list[list[Any]]) -> list[list[Any]]:
    """Have every caller go through its list; the tasks are there before the clock starts."""
    if len(asked) == 1:
        with clock:
            return [[await call(argument) for argument in asked[0]]]
    gate = asyncio.Event()

    async def caller(arguments: list[Any]) -> list[Any]:
        await gate.wait()
        return [await call(argument) for argument in arguments]

    tasks = [asyncio.create_task(caller(arguments)) for arguments in asked]
    await asyncio.sleep(0)
    with clock:
        gate.set()
        return await asyncio.gather(*tasks)


class _Requests(Lookups):
    async def store(self, peer: Peer, variant: Variant, number: int) -> None:
        await peer.store(size_of(variant).build(number), size_of(variant).reply(number))

    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        return peer.check

    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        return size_of(variant).build(number)

    def compare(self, peer: Peer, variant: Variant, found: Any, number: int) -> None:
        expect(peer, found, size_of(variant).reply(number))


def _by_callers(use: str) -> list[Variant]:
    return [
        Variant(
            f"{size.name}-{callers}",
            table=size.title,
            column=f"{callers:,} caller" + "s" * (callers > 1),
            use=use,
            size=size.name,
            callers=callers,
            quick=callers in _QUICK_CALLERS and size.name not in PARTED,
        )
        for size in SIZES.values()
        for callers in (CALLERS if size.name not in PARTED else (1,))
    ]


class L1Hit(_Requests):
    name = "l1-hit"
    title = "L1 hit"
    explained = "`check` of what this process has in memory"

    def variants(self) -> list[Variant]:
        return _by_callers("l1")


class L2Hit(_Requests):
    name = "l2-hit"
    title = "L2 hit"
    explained = "`check` of what only Valkey has; memory is off"

    def variants(self) -> list[Variant]:
        return _by_callers("l2")


class PreparedHit(_Requests):
    name = "prepared-hit"
    title = "L1 hit by a key made beforehand"
    quick = False
    explained = "the same when the caller has kept the key of its request; only the lookup is timed"
    needs = ("prepare", "check_prepared")
    keeps_arguments = True

    def variants(self) -> list[Variant]:
        return [
            Variant(size.name, "one caller", size.title, use="l1", size=size.name)
            for size in SIZES.values()
            if size.name not in PARTED
        ]

    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        assert peer.check_prepared is not None
        call: Callable[[Any], Awaitable[Any]] = peer.check_prepared
        return call

    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        assert peer.prepare is not None
        return peer.prepare(size_of(variant).build(number))


class GatherChecks(_Requests):
    """100 checks at once, as an agent that fans out makes them."""

    name = "gather-checks"
    title = "100 checks at once"
    quick = False
    explained = "`asyncio.gather` of 100 checks of different requests, one each"

    def variants(self) -> list[Variant]:
        return [Variant(use, "time a check", use.upper(), use=use, callers=_BATCH) for use in ("l1", "l2")]
