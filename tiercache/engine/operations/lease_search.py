"""The search for a lease: take the lease, or wait for the process that holds it. A load waits for one lease at most.

nothing under the key ─────────> take the lease ─────────────────────────────> load
a placeholder of another load ─> wait until it goes ─> a value there ─────────> hand it out
                                                    ─> nothing there ─────────> take the lease
                                 still there after ``lease_wait``, or a second
                                 placeholder ─────────────────────────────────> load without the lease
a placeholder that no load holds (an orphan) ─> take it over ───────────────────> load
a value ─> read it ────────────────────────────────────────────────────────────> hand it out
"""

from __future__ import annotations

import math
import random
from typing import Final, Protocol

from ...errors import TierCacheError
from ..call import Call
from ..coherence.leases import Lease
from ..coherence.placeholders import is_placeholder
from ..entries.lookup import Lookup
from ..entries.rules import UndecodableError
from ..memory.fences import Fence
from ..memory.flights import CURRENT_FLIGHT, waiting_for
from ..runtime.l2 import L2
from ..runtime.runtime import Runtime

__all__ = ["LeaseSearch", "LiveValue"]

# Seconds between two polls of a key that another process loads, in case its announcement is lost.
_FIRST_POLL: Final = 0.02
_LAST_POLL: Final = 0.5


class LiveValue(Protocol):
    """The value that another process loads, as far as that process shares it before the load ends."""

    @property
    def wait(self) -> float | None:
        """Most seconds to wait for the other process, or None for no limit."""
        ...

    @property
    def pause(self) -> float:
        """Most seconds between two calls of ``has_begun``."""
        ...

    async def has_begun(self, placeholder: bytes) -> bool:
        """Return whether the holder of ``placeholder`` shares its value. Valkey never makes this raise."""
        ...


class LeaseSearch:
    """One load's search for the lease on its key.

    Args:
        fence: The load's fence, renewed as long as nothing has been loaded.
        lookup: The outcome of the load's first read.
        is_refresh: Whether the load replaces the value that Valkey may have.
        live: Finds the parts that the other process shares, or None if the load waits for a whole value. The search
            ends without a lease as soon as ``live`` has begun.

    Attributes:
        lookup: The newest read, which has the entry if another process has loaded the value.
    """

    __slots__ = ("_call", "_fence", "_is_refresh", "_l2", "_live", "_runtime", "lookup")

    def __init__(
        self,
        runtime: Runtime,
        call: Call,
        fence: Fence,
        lookup: Lookup,
        *,
        is_refresh: bool,
        live: LiveValue | None = None,
    ) -> None:
        assert isinstance(runtime.l2, L2)
        self._l2 = runtime.l2
        self._runtime = runtime
        self._call = call
        self._fence = fence
        self._is_refresh = is_refresh
        self._live = live
        self.lookup = lookup

    async def run(self) -> Lease | None:
        """Return the lease, or None if the value was found or the load must do without the lease.

        A refused lease is logged, and the load does without it.
        """
        waited_for: bytes | None = None
        while True:
            # Nothing has been loaded yet that a change up to now could have overtaken.
            self._runtime.l1.settle()
            self._runtime.fences.renew(self._fence)
            if self._runtime.switches.are_off(self._fence.groups):
                # The tier was disabled during the search. Its reads find nothing: the search would never end.
                return None
            if self.lookup.placeholder is None or self._is_orphan:
                try:
                    taken = await self._take()
                except TierCacheError as error:
                    self._runtime.log_refusal(error)
                    return None
                if isinstance(taken, Lease):
                    return taken
                if taken is None:
                    continue
                if is_placeholder(taken):
                    self._found(taken)
                else:
                    # The value was stored after the read.
                    await self._read()
                    if self._is_decided:
                        return None
                    if self.lookup.placeholder is None:
                        continue
            if waited_for is not None:
                return None
            waited_for = self.lookup.placeholder
            await self._wait_for(waited_for)
            if self._is_decided or (self.lookup.placeholder == waited_for and not self._is_orphan):
                return None

    async def _read(self) -> None:
        self.lookup = await self._runtime.reads.read(self._call, self._fence)

    @property
    def _is_decided(self) -> bool:
        """Whether no lease is needed: the value was found, or Valkey is unavailable."""
        return self.lookup.entry is not None or self.lookup.degraded

    @property
    def _is_orphan(self) -> bool:
        """Whether the placeholder of the newest read is an orphan."""
        return self._l2.leases.is_orphan(self._call.key, self.lookup.placeholder, self.lookup.placeholder_life)

    def _found(self, placeholder: bytes) -> None:
        """Note a placeholder that was found without its life, which only the next read brings."""
        if placeholder != self.lookup.placeholder:
            self.lookup = self.lookup._replace(placeholder=placeholder, placeholder_life=0.0)

    async def _take(self) -> Lease | bytes | None:
        """Return the lease, or the bytes under the key: a placeholder or a value; None if these have changed since."""
        leases, key, indexes = self._l2.leases, self._call.key, self._call.indexes
        taken = await leases.take(key, indexes, self._call.expected_ttl)
        if isinstance(taken, Lease):
            return taken
        if is_placeholder(taken):
            # A refresh wins over a load that began earlier. No load will ever replace an orphan.
            self._found(taken)
            if self._is_refresh or self._is_orphan:
                return await leases.take_over(key, taken, indexes)
            return taken
        # A value that no tier can read is replaced.
        return Lease(key, taken) if self._is_refresh or not self._is_decodable(taken) else taken

    def _is_decodable(self, data: bytes) -> bool:
        try:
            self._call.rules.codec.decode(data)
        except UndecodableError:
            return False
        return True

    async def _wait_for(self, placeholder: bytes | None) -> None:
        """Read the key until ``placeholder`` is gone or its load is live, for the longest wait; set ``lookup``."""
        runtime, leases, key = self._runtime, self._l2.leases, self._call.key
        self._call.counters.lease_waits += 1
        live = self._live
        lease_wait = self._l2.lease_wait if live is None else live.wait
        give_up_at = runtime.now() + (math.inf if lease_wait is None else lease_wait)
        poll = _FIRST_POLL
        last_poll = _LAST_POLL if live is None else live.pause
        # A load that waits for another process holds no slot: the holder of that lease may be waiting for one.
        async with runtime.load_limits.lent():
            while (
                self.lookup.placeholder == placeholder
                and not self.lookup.degraded
                and (left := give_up_at - runtime.now()) > 0
                and not self._is_orphan
            ):
                # The holder may be a load of this process that no caller may join any more. If its loader waits for
                # this load, neither would end. A caller that is about to wait for this load must know of the holder.
                elsewhere = runtime.face.load_elsewhere(key, placeholder)
                if elsewhere is not None and runtime.face.is_other_blocked:
                    # The holder can end only after the caller of this load, which blocks the loop of the holder.
                    break
                holder = leases.load_of(key, placeholder) or elsewhere
                if holder is not None and (current := CURRENT_FLIGHT.get()) is not None and holder.depends_on(current):
                    break
                # The holder of a live value must know that another process waits.
                leases.ask(key, poll, is_reported=live is None and self._l2.is_registering)
                with waiting_for(*(() if holder is None else (holder,))):
                    await leases.wait(key, min(poll * random.uniform(0.75, 1.25), left))
                    poll = min(2 * poll, last_poll)
                    runtime.fences.renew(self._fence)
                    # This read too: until it has found a change, this load depends on the holder.
                    await self._read()
                    # Only while its holder has the lease: a change has taken the lease from a value that is older.
                    if (
                        live is not None
                        and placeholder is not None
                        and self.lookup.placeholder == placeholder
                        and await live.has_begun(placeholder)
                    ):
                        break
