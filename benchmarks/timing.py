"""Clocks and sampling: how many calls make a value, and what one call cost in time and in CPU time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter, process_time

_SLOW_SECONDS = 0.7
"""A first value that takes so long is the only one of its round: it has warmed itself up."""
_ENOUGH_SECONDS = 0.4
"""Values that together take so long are enough for a round: the other rounds bring more."""
_FIRST_CALLS = 3
"""So many say nothing about the later ones: connections are opened, and a cache looks round in the keyspace."""
_LEAST = 1e-9


class Clock:
    """Adds up what passes inside ``with``: seconds, and CPU seconds of this process."""

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
    """The values of one case in one round: seconds a call (or bytes), and CPU seconds a call of the client."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    loops: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    round: int = -1
    """In which round, from 0; set where the values are kept."""

    def add(self, clock: Clock, calls: int) -> None:
        self.wall.append(max(clock.wall / calls, _LEAST))
        self.cpu.append(max(clock.cpu / calls, _LEAST))


@dataclass(frozen=True)
class Budget:
    """How long to measure: values a round, each of at least ``min_seconds`` of calls."""

    values: int
    min_seconds: float


Body = Callable[[int], Awaitable[tuple[Clock, int]]]
"""Does about so many calls; returns what they took, and how many they were."""


async def sample(body: Body, budget: Budget, loops: int) -> Measured:
    """Warm up, find out how many calls fill the budget unless ``loops`` says so, and take the values."""
    wanted = loops or 1
    clock, calls = await body(wanted)
    if not loops:
        for _ in range(_FIRST_CALLS - 1):
            if clock.wall < _SLOW_SECONDS:
                clock, calls = await body(1)
        while clock.wall < budget.min_seconds / 2:
            wanted *= max(2, min(16, int(budget.min_seconds / max(clock.wall, _LEAST))))
            clock, calls = await body(wanted)
    measured = Measured(loops=wanted)
    if clock.wall >= _SLOW_SECONDS:
        measured.add(clock, calls)
        return measured
    spent = 0.0
    while len(measured.wall) < budget.values and spent < _ENOUGH_SECONDS:
        clock, calls = await body(wanted)
        measured.add(clock, calls)
        spent += clock.wall
    return measured
