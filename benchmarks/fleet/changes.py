"""The cost of one change by the number of caches that follow, for each way of tracking."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from benchmarks.driver import show_progress
from benchmarks.fleet.bare import HOLDERS
from benchmarks.fleet.measuring import BusyClock, recorded
from benchmarks.fleet.member import Members
from benchmarks.fleet.plan import Plan, turned
from benchmarks.peers import Endpoint
from benchmarks.results import SUBJECT, Case, Results
from benchmarks.server import Counters
from benchmarks.timing import Clock, Measured

CHANGES = ("load", "store", "invalidate")
FLOOR = "floor"
_MODULE = "benchmarks.fleet.followers"
_CACHES_A_PROCESS = 32
_CHECKED_KEYS = 10
_WARM_UP_SHARE = 0.1


def case_of(change: str, tracking: str, followers: int) -> Case:
    """Return the case of a change."""
    return Case(f"fleet-{change}", f"{tracking}-{followers}", SUBJECT)


def floor_case(followers: int) -> Case:
    """Return the case of the floor of an invalidation."""
    return Case("fleet-invalidate", f"bare-{followers}", FLOOR)


def measure(plan: Plan, endpoint: Endpoint, counters: Counters, results: Results, number: int) -> None:
    """Measure round ``number`` into the results: each number of followers, with the ways of tracking in turns."""
    for followers in plan.followers:
        for tracking in turned(plan.tracking, number):
            cases = {change: case_of(change, tracking, followers) for change in CHANGES}
            cases["bare"] = floor_case(followers)
            counters.reset()
            with recorded(results, *cases.values()), opened(endpoint, tracking, followers) as fleet:
                clock = BusyClock(plan.rest_seconds, counters.cpu, fleet.cpu)
                for change, case in cases.items():
                    if case.name not in results.failed:
                        show_progress(f"round {number + 1} of {plan.rounds}: {case.name}")
                        with recorded(results, case):
                            results.add({case.peer: fleet.measured(change, plan.changes, clock)}, case, number)


@dataclass(frozen=True)
class Fleet:
    """A process whose cache makes changes, and processes whose caches follow."""

    endpoint: Endpoint
    writer: Members
    followers: Members
    holders: int

    def measured(self, change: str, count: int, clock: BusyClock) -> Measured:
        """Make ``count`` changes, check the answers of the followers, and return the cost of one change."""
        warm_up = max(1, int(count * _WARM_UP_SHARE))
        total = Clock()
        self.prepare(change, warm_up + count)
        self.writer.ask_first(change, first=0, count=warm_up)
        with clock:
            total.wall = self.writer.ask_first(change, first=warm_up, count=count)
        server, total.cpu = clock.seconds
        self.check(change, warm_up + count)
        found = Measured(loops=count)
        found.add(total, count, server)
        return found

    def prepare(self, change: str, count: int) -> None:
        """Store the keys that are removed, and let three followers hold them, or fewer where there are fewer."""
        if change == "invalidate":
            self.writer.ask_first("store", first=0, count=count, kind=change)
            self.followers.ask_first("read", kind=change, first=0, count=count, holders=self.holders)
        elif change == "bare":
            for members, do in ((self.followers, "subscribe_bare"), (self.writer, "open_bare")):
                members.ask_first(do, endpoint=asdict(self.endpoint), count=count)

    def check(self, change: str, count: int) -> None:
        """Let the followers look at the removed keys, or at the last new keys.

        Raises:
            CaseFailedError: A follower has a wrong value.
        """
        if change == "invalidate":
            self.followers.ask_first("expect_gone", kind=change, first=0, count=count, holders=self.holders)
        elif change == "bare":
            self.followers.ask_first("finish_bare")
        else:
            seen = min(count, _CHECKED_KEYS)
            self.followers.ask("read", kind=change, first=count - seen, count=seen, holders=self.holders)

    def cpu(self) -> float:
        """Return the CPU seconds of all processes."""
        return self.writer.cpu() + self.followers.cpu()


@contextlib.contextmanager
def opened(endpoint: Endpoint, tracking: str, followers: int) -> Iterator[Fleet]:
    """Start the processes and open the caches; stop the processes on exit."""
    counts = [min(_CACHES_A_PROCESS, followers - first) for first in range(0, followers, _CACHES_A_PROCESS)]
    common = {"endpoint": asdict(endpoint), "tracking": tracking}
    with Members(_MODULE, 1) as writer, Members(_MODULE, len(counts)) as others:
        writer.ask("open", count=1, **common)
        others.ask_each("open", [{"count": count, **common} for count in counts])
        yield Fleet(endpoint, writer, others, min(HOLDERS, followers))
