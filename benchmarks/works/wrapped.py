"""Clients that ``wrap`` returns, beside the bare SDK in the same process, in turns."""

import asyncio
import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

from benchmarks import sdk
from benchmarks.peers.protocol import Peer
from benchmarks.peers.sdk import Sdk
from benchmarks.provider import EVENTS, chats_asked, running_provider
from benchmarks.server import other_cores
from benchmarks.timing import Clock, Measured
from benchmarks.works.work import Bench, Variant, Work, WrongAnswerError

TOGETHER = 50
PROCESSES = 4
_CALLS = 10
"""Calls of one value of a hit."""
_TURNS = 8
"""Turns of hits for each value of the budget."""
_MISSES = 12
"""Pairs of misses for each value of the budget."""
_PAUSE = 0.01
"""Seconds between two misses."""
_FAST, _MODEL = "/5/2", "/300/50"
"""Times of the provider, in ms: to the first part, and between parts."""

Side = Callable[[], Awaitable[Clock]]


class Wrapped(Work):
    """A work of wrapped clients. It measures the SDK too."""

    needs = ("wrap",)

    def offers(self, peer: type[Peer], variant: Variant) -> bool:
        return super().offers(peer, variant) and not Sdk.missing()


async def _turns(sides: dict[str, Side], count: int, calls: int = 1) -> dict[str, Measured]:
    """Take ``count`` values of each side, in turns; a side makes ``calls`` calls for a value."""
    measured = {name: Measured(loops=calls) for name in sides}
    for turn in range(count):
        for name in sides if turn % 2 else reversed(sides):
            measured[name].add(await sides[name](), calls)
    return measured


class WrappedHit(Wrapped):
    name = "wrapped-hit"
    title = "Wrapped client, hit"
    explained = (
        "a chat completion of OpenAI's SDK from the cache, whole and as a stream of 36 events; the bare SDK gets the "
        "same bytes from a mock transport"
    )

    def variants(self) -> list[Variant]:
        tables = (("l1", "L1", "l1"), ("l2", "L2", "l2"), ("plain", "L1, plain client", "l1"))
        return [
            Variant(f"{name}-{form}", table, form, use=use)
            for name, table, use in tables
            for form in ("whole", "stream")
        ]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> dict[str, Measured]:
        kind, _, form = variant.name.partition("-")
        is_stream, plain = form == "stream", kind == "plain"
        assert peer.wrap is not None
        bare = sdk.mock_client(plain=plain)
        clients = {"sdk": bare, "tiercache": peer.wrap(bare)}
        measure = _plain_hits if plain else _hits
        for client in clients.values():
            await measure(client, is_stream)
        source = await _source(clients["tiercache"], is_stream, plain)
        if source != variant.use:
            raise WrongAnswerError(f"{peer.title} answered from {source!r}, not from {variant.use!r}")
        sides: dict[str, Side] = {
            name: lambda client=client: measure(client, is_stream)  # type: ignore[misc]
            for name, client in clients.items()
        }
        return await _turns(sides, _TURNS * bench.budget.values, _CALLS)


async def _hits(client: Any, is_stream: bool) -> Clock:
    clock = Clock()
    with clock:
        texts = [await sdk.text_of(client, 1, stream=is_stream) for _ in range(_CALLS)]
    _check(texts)
    return clock


async def _plain_hits(client: Any, is_stream: bool) -> Clock:
    clock = Clock()

    def call() -> list[str]:
        with clock:
            return [sdk.plain_text_of(client, 1, stream=is_stream) for _ in range(_CALLS)]

    _check(await asyncio.to_thread(call))
    return clock


async def _source(client: Any, is_stream: bool, plain: bool) -> str:
    if plain:
        return await asyncio.to_thread(sdk.plain_source_of, client, 1, stream=is_stream)
    return await sdk.source_of(client, 1, stream=is_stream)


def _check(texts: list[str]) -> None:
    for text in texts:
        if text != sdk.TEXT:
            raise WrongAnswerError(f"an answer is {text!r}")


class WrappedFirstPart(Wrapped):
    name = "wrapped-first-part"
    title = "Wrapped client, first part of a streamed miss"
    explained = (
        "from the call to the first part; the provider is a local process on another core, and sends that part after "
        "5 ms"
    )

    def variants(self) -> list[Variant]:
        return [Variant("first", "one caller", "to the first part")]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> dict[str, Measured]:
        assert peer.wrap is not None
        numbers = itertools.count()
        # On the core of the client, it would wait for the client before its 5 ms begin.
        async with running_provider(other_cores()) as url:
            bare = sdk.client_of(url + _FAST)
            clients = {"sdk": bare, "tiercache": peer.wrap(bare)}
            sides: dict[str, Side] = {
                name: lambda client=client: _first_part(client, next(numbers))  # type: ignore[misc]
                for name, client in clients.items()
            }
            await _turns(sides, 4)
            measured = await _turns(sides, _MISSES * bench.budget.values)
            await bare.close()
        return measured


async def _first_part(client: Any, number: int) -> Clock:
    clock, parts = Clock(), []
    # The answer of the call before, which may be one of the other side, is stored by then.
    await asyncio.sleep(_PAUSE)
    start = perf_counter()
    async for part in sdk.parts_of(client, number):
        clock.wall = clock.wall or perf_counter() - start
        parts.append(part)
    _check(["".join(parts)])
    return clock


class WrappedTogether(Wrapped):
    name = "wrapped-together"
    title = "Wrapped client, 50 identical streams at once"
    explained = "until all have the last of 36 parts; the provider sends the first after 300 ms and one every 50 ms"
    unpinned: ClassVar[bool] = True

    def variants(self) -> list[Variant]:
        counts = (("one", "one stream", 1), ("fifty", "50 streams", TOGETHER))
        return [Variant(name, "one process", column, use="any", count=count) for name, column, count in counts]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> dict[str, Measured]:
        assert peer.wrap is not None
        numbers = itertools.count()
        async with running_provider() as url:
            bare = sdk.client_of(url + _MODEL)
            clients = {"sdk": bare, "tiercache": peer.wrap(bare)}
            measured = {}
            for name, client in clients.items():
                before = await chats_asked(url)
                measured[name] = Measured(loops=1)
                measured[name].add(await _together(client, next(numbers), variant.count), 1)
                measured[name].notes["loader_calls"] = await chats_asked(url) - before
            await bare.close()
        if measured["tiercache"].notes["loader_calls"] != 1:
            raise WrongAnswerError("the same stream was asked for more than once")
        return measured


async def _together(client: Any, number: int, count: int) -> Clock:
    clock = Clock()
    with clock:
        texts = await asyncio.gather(*(sdk.text_of(client, number, stream=True) for _ in range(count)))
    _check(texts)
    return clock


class WrappedFollow(Wrapped):
    name = "wrapped-follow"
    title = "Wrapped client, readers in other processes"
    explained = (
        "one stream in four processes: the delay of each part behind the process whose request it is; the provider "
        "sends the first part after 300 ms and one every 50 ms"
    )
    unpinned: ClassVar[bool] = True

    def variants(self) -> list[Variant]:
        return [Variant("delay", "median of all parts", "behind the leader", use="any")]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        async with running_provider() as url:
            endpoint = bench.endpoint
            command = (sys.executable, "-m", "benchmarks.works.wrapped_child", bench.peer_name, url + _MODEL)
            processes = [
                await asyncio.create_subprocess_exec(
                    *(*command, endpoint.host, str(endpoint.port)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
                for _ in range(PROCESSES)
            ]
            try:
                await asyncio.gather(*map(_line, processes))  # Returns when all are connected.
                measured = Measured(loops=1)
                for number in range(bench.budget.values):
                    delays = await _delays(processes, number)
                    measured.wall.append(max(median(delays), 1e-9))
                    measured.notes["most"] = max(*delays, measured.notes.get("most", 0.0))
                measured.notes["loader_calls"] = await chats_asked(url) / bench.budget.values
                return measured
            finally:
                for process in processes:
                    assert process.stdin is not None
                    process.stdin.close()
                await asyncio.gather(*(process.wait() for process in processes))


async def _delays(processes: list[asyncio.subprocess.Process], number: int) -> list[float]:
    """Let all processes ask for one stream; return how long each part arrived after it did at the leader."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{number}\n".encode())
    done = [json.loads(line) for line in await asyncio.gather(*map(_line, processes))]
    leaders = [each["moments"] for each in done if each["source"] == "loader"]
    if len(leaders) != 1 or any(len(each["moments"]) != len(EVENTS) for each in done):
        raise WrongAnswerError(f"{len(leaders)} processes made the request, or a reader got other parts")
    return [
        moment - first
        for each in done
        if each["source"] != "loader"
        for moment, first in zip(each["moments"], leaders[0], strict=True)
    ]


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise WrongAnswerError(f"a process has ended with {await process.wait()}")
    return line.decode()
