"""Clocks and sampling: how many calls make a value, and the time and CPU time of one call."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter, process_time

ENOUGH_SECONDS = 0.2
"""A round takes no further values once its values add up to this time; the other rounds add more."""
_LEAST = 1e-9


class Clock:
    """Adds up the time inside ``with`` blocks: seconds, and CPU seconds of this process."""

    def __init__(self) -> None:
        self.wall = 0.0
        self.cpu = 0.0

    def __enter__(self) -> "Clock":
        self._cpu = process_time()
        self._wall = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += perf_counter() - self._wall
        self.cpu += process_time() - self._cpu


@dataclass
class Measured:
    """The values of one case in one round: seconds per call (or bytes), and CPU seconds of the clients per call."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    loops: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    round: int = -1
    """The number of the round, from 0; `Results.add` sets it."""
    server: list[float] = field(default_factory=list)
    """CPU seconds of the server per call, where the benchmark reads them."""

    def add(self, clock: Clock, calls: int, server: float | None = None) -> None:
        """Add one value: the time of ``clock`` per call, and the CPU seconds of the ``server`` per call."""
        self.wall.append(max(clock.wall / calls, _LEAST))
        self.cpu.append(max(clock.cpu / calls, _LEAST))
        if server is not None:
            self.server.append(max(server / calls, _LEAST))


@dataclass(frozen=True)
class Budget:
    """How long to measure: the values per round, each of at least ``min_seconds`` of calls."""

    values: int
    min_seconds: float


Body = Callable[[int], Awaitable[tuple[Clock, int]]]
"""Makes about the given number of calls; returns their time and their exact number."""


async def sample(body: Body, budget: Budget, loops: int) -> Measured:
    """Warm up, then take the values.

    Args:
        loops: Calls per value; 0 finds out how many calls fill the budget.
    """
    wanted = loops or 1
    clock, calls = await body(wanted)
    while not loops and clock.wall < budget.min_seconds / 2:
        wanted *= max(2, min(16, int(budget.min_seconds / max(clock.wall, _LEAST))))
        clock, calls = await body(wanted)
    measured = Measured(loops=wanted)
    if clock.wall >= ENOUGH_SECONDS:
        measured.add(clock, calls)
        return measured
    spent = 0.0
    while len(measured.wall) < budget.values and spent < ENOUGH_SECONDS:
        clock, calls = await body(wanted)
        measured.add(clock, calls)
        spent += clock.wall
    return measured
