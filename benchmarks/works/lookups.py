"""Hits: requests by size, level and number of callers; lookups by a kept key; many checks at once."""

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
    expect_equal,
    expect_level,
    size_of,
)

CALLERS = (1, 10, 100, 1_000)
_QUICK_CALLERS = (1, 100)
_CHUNK_CALLS = 256
_CALLS_A_CALLER = {"l1": 8, "l2": 4}
"""Calls of each caller, by level. With fewer calls, the cost of its task would show in the figure."""
_MIN_ENTRIES = 16
_CHECKED_CALLS = 50
_BATCH = 100
_STORES_AT_ONCE = 100
"""Stores that run at once before the clock starts."""
_WAIT_SECONDS = (0.01, 0.05, 0.2)
"""Seconds to wait for the invalidation messages of own stores, for each attempt to check the level."""


class Lookups(Work):
    """Calls that find entries stored before. Results are kept, and compared after the clock stops."""

    keeps_arguments: ClassVar[bool] = False
    """Whether all calls for an entry get the same object; otherwise each call gets a new one."""

    @abstractmethod
    async def store(self, peer: Peer, variant: Variant, number: int) -> None:
        """Store entry ``number``."""

    @abstractmethod
    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        """Return the timed call."""

    @abstractmethod
    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        """Return the argument of the call for entry ``number``: a new object, unless ``keeps_arguments``."""

    @abstractmethod
    def compare(self, peer: Peer, variant: Variant, found: Any, number: int) -> None:
        """Raise WrongAnswerError unless ``found`` is entry ``number``."""

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        known = max(_MIN_ENTRIES, variant.callers)
        level = variant.use if variant.use in peer.levels else "l2"
        argument = self._arguments(peer, variant, known)
        await self._prepare(peer, variant, bench, argument, known)

        async def body(loops: int) -> tuple[Clock, int]:
            clock, done = Clock(), 0
            while done < loops:
                few, many = _CALLS_A_CALLER[level], _CHUNK_CALLS // variant.callers
                each = min(loops - done, _CHUNK_CALLS) if variant.callers == 1 else max(few, many)
                # Every caller asks for another entry, so that no cache gains by sharing one answer among all callers.
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
        """Let each caller look up its numbers; compare the results and return them."""
        arguments = [[argument(number) for number in line] for line in numbers]
        lines = await _timed(clock, self.call(peer, variant), arguments)
        for line, wanted in zip(lines, numbers, strict=True):
            for found, number in zip(line, wanted, strict=True):
                self.compare(peer, variant, found, number)
        return [found for line in lines for found in line]

    async def _prepare(
        self, peer: Peer, variant: Variant, bench: Bench, argument: Callable[[int], Any], known: int
    ) -> None:
        """Store the entries; check by the reads that Valkey counted that the expected level answers the lookups."""
        together = min(variant.callers, _STORES_AT_ONCE)
        for first in range(0, known, together):
            numbers = range(first, min(first + together, known))
            await asyncio.gather(*(self.store(peer, variant, number) for number in numbers))
        await peer.settle()
        expected = 0 if variant.use == "l1" and "l1" in peer.levels else _CHECKED_CALLS
        checked = [turn % known for turn in range(_CHECKED_CALLS)]
        for seconds in _WAIT_SECONDS:
            await asyncio.sleep(seconds)
            # All callers at once, so that each has its connection before the clock starts.
            callers = [list(range(first, known, variant.callers)) for first in range(variant.callers)]
            await self._ask(peer, variant, Clock(), argument, callers)
            await asyncio.sleep(seconds)
            before = bench.counters.reads()
            await self._ask(peer, variant, Clock(), argument, [checked])
            reads = bench.counters.reads() - before
            if reads == expected:
                return
        raise WrongAnswerError(f"{peer.title} read Valkey {reads} times in {_CHECKED_CALLS} lookups")


async def _timed(clock: Clock, call: Callable[[Any], Awaitable[Any]], lists: list[list[Any]]) -> list[list[Any]]:
    """Let every caller make the calls of its list; the tasks exist before the clock starts."""
    if len(lists) == 1:
        with clock:
            return [[await call(argument) for argument in lists[0]]]
    gate = asyncio.Event()

    async def caller(arguments: list[Any]) -> list[Any]:
        await gate.wait()
        return [await call(argument) for argument in arguments]

    tasks = [asyncio.create_task(caller(arguments)) for arguments in lists]
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
    explained = "`check` of an entry that this process has in memory"

    def variants(self) -> list[Variant]:
        return _by_callers("l1")


class L2Hit(_Requests):
    name = "l2-hit"
    title = "L2 hit"
    explained = "`check` of an entry that only Valkey has; memory is off"

    def variants(self) -> list[Variant]:
        return _by_callers("l2")


class PreparedHit(_Requests):
    name = "prepared-hit"
    title = "L1 hit by a kept key"
    quick = False
    explained = "the same for a caller that keeps the key of its request; only the lookup is timed"
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


class DecoratedHit(Lookups):
    name = "decorated-hit"
    title = "L1 hit of a decorated function"
    quick = False
    explained = "a decorated function with one short text; *by key*: `kv.get_or_load` with the key of the same entry"
    needs = ("decorated",)

    def variants(self) -> list[Variant]:
        return [
            Variant("function", "one caller", "decorated", use="l1"),
            Variant("key", "one caller", "by key", use="l1"),
        ]

    def offers(self, peer: type[Peer], variant: Variant) -> bool:
        return super().offers(peer, variant) and (variant.name == "function" or peer.can("by_decorated_key"))

    async def store(self, peer: Peer, variant: Variant, number: int) -> None:
        assert peer.decorated is not None
        await peer.decorated(_question(number))

    def call(self, peer: Peer, variant: Variant) -> Callable[[Any], Awaitable[Any]]:
        call: Any = peer.decorated if variant.name == "function" else peer.by_decorated_key
        return call  # type: ignore[no-any-return]

    def argument(self, peer: Peer, variant: Variant, number: int) -> Any:
        text = _question(number)
        return text if variant.name == "function" else peer.decorated_key(text)

    def compare(self, peer: Peer, variant: Variant, found: Any, number: int) -> None:
        value = found if isinstance(found, str) else found.value
        expect_equal(peer, value, f"the answer to {_question(number)}")


def _question(number: int) -> str:
    return f"question {number}"


class GatherChecks(_Requests):
    """100 checks at once, like those of an agent that fans out."""

    name = "gather-checks"
    title = "100 checks at once"
    quick = False
    explained = "`asyncio.gather` of 100 checks, each of another request"

    def variants(self) -> list[Variant]:
        return [Variant(use, "time per check", use.upper(), use=use, callers=_BATCH) for use in ("l1", "l2")]
