"""L2 as one runtime holds it: the store, the write pipe to it, and the parts that keep L1 coherent with it.

``L2`` stands for a Valkey. ``no_l2.NoL2`` takes its place in a cache of process memory alone, so that most operations
do not ask which of the two they have.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeAlias

from ...log import CacheLog
from ..coherence.coherence import Coherence, PolicyReader
from ..coherence.leases import Leases
from ..coherence.listener import Listener
from ..coherence.pending_invalidations import PendingInvalidations
from ..level2.announcement import Announcement
from ..level2.breaker import Breaker, GuardedLevel2
from ..level2.eviction import Eviction
from ..level2.level2 import Level2
from ..level2.write_behind import WriteBehind
from ..level2.write_pipe import WritePipe
from ..level2.writes import Announce
from ..memory.memory import Memory
from .options import EngineOptions

__all__ = ["L2", "Connect", "Service"]

# Called with the runtime's origin: its name in announcements and placeholders.
Connect: TypeAlias = Callable[[str], Awaitable[Level2]]


class Service(PolicyReader, Protocol):
    """A background worker that lives as long as a runtime: statistics, registration, tool policies."""

    async def open(self, level2: GuardedLevel2) -> None:
        """Prepare before the first call is served. Raises UsageError if the cache must not open."""
        ...

    async def run(self, level2: GuardedLevel2, is_tracking: Callable[[], bool]) -> None:
        """Work in the background until cancelled.

        Args:
            is_tracking: Returns whether the server reports changes of the watched keys.
        """
        ...

    async def close(self, level2: GuardedLevel2) -> None:
        """Finish after the last load and write."""
        ...


class L2:
    """One runtime's connections to Valkey, and the parts that keep its L1 coherent with it.

    Attributes:
        level2: The store behind its breaker.
        origin: The runtime's name in announcements and placeholders.
        lease_wait: Seconds that a load waits for another process's lease, or None for no limit.
        eviction: Whether the server evicts keys when it is full.
        pipe: The write pipe to the store.
        behind: The write-behind stores in the pipe.
        leases: The leases that this runtime holds and waits for.
        pending: Invalidations that Valkey has not acknowledged.
        coherence: Applies the changes of other processes.
        listener: Receives the changes of other processes.
    """

    def __init__(
        self,
        level2: GuardedLevel2,
        origin: str,
        memory: Memory,
        service: Service,
        options: EngineOptions,
        log: CacheLog,
    ) -> None:
        coherence = options.coherence
        self.level2 = level2
        self.origin = origin
        self.lease_wait = coherence.lease_wait
        self.eviction = Eviction(level2, memory.now)
        self.pipe = WritePipe(level2, options.writes)
        self.behind = WriteBehind(self.pipe, memory)
        self.leases = Leases(self.pipe, origin=origin, ttl=coherence.lease_ttl)
        self.pending = PendingInvalidations(self.pipe, pause=options.resilience.breaker_pause, log=log)
        self.coherence = Coherence(memory, self.leases, service, coherence, origin=origin, log=log)
        self.listener = Listener(level2, self.pipe, self.coherence, coherence, memory, log)

    @staticmethod
    async def connect(connect: Connect, breaker: Breaker) -> tuple[GuardedLevel2, str]:
        """Return the store behind ``breaker``, and a new origin for its user."""
        origin = secrets.token_hex(8)
        return GuardedLevel2(await connect(origin), breaker), origin

    @property
    def is_tracking(self) -> bool:
        """Whether the server reports changes that other software makes (CLIENT TRACKING)."""
        return self.listener.reports.are_on

    @property
    def tracking(self) -> Literal["interest", "broadcast", "off"]:
        """How the server reports the changes of other clients."""
        return self.listener.reports.mode

    @property
    def is_registering(self) -> bool:
        """Whether the server reports changes of those keys only that this process has registered by reading them."""
        return self.listener.reports.mode == "interest"

    def announce(self, announcement: Announcement) -> None:
        """Publish ``announcement`` to the other processes, without waiting for an acknowledgement."""
        self.pipe.post(Announce(announcement))

    async def drain(self, timeout: float) -> None:
        """Finish the queued writes within ``timeout`` seconds; stop renewing leases and repeating invalidations."""
        self.leases.end()
        await self.pending.aclose()
        await self.pipe.drain(timeout)
