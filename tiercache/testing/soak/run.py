"""One soak: a server, a proxy, processes, faults at random, measures between the faults, and the checks at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from ...embedded import EmbeddedValkey
from ...errors import UsageError
from ..coherence.server import Server
from ..proxy.chaos_proxy import ChaosProxy
from .child import Child, soak_process
from .faults import FAULTS, FaultContext
from .keys import KeysLeft, wait_for_few_keys
from .load import CALLER_COUNT
from .protocol import Ended, Problem, Rest, WorkerSettings

__all__ = ["Outcome", "SoakSettings", "run_soak"]

WORKER: Final = f"{__package__}.worker"

# Calls of all processes together in a second, if they take no time: two cores carry them.
_CALLS_PER_SECOND: Final = 1200
# Pauses between two faults, in seconds: lowest and highest.
_CALM: Final = (0.6, 2.0)
# Faults between two measures.
_FAULTS_PER_MEASURE: Final = 2
# Seconds beyond the expected end after which a soak counts as hanging.
_GRACE: Final = 180.0


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """The settings of a soak.

    Args:
        seconds: The duration of the load.
        processes: The number of processes, at least 1.
        seed: Decides the operations and the faults, but not their exact moments.
        ttl: The longest lifetime of an entry, in seconds.
        longest_fault: The longest duration of a fault, in seconds.
        settle: Seconds after the end in which Valkey may keep keys of entries; 0 leaves this check out.
        max_staleness: ``CoherenceOptions.max_staleness``, in seconds.
        faults: The names of the faults that happen, from ``FAULTS``.

    Raises:
        UsageError: An argument is wrong.
    """

    seconds: float = 60.0
    processes: int = 8
    seed: int = 1
    ttl: float = 20.0
    longest_fault: float = 3.0
    settle: float = 240.0
    max_staleness: float = 3.0
    faults: tuple[str, ...] = tuple(FAULTS)

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UsageError(f"processes must be at least 1, not {self.processes}")
        if not self.faults or not set(self.faults) <= set(FAULTS):
            raise UsageError(f"faults must be some of {', '.join(FAULTS)}, not {self.faults!r}")
        for name in ("seconds", "ttl", "longest_fault", "max_staleness"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be above 0, not {getattr(self, name)!r}")

    @property
    def command(self) -> str:
        """The command that repeats the soak."""
        command = f"python -m {__package__} --minutes {self.seconds / 60:g} --processes {self.processes}"
        chosen = "" if self.faults == tuple(FAULTS) else f" --fault {' '.join(self.faults)}"
        return f"{command} --seed {self.seed}{chosen}"


@dataclass(slots=True)
class Outcome:
    """The outcome of a soak.

    Attributes:
        began: The moment at which the load began, ``time.monotonic()``.
        seconds: The duration of the load.
        server: The version of Valkey.
        faults: The faults, each with the moment at which it began.
        problems: The broken promises.
        rests: By process, the measures between the faults and at the end.
        ended: The counts of each process.
        keys: The keys that Valkey kept, or None if they were not checked.
    """

    settings: SoakSettings
    began: float = 0.0
    seconds: float = 0.0
    server: str = ""
    faults: list[tuple[float, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rests: list[list[Rest]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    keys: KeysLeft | None = None

    def shown(self, problem: Problem) -> str:
        """Return the problem with its moment, and the fault before it."""
        text = f"{problem.kind}: {problem.text}"
        if not problem.at:
            return text
        before = [name for began, name in self.faults if began <= problem.at]
        return f"{problem.at - self.began:.1f} s, after {before[-1] if before else 'no fault'}: {text}"


async def run_soak(
    settings: SoakSettings, *, worker: str = WORKER, say: Callable[[str], object] = lambda line: None
) -> Outcome:
    """Do one soak.

    Args:
        worker: The module of the processes, for tests.
        say: Receives a line for each fault and each problem.

    Raises:
        TimeoutError: The soak hangs.
        TierCacheError: A server or a process did not start, or ended too early.
    """
    outcome = Outcome(settings)

    def report(problem: Problem) -> None:
        outcome.problems.append(problem)
        say(f"PROBLEM at {outcome.shown(problem)}")

    longest = settings.seconds + settings.settle + settings.ttl + _GRACE
    async with asyncio.timeout(longest), AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(persists=False))
        ledger = EmbeddedValkey()
        stack.callback(ledger.stop)
        await asyncio.to_thread(ledger.start)
        outcome.server = (await server.info("server"))["valkey_version"].strip()
        proxy = await stack.enter_async_context(ChaosProxy(server.url, seed=settings.seed))
        # The processes end before the proxy: afterwards nothing may write to standard error any more.
        async with AsyncExitStack() as processes:
            children = [
                await processes.enter_async_context(soak_process(each, report, worker))
                for each in _workers(settings, proxy.url, ledger.url)
            ]
            await asyncio.gather(*(child.wait_ready() for child in children))
            outcome.began = time.monotonic()
            for child in children:
                child.start()
            outcome.rests = [[] for _ in children]
            rng = random.Random(settings.seed)
            context = FaultContext(proxy, server, children, rng, settings.longest_fault)
            await _load(context, outcome, say)
            outcome.seconds = time.monotonic() - outcome.began
            # Repetitions of failed invalidations end in this time.
            await asyncio.sleep(settings.max_staleness)
            outcome.ended = list(await asyncio.gather(*(child.stop() for child in children)))
            for rests, ended in zip(outcome.rests, outcome.ended, strict=True):
                rests.append(ended.rest)
        if settings.settle > 0:
            say("the load has ended; waiting for the last lifetime")
            outcome.keys = await wait_for_few_keys(server, settings.ttl + settings.settle)
    return outcome


def _workers(settings: SoakSettings, url: str, ledger_url: str) -> list[WorkerSettings]:
    # A caller pauses half of the longest pause on average.
    pause = 2 * CALLER_COUNT * settings.processes / _CALLS_PER_SECOND
    return [
        WorkerSettings(
            url=url,
            ledger_url=ledger_url,
            number=number,
            count=settings.processes,
            seed=settings.seed,
            max_staleness=settings.max_staleness,
            ttl=settings.ttl,
            pause=pause,
        )
        for number in range(settings.processes)
    ]


async def _load(on: FaultContext, outcome: Outcome, say: Callable[[str], object]) -> None:
    """Let faults happen and measure between them, for the duration of the load."""
    ends_at = outcome.began + outcome.settings.seconds
    deck: list[str] = []
    while time.monotonic() < ends_at:
        if not deck:
            deck = on.rng.sample(outcome.settings.faults, len(outcome.settings.faults))
        name = deck.pop()
        say(name)
        outcome.faults.append((time.monotonic(), name))
        await FAULTS[name](on)
        on.proxy.heal()
        await asyncio.sleep(on.rng.uniform(*_CALM))
        if len(outcome.faults) % _FAULTS_PER_MEASURE == 0:
            await _measure(on.children, outcome)


async def _measure(children: Sequence[Child], outcome: Outcome) -> None:
    measured = await asyncio.gather(*(child.measure() for child in children))
    for rests, message in zip(outcome.rests, measured, strict=True):
        rests.append(message.rest)
