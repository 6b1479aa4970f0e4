"""The throughput of a fleet: processes and callers that do the same work with each cache, one cache after the other."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict

from benchmarks.driver import show_progress
from benchmarks.fleet.measuring import BusyClock, recorded
from benchmarks.fleet.member import Members
from benchmarks.fleet.plan import Plan, turned
from benchmarks.peers import Endpoint
from benchmarks.results import Case, Results
from benchmarks.server import Counters
from benchmarks.timing import Clock, Measured

WORK = "fleet-throughput"
_MODULE = "benchmarks.fleet.callers"


def case_of(processes: int, callers: int, peer: str) -> Case:
    """Return the case of a fleet."""
    return Case(WORK, f"{processes}x{callers}", peer)


def measure(plan: Plan, endpoint: Endpoint, counters: Counters, results: Results, number: int) -> None:
    """Measure round ``number`` into the results: each size of the fleet, with the caches in turns."""
    for processes in plan.processes:
        for peer in turned(plan.peers, number):
            cases = {callers: case_of(processes, callers, peer) for callers in plan.callers}
            counters.reset()
            with recorded(results, *cases.values()), opened(plan, endpoint, peer, processes) as members:
                clock = BusyClock(plan.rest_seconds, counters.cpu)
                for callers, case in cases.items():
                    if case.name not in results.failed:
                        show_progress(f"round {number + 1} of {plan.rounds}: {case.name}")
                        with recorded(results, case):
                            results.add({peer: measured(plan, members, clock, callers)}, case, number)


@contextlib.contextmanager
def opened(plan: Plan, endpoint: Endpoint, peer: str, processes: int) -> Iterator[Members]:
    """Store the entries by one process that ends; then start the fleet, whose processes have read nothing else."""
    arguments = {"peer": peer, "endpoint": asdict(endpoint)}
    with Members(_MODULE, 1) as first:
        first.ask("open", **arguments)
        first.ask("store", count=plan.stored)
    with Members(_MODULE, processes) as members:
        members.ask("open", **arguments)
        count = len(plan.callers) * (plan.values + 1)
        numbered = [{"process": each, "stored": plan.stored, "count": count} for each in range(processes)]
        members.ask_each("prepare", numbered)
        yield members


def measured(plan: Plan, members: Members, clock: BusyClock, callers: int) -> Measured:
    """Return the values of one case. The seconds of an operation are 1 / (operations a second of the whole fleet)."""
    members.ask("call", callers=callers, seconds=plan.seconds / 3)  # Opens the connections.
    found = Measured(loops=1)
    for _ in range(plan.values):
        with clock:
            answers = members.ask("call", callers=callers, seconds=plan.seconds)
        operations, total = sum(each["operations"] for each in answers), Clock()
        total.wall = operations / sum(each["operations"] / each["wall"] for each in answers)
        total.cpu = sum(each["cpu"] for each in answers)
        found.add(total, operations, *clock.seconds)
    return found
