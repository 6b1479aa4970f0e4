"""The link: everything that a runtime with a Valkey has, and one without has not."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..coherence.coherence import Coherence
from ..coherence.leases import Leases
from ..coherence.listener import Listener
from ..coherence.pending_invalidations import PendingInvalidations
from ..level2.announcement import Announcement
from ..level2.breaker import Breaker, GuardedLevel2
from ..level2.eviction import Eviction
from ..level2.level2 import Level2
from ..level2.queued_write import QueueLimits
from ..level2.write_behind import WriteBehind
from ..level2.write_pipe import WritePipe
from ..level2.writes import Announce
from ..memory.fences import Fences
from ..memory.l1 import L1

__all__ = ["L2", "Bounds", "Connect"]

# Called with the name under which the runtime makes its announcements.
Connect: TypeAlias = Callable[[str], Awaitable[Level2]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far memory may lag behind, and how long leases are; see ``CoherenceOptions``."""

    max_staleness: float
    tracking: str
    lease_ttl: float
    lease_wait: float | None


class L2:
    """One runtime's connections to Valkey, and what keeps its memory coherent with it.

    Args:
        settings_key: Where the settings lie in Valkey that ``on_policies_changed`` is about: called when another
            process may have changed them.

    Attributes:
        level2: The guarded store.
        origin: The name of this runtime in announcements and placeholders.
        lease_wait: Most seconds that a load waits for another process's lease, None for no limit.
        eviction: What the store does when it is full.
        pipe: The write pipe to it.
        behind: Stores that wait in it, and for whose answer nobody waits.
        leases: The leases that are held and waited for.
        unsettled: Invalidations that were not acknowledged.
        coherence: What was heard of other processes' changes.
        follower: How it is heard.
    """

    def __init__(
        self,
        level2: GuardedLevel2,
        origin: str,
        bounds: Bounds,
        *,
        l1: L1,
        fences: Fences,
        now: Callable[[], float],
        queue: QueueLimits,
        retry_pause: float,
        policies_key: str,
        on_policies_changed: Callable[[], object],
    ) -> None:
        self.level2 = level2
        self.origin = origin
        self.lease_wait = bounds.lease_wait
        self.eviction = Eviction(level2, now)
        self.pipe = WritePipe(level2, queue)
        self.behind = WriteBehind(self.pipe, fences, l1, now)
        self.leases = Leases(self.pipe, origin=origin, ttl=bounds.lease_ttl)
        self.pending = PendingInvalidations(self.pipe, pause=retry_pause)
        self.coherence = Coherence(
            l1,
            fences,
            self.leases,
            origin=origin,
            max_staleness=bounds.max_staleness,
            policies_key=policies_key,
            on_policies_changed=on_policies_changed,
        )
        self.listener = Listener(
            level2, self.pipe, self.coherence, now=now, max_staleness=bounds.max_staleness, tracking=bounds.tracking
        )

    @staticmethod
    async def connect(connect: Connect, breaker: Breaker) -> tuple[GuardedLevel2, str]:
        """Return a guarded store, and the name of whoever uses it."""
        origin = secrets.token_hex(8)
        return GuardedLevel2(await connect(origin), breaker), origin

    def announce(self, announcement: Announcement) -> None:
        """Tell the other processes something that nobody waits for."""
        self.pipe.post(Announce(announcement))

    async def drain(self, timeout: float) -> None:
        """Finish the writes under way, within ``timeout`` seconds."""
        self.leases.end()
        await self.pending.aclose()
        await self.pipe.drain(timeout)
