"""The engine: one lookup through the levels, one load through a flight, one rule for writes and invalidations.

Tiers hand it requests, codecs and loads; it knows nothing of prompts, prices, sockets or metrics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ..errors import L2UnavailableError
from .clock import Clock
from .counters import TierCounters
from .entry import ENTRY_OVERHEAD_BYTES, Entry, Group
from .fences import Fence
from .flights import CURRENT_FLIGHT, Flight
from .l1 import L1
from .level2 import Delete, WriteSet
from .lifecycle import Lifecycle
from .operation import Operation, OperationLog
from .policy import Fresh, Load, Mode, Request, TierPolicy, UndecodableError
from .runtime import Connect, Limits, Runtime, Service

__all__ = ["Engine", "Found", "Source"]

_LOGGER: Final = logging.getLogger("tiercache")

Source: TypeAlias = Literal["l1", "l2", "loader", "stale"]


class Found(NamedTuple):
    """The outcome of a lookup or a load.

    Attributes:
        entry: What was found, None for a miss.
        source: Where, None for a miss.
        coalesced: It came from a load that another caller had started.
        degraded: Valkey should have been asked and did not answer.
    """

    entry: Entry | None
    source: Source | None
    coalesced: bool = False
    degraded: bool = False


class Engine:
    """One cache's levels, in one process."""

    def __init__(
        self, *, l1: L1, connect: Connect | None, limits: Limits, clock: Clock, services: Sequence[Service] = ()
    ) -> None:
        self.l1 = l1
        self.now = clock.monotonic
        self.wall = clock.wall
        self.operations = OperationLog(clock.monotonic)
        self._connect = connect
        self._limits = limits
        self._services = services
        self._life = Lifecycle(self._start)
        self._refusal_logged = False

    async def open(self) -> Runtime:
        """Return the runtime of the running loop, opened. Errors as for ``Lifecycle.open``."""
        return await self._life.open()

    async def aclose(self) -> None:
        """Finish what is under way and let go of everything. Further calls, but this one, raise UsageError."""
        await self._life.aclose()
        self.l1.clear()

    def _start(self) -> Runtime:
        if self._connect is not None:
            # What other processes have changed since the last loop, nobody told this one.
            self.l1.clear()
        return Runtime(self._connect, self._services, self._limits, self.now)

    # Reading

    def peek(self, key: str, now: float, counters: TierCounters) -> Entry | None:
        """Return the entry in process memory, without a task, a lock or an await; counts a hit.

        None says nothing about the loop or whether the cache is open: ``find`` and ``get_or_load`` do.
        """
        if not self._life.is_attached:
            return None
        entry = self.l1.get(key, now)
        if entry is not None:
            counters.l1_hits += 1
            counters.saved_micros += entry.cost_micros
        return entry

    async def find(self, request: Request) -> Found:
        """Look a key up in both levels."""
        runtime = await self.open()
        entry = self.peek(request.key, self.now(), request.counters)
        if entry is not None:
            return Found(entry, "l1")
        fence = runtime.fences.open(request.key, request.groups)
        try:
            found = await self._read(runtime, request, fence)
        finally:
            runtime.fences.close(fence)
        _count(request.counters, found)
        return found

    async def _read(self, runtime: Runtime, request: Request, fence: Fence) -> Found:
        """Ask Valkey, fill L1. The one place where an unavailable Valkey becomes a miss."""
        policy, counters = request.policy, request.counters
        if runtime.level2 is None:
            return Found(None, None)
        sent_at = self.now()
        fence.reading = True
        try:
            stored = await runtime.level2.get(fence.key)
        except L2UnavailableError:
            counters.l2_errors += 1
            return Found(None, None, degraded=True)
        finally:
            fence.reading = False
        if stored is None:
            return Found(None, None)
        try:
            if stored.value is None:
                raise UndecodableError("not a string")
            value = policy.codec.decode(stored.value)
        except UndecodableError:
            counters.undecodable += 1
            return Found(None, None)
        entry = self._entry(policy, fence, value, stored.ttl, since=sent_at)
        if policy.l1 and fence.holds:
            self.l1.put(fence.key, entry)
        return Found(entry, "l2")

    def _entry(self, policy: TierPolicy, of: Fence | Request, value: Any, ttl: float | None, *, since: float) -> Entry:
        """Return the entry for a value that has ``ttl`` seconds to live in Valkey, counted from ``since``."""
        expires_at = math.inf if ttl is None else since + ttl
        age = max(0.0, self.wall() - policy.codec.stored_at(value))
        cost = policy.codec.cost(value)
        return Entry(
            value,
            # A copy that outlives Valkey's would serve what is gone; one with no Valkey behind it is no copy.
            deadline=expires_at if self._connect is None else min(expires_at, since + policy.l1_ttl),
            expires_at=expires_at,
            stored_at=self.now() - age,
            groups=of.groups,
            size_bytes=ENTRY_OVERHEAD_BYTES + len(of.key) + policy.codec.size_bytes(value),
            cost_micros=0 if cost is None else round(cost * 1_000_000),
        )

    # Loading

    async def get_or_load(self, request: Request, load: Load, mode: Mode) -> Found:
        """Return the value of a key, loading it at most once at a time in this process.

        What ``load`` raises reaches every waiter unchanged and stores nothing. Cancelling one waiter leaves the
        others waiting. The modes are those of ``LlmTier.get_or_load``.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
        """
        runtime = await self.open()
        if mode == "only_cached":
            return await self.find(request)
        if mode == "bypass":
            return await self._load_privately(runtime, request, load)
        if mode != "use":
            return await self._fly(runtime, request, load, read=False, shared=mode == "refresh")
        entry = self.peek(request.key, self.now(), request.counters)
        if entry is not None:
            return Found(entry, "l1")
        try:
            found = await self._join_or_fly(runtime, request, load)
        except Exception:
            request.counters.misses += 1
            raise
        _count(request.counters, found)
        return found

    async def _join_or_fly(self, runtime: Runtime, request: Request, load: Load) -> Found:
        flight = runtime.flights.joinable(request.key)
        if flight is None:
            return await self._fly(runtime, request, load, read=True, shared=True)
        parent = CURRENT_FLIGHT.get()
        if parent is not None and flight.depends_on(parent):
            # The caller is a loader, and that flight waits for it: waiting for the flight would never end.
            return await self._load_privately(runtime, request, load)
        found: Found = await flight.wait()
        return found._replace(coalesced=found.source == "loader")

    async def _fly(self, runtime: Runtime, request: Request, load: Load, *, read: bool, shared: bool) -> Found:
        """Start a flight and wait for it."""
        nested = CURRENT_FLIGHT.get() is not None
        # Registered before anything is awaited: whatever changes the key from here on overtakes the flight.
        flight = Flight(runtime.fences.open(request.key, request.groups), finish=request.policy.finish_abandoned)
        if shared:
            runtime.flights.add(flight)
        runtime.start(flight, self._run(runtime, request, flight, load, read=read, nested=nested))
        found: Found = await flight.wait()
        return found

    async def _run(
        self, runtime: Runtime, request: Request, flight: Flight, load: Load, *, read: bool, nested: bool
    ) -> None:
        """The body of a flight's task: read, load, fill, hand out."""
        CURRENT_FLIGHT.set(flight)
        try:
            found = await self._read(runtime, request, flight.fence) if read else Found(None, None)
            if found.entry is None:
                # A lease on the key, which makes one process load, belongs here: on a miss only.
                fresh = await self._load(runtime, request.counters, load, nested=nested)
                entry = self._fill(runtime, request, flight.fence, fresh)
                found = Found(entry, "loader", degraded=found.degraded)
            flight.resolve(found)
        except BaseException as error:
            flight.fail(error)
            raise
        finally:
            runtime.land(flight)

    async def _load(self, runtime: Runtime, counters: TierCounters, load: Load, *, nested: bool) -> Fresh:
        counters.loads += 1
        try:
            return await runtime.load_limits.run(load, nested=nested)
        except Exception:
            counters.load_errors += 1
            raise

    async def _load_privately(self, runtime: Runtime, request: Request, load: Load) -> Found:
        """Load for one caller, in its own task; store nothing."""
        policy = request.policy
        fresh = await self._load(runtime, request.counters, load, nested=CURRENT_FLIGHT.get() is not None)
        lifetime = policy.lifetime(fresh.ttl, request.ttl)
        return Found(self._entry(policy, request, fresh.value, lifetime, since=self.now()), "loader")

    def _fill(self, runtime: Runtime, request: Request, fence: Fence, fresh: Fresh) -> Entry:
        # No await here: the fence is looked at, L1 filled and the write queued in one step, so that an invalidation
        # comes either before (and nothing is stored) or after (and its delete is queued behind this write).
        policy, counters = request.policy, request.counters
        lifetime = policy.lifetime(fresh.ttl, request.ttl)
        entry = self._entry(policy, request, fresh.value, lifetime, since=self.now())
        if not fresh.store:
            return entry
        if not fence.holds:
            counters.overtaken += 1
            return entry
        runtime.fences.overtake(fence)
        if policy.l1:
            self.l1.put(fence.key, entry)
        if runtime.pipe is not None:

            def filled(outcome: int | Exception) -> None:
                if isinstance(outcome, Exception):
                    counters.fill_errors += 1
                    self._log_refusal(outcome)

            write = WriteSet(fence.key, fresh.data, lifetime)
            if runtime.breaker.is_open or not runtime.pipe.fill(write, filled):
                counters.fills_dropped += 1
        return entry

    def _log_refusal(self, error: Exception) -> None:
        # An outage is logged by the breaker.
        if not self._refusal_logged and not isinstance(error, L2UnavailableError):
            self._refusal_logged = True
            _LOGGER.warning("A loaded value was not stored in Valkey (said once, counted as fill_errors): %s", error)

    # Writing

    async def store(self, request: Request, fresh: Fresh) -> None:
        """Write a value; return when Valkey has acknowledged it. It wins over every load under way.

        Raises:
            L2UnavailableError: The write may or may not have happened; L1 no longer has the key.
            L2CommandError: Valkey refused it.
        """
        runtime = await self.open()
        policy, key = request.policy, request.key
        lifetime = policy.lifetime(fresh.ttl, request.ttl)
        entry = self._entry(policy, request, fresh.value, lifetime, since=self.now())

        def keep(outcome: int | Exception) -> None:
            # Again: whoever read the older value in between may have put it into L1, or be about to.
            self._drop(runtime, key)
            if policy.l1 and not isinstance(outcome, Exception):
                self.l1.put(key, entry)

        self._drop(runtime, key)
        if runtime.pipe is None:
            keep(1)
        else:
            await runtime.pipe.write(WriteSet(key, fresh.data, lifetime), keep)

    async def invalidate(self, key: str) -> bool:
        """Remove ``key`` from both levels; return whether it was in either.

        Raises:
            L2UnavailableError: It is gone from L1, and may or may not be gone from Valkey.
            L2CommandError: Valkey refused the delete.
        """
        runtime = await self.open()
        was_here = self._drop(runtime, key)
        if runtime.pipe is None:
            return was_here
        # Dropped again once deleted, for the reason given in ``store``.
        return await runtime.pipe.write(Delete((key,)), lambda _: self._drop(runtime, key)) > 0 or was_here

    async def invalidate_group(self, group: Group, prefix: str, belongs: Callable[[bytes], bool] | None = None) -> int:
        """Remove the entries of ``group`` from both levels; return how many.

        Args:
            group: Their group in L1.
            prefix: What their keys in Valkey begin with. Every key under it is looked at.
            belongs: Tells from the stored bytes whether an entry belongs to the group. None: all do.

        Raises:
            L2UnavailableError: They are gone from L1; some may be left in Valkey.
            L2CommandError: Valkey refused.
        """
        runtime = await self.open()
        count = self._drop_group(runtime, group)
        level2, pipe = runtime.level2, runtime.pipe
        if level2 is None or pipe is None:
            return count
        count = 0
        try:
            # A write that is still queued could otherwise arrive behind the scan.
            await pipe.flush()
            async for page in level2.scan(prefix):
                keys = page
                if belongs is not None:
                    values = await level2.get_values(page)
                    keys = [
                        key for key, value in zip(page, values, strict=True) if value is not None and belongs(value)
                    ]
                if keys:
                    count += await pipe.write(Delete(tuple(keys)))
        finally:
            self._drop_group(runtime, group)
        return count

    async def flush_writes(self) -> None:
        """Return when every write queued so far has been answered by Valkey, well or ill."""
        runtime = await self.open()
        if runtime.pipe is not None:
            await runtime.pipe.flush()

    def _drop(self, runtime: Runtime, key: str) -> bool:
        runtime.fences.break_key(key)
        return self.l1.drop(key)

    def _drop_group(self, runtime: Runtime, group: Group) -> int:
        runtime.fences.break_group(group)
        return self.l1.drop_group(group)

    # Being looked at

    def operation(self, name: str) -> Operation:
        """Return the context in which the operation ``name`` runs."""
        return self.operations.operation(name)

    @property
    def queued_write_count(self) -> int:
        """Writes that Valkey has not answered yet."""
        runtime = self._life.runtime
        return 0 if runtime is None or runtime.pipe is None else runtime.pipe.queued_count

    @property
    def is_degraded(self) -> bool:
        """Whether Valkey is taken for unavailable."""
        runtime = self._life.runtime
        return runtime is not None and runtime.breaker.is_open


def _count(counters: TierCounters, found: Found) -> None:
    if found.entry is not None and found.source == "l2":
        counters.l2_hits += 1
        counters.saved_micros += found.entry.cost_micros
    else:
        counters.misses += 1
        counters.coalesced += found.coalesced
