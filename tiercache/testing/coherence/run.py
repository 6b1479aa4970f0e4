"""One run: servers, proxy, replicas, load and fault, and then the checks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Literal

from ...embedded import EmbeddedValkey
from ...errors import UsageError
from ..proxy.chaos_proxy import ChaosProxy
from .checks import FinalState, Violation, check_agreement, check_all
from .database import Database
from .fault_context import FaultContext, lane_of
from .faults import FAULTS, NEEDS_PROCESS, choose_latency
from .fleet import Fleet
from .history import History
from .members import Member
from .sampler import Sampler
from .server import Server
from .settings import ReplicaSettings, Tracking, Writes, tracking_of
from .subject import Subject
from .subjects import SUBJECTS, by_name

__all__ = ["Outcome", "RunSettings", "run_once"]

# Seconds after max_staleness in which caches may still repeat failed invalidations.
_CALM_SECONDS = 3.0
# The life of entries in L1 where Valkey evicts and nothing tells the replicas, in multiples of ``max_staleness``.
_FORGETTING: Final = 3.0
_POLL_PAUSE = 0.1
# Seconds beyond the expected end of a run after which the run counts as hanging.
_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The settings of a run. The same settings make the same random choices, but not at exactly the same moments.

    Args:
        seconds: The approximate duration of the load; a fault that has begun ends first.
        replicas: The number of caches, at least 1.
        processes: The number of replicas that have their own process.
        tracking: The kind of tracking of every replica; "mixed": ``TRACKINGS`` in turn.
        freshness: Whether the caches serve stale values and remember errors; "turns": with odd seeds.

    Raises:
        UsageError: An argument is wrong.
    """

    fault: str = "none"
    seed: int = 1
    seconds: float = 4.0
    replicas: int = 4
    processes: int = 2
    tracking: Tracking = "auto"
    max_staleness: float = 1.0
    lease_ttl: float = 2.0
    writes: Writes = "both"
    freshness: Literal["on", "off", "turns"] = "turns"

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise UsageError(f"fault must be one of {', '.join(FAULTS)}, not {self.fault!r}")
        if not 0 <= self.processes <= self.replicas or self.replicas < 1:
            raise UsageError(
                f"{self.replicas} replicas cannot have {self.processes} processes; use at least 1 replica, and at "
                "most as many processes as replicas"
            )
        if self.fault in NEEDS_PROCESS and not (self.processes and self.replicas > 1):
            raise UsageError(f"{self.fault} needs two replicas, at least one of them in its own process")

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        return (
            f"python -m {__package__} --fault {self.fault} --seed {self.seed} --runs 1 --seconds {self.seconds:g} "
            f"--replicas {self.replicas} --processes {self.processes} --tracking {self.tracking} "
            f"--max-staleness {self.max_staleness:g} --writes {self.writes} --freshness {self.freshness}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        began: The moment that the report shows as 0.
        latency: The range of the proxy's latency, in seconds each way.
    """

    settings: RunSettings
    history: History
    violations: Sequence[Violation]
    began: float
    latency: tuple[float, float]


async def run_once(settings: RunSettings) -> Outcome:
    """Do one run.

    Raises:
        TimeoutError: The run hangs.
        TierCacheError: A server or a process did not start, or ended too early.
    """
    rng = random.Random(f"{settings.seed}/{settings.fault}")
    history = History()
    violations: list[Violation] = []
    async with asyncio.timeout(settings.seconds + 10 * settings.max_staleness + _GRACE), AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(persists=settings.fault == "restart_persisted"))
        if settings.fault == "evict":
            # Before any replica asks for the policy, which it remembers for half a minute.
            await server.execute(("CONFIG", "SET", "maxmemory-policy", "allkeys-random"))
        database = EmbeddedValkey()
        stack.callback(database.stop)
        await asyncio.to_thread(database.start)
        proxy = await stack.enter_async_context(ChaosProxy(server.url, seed=settings.seed, lane_of=lane_of))
        first = _replica_settings(settings, proxy.url, server.url, database.url)
        # Without tracking a replica learns of no eviction. L1 must forget the entry before the replicas have to agree.
        untracked_l1_ttl = _FORGETTING * settings.max_staleness if settings.fault == "evict" else first.l1_ttl
        fleet = await stack.enter_async_context(Fleet(first, history.add, untracked_l1_ttl=untracked_l1_ttl))
        await fleet.start(settings.processes, [tracking_of(settings.tracking, n) for n in range(settings.replicas)])
        sampler = await stack.enter_async_context(Sampler(server.url, history.add))
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            context = FaultContext(
                proxy=proxy,
                server=server,
                fleet=fleet,
                rng=rng,
                seconds=settings.seconds,
                max_staleness=settings.max_staleness,
                record=history.add,
                tasks=tasks,
                latency=choose_latency(settings.fault, rng),
            )
            context.apply_latency()
            for member in fleet.members:
                member.start()
            await FAULTS[settings.fault](context)
        proxy.heal()
        await asyncio.gather(*(member.stop() for member in fleet.members))
        context.note("the load has ended")
        final = await _settle(settings.max_staleness, fleet.members, sampler, database.url)
        await asyncio.gather(*(member.finish() for member in fleet.members))
        latency = context.latency
    # The history is complete only now, because the other processes have sent their events at the end.
    violations = [*check_all(history, settings.max_staleness), *check_agreement(history, final)]
    return Outcome(settings, history, violations, began, latency)


def _replica_settings(settings: RunSettings, url: str, server_url: str, database_url: str) -> ReplicaSettings:
    """Return the settings of replica 0, from which those of the others follow."""
    return ReplicaSettings(
        url=url,
        server_url=server_url,
        database_url=database_url,
        number=0,
        count=settings.replicas,
        seed=settings.seed,
        max_staleness=settings.max_staleness,
        lease_ttl=settings.lease_ttl,
        tracking=tracking_of(settings.tracking, 0),
        writes=settings.writes,
        freshness=settings.freshness == "on" or (settings.freshness == "turns" and settings.seed % 2 == 1),
    )


async def _settle(max_staleness: float, members: Sequence[Member], sampler: Sampler, database_url: str) -> FinalState:
    """Read every subject in every replica and in Valkey until all agree; return the versions read last."""
    give_up_at = time.monotonic() + max_staleness + _CALM_SECONDS
    due_keys = [subject.name for subject in SUBJECTS if not subject.is_owned and subject.role != "mixed"]
    async with Database(database_url) as database:
        due = dict(zip(due_keys, await database.versions(due_keys), strict=True))
    # After this wait every version older than a change breaks the bound.
    await asyncio.sleep(max_staleness)
    while True:
        at = time.monotonic()
        read = await asyncio.gather(*(member.read_all() for member in members))
        by_replica = {
            member.name: {key: version for key, version in versions.items() if _must_agree(member, by_name(key))}
            for member, versions in zip(members, read, strict=True)
        }
        final = FinalState(at, by_replica, await sampler.versions(), due)
        # A check without the history, because the other processes have not sent their events yet.
        if not check_agreement(History(), final) or time.monotonic() > give_up_at:
            return final
        await asyncio.sleep(_POLL_PAUSE)


def _must_agree(member: Member, subject: Subject) -> bool:
    """Return whether a replica must agree with the other replicas on a subject."""
    if subject.role == "mixed":
        # An invalidation of the tag leaves those entries that do not have it: replicas may rightly disagree.
        return False
    return subject.role != "foreign" or member.settings.tracking != "off"
