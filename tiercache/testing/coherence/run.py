"""One run: servers, proxy, replicas, load and fault, and then the checks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ...embedded import EmbeddedValkey
from ...errors import UsageError
from ...options import TrackingMode
from ..proxy.chaos_proxy import ChaosProxy
from .checks import Final, Violation, check_agreement, check_all
from .faults import FAULTS, NEEDS_PROCESS, Field, choose_latency
from .history import History
from .members import Member, local_member, process_member
from .origin import Origin
from .replica import ReplicaSettings
from .sampler import Sampler
from .server import Server
from .subjects import SUBJECTS

__all__ = ["Outcome", "RunSettings", "run_once"]

# Beyond max_staleness, for what failed to be made good behind the scenes.
_CALM_SECONDS = 3.0
_POLL_PAUSE = 0.1
# Beyond what a run should take: something hangs.
_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What makes a run. The same settings make the same choices, though not at the same microseconds.

    Args:
        seconds: How long the load lasts, about; a fault that has begun is mended first.
        replicas: Caches, one at least.
        processes: How many of them live in processes of their own.

    Raises:
        UsageError: An argument is wrong.
    """

    fault: str = "none"
    seed: int = 1
    seconds: float = 4.0
    replicas: int = 4
    processes: int = 2
    tracking: TrackingMode = "auto"
    max_staleness: float = 1.0
    lease_ttl: float = 2.0

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise UsageError(f"fault must be one of {', '.join(FAULTS)}, not {self.fault!r}")
        if not 0 <= self.processes <= self.replicas or self.replicas < 1:
            raise UsageError(f"{self.replicas} replicas cannot have {self.processes} processes of their own")
        if self.fault in NEEDS_PROCESS and not (self.processes and self.replicas > 1):
            raise UsageError(f"{self.fault} needs two replicas, one of them in a process of its own")

    @property
    def command(self) -> str:
        """The command line that repeats the run."""
        return (
            f"python -m {__package__} --fault {self.fault} --seed {self.seed} --runs 1 --seconds {self.seconds:g} "
            f"--replicas {self.replicas} --processes {self.processes} --tracking {self.tracking} "
            f"--max-staleness {self.max_staleness:g}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        began: The moment from which the report counts.
        latency: Seconds each way that the proxy added, from and to.
    """

    settings: RunSettings
    history: History
    violations: Sequence[Violation]
    began: float
    latency: tuple[float, float]


async def run_once(settings: RunSettings) -> Outcome:
    """Do one run.

    Raises:
        TimeoutError: It hangs.
        TierCacheError: Servers or processes could not be started, or ended by themselves.
    """
    rng = random.Random(f"{settings.seed}/{settings.fault}")
    history = History()
    violations: list[Violation] = []
    async with asyncio.timeout(settings.seconds + 10 * settings.max_staleness + _GRACE), AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(persists=settings.fault == "restart_persisted"))
        origin = EmbeddedValkey()
        stack.callback(origin.stop)
        await asyncio.to_thread(origin.start)
        proxy = await stack.enter_async_context(ChaosProxy(server.url, seed=settings.seed))
        members = await _members(settings, proxy.url, origin.url, history, stack)
        sampler = await stack.enter_async_context(Sampler(server.url, history.add))
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            field = Field(
                proxy=proxy,
                server=server,
                members=members,
                rng=rng,
                seconds=settings.seconds,
                max_staleness=settings.max_staleness,
                record=history.add,
                tasks=tasks,
                latency=choose_latency(settings.fault, rng),
            )
            field.slow()
            for member in members:
                member.start()
            await FAULTS[settings.fault](field)
        field.proxy.heal()
        await asyncio.gather(*(member.stop() for member in members))
        field.say("all is calm")
        final = await _settle(settings.max_staleness, members, sampler, origin.url)
        await asyncio.gather(*(member.finish() for member in members))
        latency = field.latency
    # Only now is the whole history here: the other processes have handed in theirs.
    violations = [*check_all(history, settings.max_staleness), *check_agreement(history, final)]
    return Outcome(settings, history, violations, began, latency)


async def _members(
    settings: RunSettings, url: str, origin_url: str, history: History, stack: AsyncExitStack
) -> list[Member]:
    members: list[Member] = []
    of_their_own = []
    for number in range(settings.replicas):
        replica = ReplicaSettings(
            url=url,
            origin_url=origin_url,
            number=number,
            count=settings.replicas,
            seed=settings.seed,
            max_staleness=settings.max_staleness,
            lease_ttl=settings.lease_ttl,
            tracking=settings.tracking,
        )
        if number < settings.replicas - settings.processes:
            members.append(await stack.enter_async_context(local_member(replica, history.add)))
        else:
            process = await stack.enter_async_context(process_member(replica, history.add))
            of_their_own.append(process)
            members.append(process)
    for process in of_their_own:
        await process.wait_ready()
    return members


async def _settle(max_staleness: float, members: Sequence[Member], sampler: Sampler, origin_url: str) -> Final:
    """Read everything everywhere until all agree, and return what was read last."""
    give_up_at = time.monotonic() + max_staleness + _CALM_SECONDS
    due_keys = [subject.name for subject in SUBJECTS if subject.role != "written"]
    async with Origin(origin_url) as origin:
        due = dict(zip(due_keys, await origin.versions(due_keys), strict=True))
    # From here on, what is older than any change breaks the bound.
    await asyncio.sleep(max_staleness)
    while True:
        at = time.monotonic()
        read = await asyncio.gather(*(member.read_all() for member in members))
        by_replica = {member.name: versions for member, versions in zip(members, read, strict=True)}
        final = Final(at, by_replica, await sampler.versions(), due)
        # As far as can be said without the history of the other processes.
        if not check_agreement(History(), final) or time.monotonic() > give_up_at:
            return final
        await asyncio.sleep(_POLL_PAUSE)
