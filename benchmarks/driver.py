"""The driver runs the rounds: one process for each peer, all peers of a case before the next case.

Every round measures every case once, in new processes, so that a disturbance of a minute affects all peers alike. Each
round starts with another peer, so that no peer is always the first. The first round finds out how many calls make a
value; later rounds use these counts.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.peers import Endpoint, peer_class
from benchmarks.process import CaseFailedError, Process, ProcessEndedError
from benchmarks.results import Case, Results
from benchmarks.server import Counters, cores, pin
from benchmarks.timing import Budget, Measured
from benchmarks.works import WORKS, Variant, Work


@dataclass
class Plan:
    """The works, peers and sizes to measure, and how."""

    peers: list[str]
    works: list[str]
    rounds: int
    budget: Budget
    quick: bool = False
    sizes: list[str] = field(default_factory=list)
    loop: str = "asyncio"
    pinned: bool = True

    def cases(self, work: Work) -> Iterator[tuple[Variant, list[str]]]:
        """Yield each variant of ``work`` to measure, with the peers that offer it."""
        for variant in work.variants():
            if (variant.quick or not self.quick) and (not self.sizes or variant.size in self.sizes):
                peers = [name for name in self.peers if work.offers(peer_class(name), variant)]
                if peers:
                    yield variant, peers


class Worker(Process):
    """The process that measures one peer. If the process has ended, the next case starts a new one."""

    def __init__(self, name: str, loop: str) -> None:
        super().__init__("benchmarks.worker", name, loop)

    def measure(self, request: dict[str, Any]) -> dict[str, Measured]:
        """Measure one case.

        Raises:
            CaseFailedError: The peer was wrong, or the process ended or took too long.
        """
        self.send(request)
        try:
            answer = self.receive()
        except ProcessEndedError:
            self.stop()
            self._start()
            raise
        return {name: Measured(**measured) for name, measured in answer["measured"].items()}


class Driver:
    """Measures a plan against a running server."""

    def __init__(self, plan: Plan, endpoint: Endpoint, server_pid: int, results: Results) -> None:
        self._plan = plan
        self._endpoint = endpoint
        self._server_pid = server_pid
        self._results = results
        self._loops: dict[Case, int] = {}
        self._cores = cores() if plan.pinned else []

    def run(self, after_round: Callable[[], object] = lambda: None) -> None:
        """Measure all rounds into the results.

        A case that fails is recorded with its reason, and later rounds leave it out.
        """
        with Counters(self._endpoint) as counters:
            for number in range(self._plan.rounds):
                if not sys.stderr.isatty():
                    print(f"round {number + 1} of {self._plan.rounds}", file=sys.stderr, flush=True)
                with contextlib.ExitStack() as stack:
                    workers = {name: Worker(name, self._plan.loop) for name in self._plan.peers}
                    for worker in workers.values():
                        stack.callback(worker.stop)
                    self._round(number, workers, counters)
                after_round()
        show_progress("")

    def _round(self, number: int, workers: dict[str, Worker], counters: Counters) -> None:
        for work in (WORKS[name] for name in self._plan.works):
            if number >= work.rounds:
                continue
            for variant, peers in self._plan.cases(work):
                first = number % len(peers)
                for peer in peers[first:] + peers[:first]:
                    case = Case(work.name, variant.name, peer)
                    if case.name in self._results.failed:
                        continue
                    show_progress(f"round {number + 1} of {self._plan.rounds}: {case.name}")
                    counters.reset(work.unrelated(variant))
                    try:
                        self._results.add(self._measure(case, work, variant, workers[peer]), case, number)
                    except CaseFailedError as error:
                        self._results.fail(case, str(error))

    def _measure(self, case: Case, work: Work, variant: Variant, worker: Worker) -> dict[str, Measured]:
        worker_cores, server_cores = self._cores_for(work, variant)
        pin(self._server_pid, server_cores)
        request = {
            "work": work.name,
            "variant": variant.name,
            "loops": self._loops.get(case, 0),
            "budget": asdict(self._plan.budget),
            "endpoint": asdict(self._endpoint),
            "cores": worker_cores,
        }
        if not work.fresh_process:
            measured = worker.measure(request)
        else:
            own = Worker(case.peer, self._plan.loop)
            try:
                measured = own.measure(request)
            finally:
                own.stop()
        if case.peer in measured:
            self._loops[case] = measured[case.peer].loops
        return measured

    def _cores_for(self, work: Work, variant: Variant) -> tuple[list[int], list[int]]:
        """Return the cores of the worker and the cores of the server.

        With one caller both share one core. On two cores, a sleeping core sometimes takes tens of microseconds to
        wake and sometimes none, and the figures flip between two speeds. With many callers each has its own core.
        """
        if not self._cores or work.unpinned:
            return self._cores, self._cores
        if variant.callers == 1 or len(self._cores) == 1:
            return self._cores[:1], self._cores[:1]
        return self._cores[:1], self._cores[1:2]


def show_progress(text: str) -> None:
    """Show the case in progress on one line, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
