"""Growth: the cost of a hit by number of entries and by length of the message; memory per entry."""

import gc
import random
import sys
import tracemalloc
from collections.abc import Callable

from benchmarks.data import NAME, SIZES, Params, message, request_key
from benchmarks.peers.protocol import Endpoint, Peer, Setting
from benchmarks.timing import Body, Clock, Measured
from benchmarks.works.work import Bench, Variant, Work, expect, size_of, wait_for_own_invalidations

ENTRIES = (1_000, 10_000, 100_000, 1_000_000)
LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
_ROOM = 2_000_000
_CHUNK_CALLS = 256
_CHUNK_CHARACTERS = 8_000_000
_MEASURED_ENTRIES = 5_000
_KINDS = {"new": "new string", "held": "string held by the program"}


class Entries(Work):
    """Hits in random order among more and more entries in process memory, without Valkey."""

    name = "entries"
    title = "L1 hit by number of entries"
    quick = False
    explained = "short requests in random order, in a cache without Valkey"
    rounds = 1

    def variants(self) -> list[Variant]:
        return [Variant(f"{count}", "entries in memory", f"{count:,}", use="memory", count=count) for count in ENTRIES]

    def setting(self, endpoint: Endpoint, variant: Variant) -> Setting:
        return Setting(endpoint, variant.use, max_entries=_ROOM)

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        size = size_of(variant)
        gc.disable()  # The collector would walk all entries again and again.
        try:
            for number in range(variant.count):
                await peer.store(size.build(number), size.reply(number))
        finally:
            gc.enable()
        gc.collect()
        chance = random.Random(1)
        return await bench.sample(_hits(peer, _CHUNK_CALLS, size.build, lambda: chance.randrange(variant.count)))


class Length(Work):
    """Hits in process memory by the length of the only message."""

    name = "length"
    title = "L1 hit by length of the message"
    quick = False
    explained = "one user message by number of characters: a new string in each call, or one that the program holds"
    rounds = 1

    def variants(self) -> list[Variant]:
        return [
            Variant(f"{kind}-{count}", title, f"{count:,}", use="l1", count=count)
            for kind, title in _KINDS.items()
            for count in LENGTHS
        ]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        held = message(variant.count, 0)["messages"][0]["content"] if variant.name.startswith("held") else ""
        await peer.store(message(variant.count, 0), size_of(variant).reply(0))
        await peer.settle()
        await wait_for_own_invalidations()
        hits = _hits(
            peer,
            max(1, min(_CHUNK_CALLS, _CHUNK_CHARACTERS // variant.count)),
            lambda number: message(variant.count, number, held=held),
            lambda: 0,
        )
        await hits(1)
        return await bench.sample(hits)


def _hits(peer: Peer, chunk: int, build: Callable[[int], Params], choose: Callable[[], int]) -> Body:
    """Return a body that looks up chosen requests in chunks.

    Each request is built before the clock starts, and each answer is compared after the clock stops.
    """
    check, reply = peer.check, SIZES["short"].reply

    async def body(loops: int) -> tuple[Clock, int]:
        clock, done = Clock(), 0
        while done < loops:
            numbers = [choose() for _ in range(min(chunk, loops - done))]
            requests = [build(number) for number in numbers]
            with clock:
                found = [await check(params) for params in requests]
            for each, number in zip(found, numbers, strict=True):
                expect(peer, each, reply(number))
            done += len(numbers)
        return clock, done

    return body


class Memory(Work):
    """Bytes of process memory per entry, beyond the text of its key and the JSON of its value."""

    name = "memory"
    title = "Memory per entry beyond key and value"
    explained = "tracemalloc in a new process, 5,000 entries, less the str of the key and the str of the value's JSON"
    unit = "byte"
    fresh_process = True
    rounds = 1

    def variants(self) -> list[Variant]:
        return [
            Variant("answers", "bytes", "answers of short requests", use="l1"),
            Variant("values", "bytes", "key and value", use="l1"),
        ]

    def offers(self, peer: type[Peer], variant: Variant) -> bool:
        return super().offers(peer, variant) and "l1" in peer.levels and (variant.name == "answers" or peer.can("set"))

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        size = size_of(variant)
        plain = 0
        await self._store(peer, variant, _MEASURED_ENTRIES)
        tracemalloc.start()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(_MEASURED_ENTRIES):
            await self._store(peer, variant, number)
            key = f"{NAME}:llm:{request_key(number)}" if variant.name == "answers" else f"key-{number:060}"
            plain += sys.getsizeof(key) + sys.getsizeof(size.reply(number).as_json())
        for number in range(_MEASURED_ENTRIES):  # Some caches fill their memory when they read.
            await self._check(peer, variant, number)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return Measured([max(1.0, (held - plain) / _MEASURED_ENTRIES)], [1.0], 1)

    async def _store(self, peer: Peer, variant: Variant, number: int) -> None:
        answer = SIZES["short"].reply(number)
        if variant.name == "answers":
            await peer.store(SIZES["short"].build(number), answer)
        else:
            assert peer.set is not None
            await peer.set(f"key-{number:060}", answer.as_json())

    async def _check(self, peer: Peer, variant: Variant, number: int) -> None:
        answer = SIZES["short"].reply(number)
        if variant.name == "answers":
            expect(peer, await peer.check(SIZES["short"].build(number)), answer)
        else:
            assert peer.get is not None
            found = await peer.get(f"key-{number:060}")
            assert found == answer.as_json(), found


class Pipeline(Work):
    """The speed of the server with a client that does almost nothing: 100 GETs in one packet."""

    name = "pipeline"
    title = "The server's own speed"
    explained = "100 GETs in one packet on a blocking socket, time per GET: `valkey-benchmark -P 100` written in Python"
    needs = ("pipelined",)
    _depth = 100

    def variants(self) -> list[Variant]:
        return [
            Variant(name, "time per GET", SIZES[name].title, use="l2", size=name, callers=self._depth)
            for name in ("short", "chat")
        ]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        assert peer.pipelined is not None
        value = size_of(variant).reply(0).as_json().encode()
        pipeline = await peer.pipelined(b"bench:pipeline", value, self._depth)

        async def body(loops: int) -> tuple[Clock, int]:
            clock = Clock()
            with clock:
                for _ in range(loops):
                    pipeline.ask()
            return clock, loops * self._depth

        try:
            return await bench.sample(body)
        finally:
            pipeline.close()
