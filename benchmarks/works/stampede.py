"""The stampede: 1,000 identical misses at once, in one process and in eight."""

import asyncio
import itertools
import json
import sys

from benchmarks.data import SIZES, Answer, Params
from benchmarks.peers.protocol import Peer
from benchmarks.timing import Clock, Measured
from benchmarks.works.work import Bench, Variant, Work, WrongAnswerError, expect

CALLERS = 1_000
PROCESSES = 8
LOADER_SECONDS = 0.05


class CountingLoader:
    """A loader that takes 50 ms, like a fast model, and counts its calls."""

    def __init__(self, answer: Answer) -> None:
        self.calls = 0
        self._answer = answer

    async def __call__(self, params: Params) -> Answer:
        self.calls += 1
        await asyncio.sleep(LOADER_SECONDS)
        return self._answer


async def stampede(peer: Peer, number: int, callers: int) -> tuple[Clock, int]:
    """Let ``callers`` tasks make the same request at once; return the time and the number of loader calls."""
    size = SIZES["short"]
    batch = [size.build(number) for _ in range(callers)]
    loader = CountingLoader(size.reply(number))
    assert peer.get_or_load is not None
    clock = Clock()
    with clock:
        found = await asyncio.gather(*(peer.get_or_load(params, loader) for params in batch))
    for each in found:
        expect(peer, each, size.reply(number))
    return clock, loader.calls


class Stampede(Work):
    name = "stampede"
    title = "1,000 identical misses, one process"
    explained = "`get_or_load` by 1,000 tasks at once with a loader of 50 ms, until all have the answer"
    needs = ("get_or_load",)

    def variants(self) -> list[Variant]:
        return [Variant("1000", "50 ms loader", "one process", use="any", callers=CALLERS)]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        numbers, most = itertools.count(), 0

        async def body(loops: int) -> tuple[Clock, int]:
            nonlocal most
            total = Clock()
            for _ in range(loops):
                clock, calls = await stampede(peer, next(numbers), CALLERS)
                if peer.single_flight and calls != 1:
                    raise WrongAnswerError(f"{peer.title} called the loader {calls} times, not once")
                most = max(most, calls)
                total.wall, total.cpu = total.wall + clock.wall, total.cpu + clock.cpu
            return total, loops

        await body(1)  # Opens the connections.
        measured = await bench.sample(body)
        measured.notes["loader_calls"] = most
        return measured


class StampedeProcesses(Work):
    name = "stampede-processes"
    title = "1,000 identical misses, eight processes"
    quick = False
    explained = "the same by 125 tasks in each of eight processes, which start together"
    needs = ("get_or_load",)
    unpinned = True
    rounds = 1

    def variants(self) -> list[Variant]:
        return [Variant("1000", "50 ms loader", "eight processes", callers=CALLERS)]

    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured:
        endpoint = bench.endpoint
        command = (sys.executable, "-m", "benchmarks.works.stampede_child", bench.peer_name, endpoint.host)
        processes = [
            await asyncio.create_subprocess_exec(
                *command, str(endpoint.port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            for _ in range(PROCESSES)
        ]
        try:
            await asyncio.gather(*map(_line, processes))  # Returns when all are connected.
            measured = Measured(loops=1)
            for number in range(bench.budget.values + 1):
                calls = await self._time(processes, number, measured if number else Measured())
                measured.notes["loader_calls"] = max(calls, measured.notes.get("loader_calls", 0))
            return measured
        finally:
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()
            await asyncio.gather(*(process.wait() for process in processes))

    async def _time(self, processes: list[asyncio.subprocess.Process], number: int, measured: Measured) -> int:
        clock = Clock()
        with clock:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{number}\n".encode())
            done = [json.loads(line) for line in await asyncio.gather(*map(_line, processes))]
        clock.cpu = sum(each["cpu"] for each in done)
        measured.add(clock, 1)
        return sum(each["calls"] for each in done)


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise WrongAnswerError(f"a process has ended with {await process.wait()}")
    return line.decode()
