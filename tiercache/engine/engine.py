"""The engine: one lookup through the levels, one load through a flight, one rule for writes and invalidations.

Tiers hand it requests, codecs and loads; it knows nothing of prompts, prices, sockets or metrics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from ..errors import L2UnavailableError
from .clock import Clock
from .counters import TierCounters
from .entry import ENTRY_OVERHEAD_BYTES, Entry, Group
from .fences import Fence
from .flights import CURRENT_FLIGHT, Flight
from .found import Found, Source
from .l1 import L1
from .level2 import Delete, Level2, Stored, WriteSet
from .lifecycle import Lifecycle
from .operation import Operation, OperationLog, Tracer
from .policy import Fresh, Load, Mode, Request, TierPolicy, UndecodableError
from .runtime import Connect, Limits, Runtime, Service
from .write_pipe import OnDone

__all__ = ["Engine", "Found", "Source", "count_found"]

T = TypeVar("T")

_LOGGER: Final = logging.getLogger("tiercache")

# Values read at once to see whether they belong to a group: large answers must fit into the deadline of one exchange.
_READ_COUNT: Final = 50


class Engine:
    """One cache's levels, in one process.

    Attributes:
        tracer: Makes the spans. None where they are not wanted: then nothing is made for them.
    """

    def __init__(
        self,
        *,
        l1: L1,
        connect: Connect | None,
        limits: Limits,
        clock: Clock,
        services: Sequence[Service] = (),
        find_tracer: Callable[[], Tracer | None] | None = None,
    ) -> None:
        self.l1 = l1
        self.now = clock.monotonic
        self.wall = clock.wall
        self.operations = OperationLog(clock.monotonic)
        self.tracer: Tracer | None = None
        self._find_tracer = find_tracer or (lambda: None)
        self._connect = connect
        self._limits = limits
        self._services = services
        self._life = Lifecycle(self._start)
        self._warned: set[str] = set()

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
        self.tracer = self._find_tracer()
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

    async def find(self, request: Request, *, fresh: bool = False) -> Found:
        """Look a key up in both levels; with ``fresh`` in Valkey alone."""
        runtime = await self.open()
        entry = None if fresh else self.peek(request.key, self.now(), request.counters)
        if entry is not None:
            return Found(entry, "l1")
        fence = runtime.fences.open(request.key, request.groups)
        try:
            found = await self._read(runtime, request, fence)
        finally:
            runtime.fences.close(fence)
        count_found(request.counters, found)
        return found

    async def _read(self, runtime: Runtime, request: Request, fence: Fence) -> Found:
        """Ask Valkey, fill L1. Here, and for a batch in ``batch.read_many``, an unavailable Valkey becomes a miss."""
        if runtime.level2 is None:
            return Found(None, None)
        sent_at = self.now()
        fence.reading = True
        fence.keeps_reads = not runtime.is_writing(fence.key)
        try:
            stored = await runtime.level2.get(fence.key)
        except L2UnavailableError:
            request.counters.l2_errors += 1
            if request.policy.is_state:
                raise
            return Found(None, None, degraded=True)
        finally:
            fence.reading = False
        return self._received(request, fence, stored, sent_at)

    def _received(self, request: Request, fence: Fence, stored: Stored | None, sent_at: float) -> Found:
        """Return what Valkey's answer means, having filled L1 with it unless the fence is broken."""
        policy, counters = request.policy, request.counters
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
        if policy.l1 and fence.holds and fence.keeps_reads:
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
            groups=of.groups if policy.groups_of is None else policy.groups_of(value),
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
        count_found(request.counters, found)
        return found

    async def _join_or_fly(self, runtime: Runtime, request: Request, load: Load) -> Found:
        flight = runtime.flights.joinable(request.key)
        if flight is None:
            return await self._fly(runtime, request, load, read=True, shared=True)
        parent = CURRENT_FLIGHT.get()
        if parent is not None and flight.depends_on(parent):
            # The caller is a loader, and that flight waits for it: waiting for the flight would never end.
            return await self._load_privately(runtime, request, load)
        try:
            async with runtime.load_limits.lent():
                found: Found = await flight.wait()
        except Exception:
            request.counters.coalesced += 1
            raise
        return found._replace(coalesced=found.source == "loader")

    async def _fly(self, runtime: Runtime, request: Request, load: Load, *, read: bool, shared: bool) -> Found:
        """Start a flight and wait for it."""
        # Registered before anything is awaited: whatever changes the key from here on overtakes the flight.
        flight = Flight(runtime.fences.open(request.key, request.groups), finish=request.policy.finish_abandoned)
        if shared:
            runtime.flights.add(flight)
        runtime.start(flight, self._run(runtime, request, flight, load, read=read))
        found: Found = await flight.wait()
        return found

    async def _run(self, runtime: Runtime, request: Request, flight: Flight, load: Load, *, read: bool) -> None:
        """The body of a flight's task: read, load, fill, hand out."""
        CURRENT_FLIGHT.set(flight)
        try:
            found = await self._read(runtime, request, flight.fence) if read else Found(None, None)
            if found.entry is None:
                # A lease on the key, which makes one process load, belongs here: on a miss only.
                fresh = await self._load(runtime, request.counters, load)
                entry = self._fill(runtime, request, flight.fence, fresh)
                if request.fill is not None:
                    await request.fill(flight.fence, entry)
                found = Found(entry, "loader", degraded=found.degraded)
            flight.resolve(found)
        except BaseException as error:
            flight.fail(error)
            raise
        finally:
            runtime.land(flight)

    async def _load(self, runtime: Runtime, counters: TierCounters, load: Callable[[], Awaitable[T]]) -> T:
        counters.loads += 1
        try:
            return await runtime.load_limits.run(load)
        except Exception:
            counters.load_errors += 1
            raise

    async def _load_privately(self, runtime: Runtime, request: Request, load: Load) -> Found:
        """Load for one caller, in its own task; store nothing."""
        policy = request.policy
        fresh = await self._load(runtime, request.counters, load)
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
        if not fence.holds or (runtime.pipe is not None and runtime.pipe.is_changing(fence.key)):
            # Changed since the load began, or being changed: an explicit write wins until it is answered.
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
                else:
                    counters.stored_bytes += len(fresh.data)

            write = WriteSet(fence.key, fresh.data, lifetime)
            if runtime.breaker.is_open or not runtime.pipe.fill(write, filled):
                counters.fills_dropped += 1
        elif policy.l1:
            counters.stored_bytes += len(fresh.data)
        return entry

    def _log_refusal(self, error: Exception) -> None:
        # An outage is logged by the breaker.
        if not isinstance(error, L2UnavailableError):
            self.warn_once("A loaded value was not stored in Valkey (counted as fill_errors): %s", error)

    def is_wanted(self, policy: TierPolicy, loaded: object) -> bool:
        """Return whether what a loader returned is to be stored, as the tier's ``store_when`` says."""
        if policy.store_when is None:
            return True
        try:
            return bool(policy.store_when(loaded))
        # The caller's function may raise anything; what was loaded and paid for reaches those who wait all the same.
        except Exception as error:
            self.warn_once("TierOptions.store_when raised, so that nothing is stored: %r", error)
            return False

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning, each message once for this cache."""
        if message not in self._warned:
            self._warned.add(message)
            _LOGGER.warning(message + " (said once)", *arguments)

    # Writing

    async def store(self, request: Request, fresh: Fresh) -> float | None:
        """Write a value; return its lifetime when Valkey has acknowledged it. It wins over every load under way.

        Raises:
            L2UnavailableError: The write may or may not have happened; L1 no longer has the key.
            L2CommandError: Valkey refused it.
        """
        runtime = await self.open()
        write, keep = self._storing(runtime, request, fresh)
        self._drop(runtime, request.key)
        if runtime.pipe is None:
            keep(1)
        else:
            await runtime.pipe.write(write, keep)
        return write.ttl

    def _storing(self, runtime: Runtime, request: Request, fresh: Fresh) -> tuple[WriteSet, OnDone]:
        """Return the write of a value, and what to do when its outcome is known."""
        policy, key = request.policy, request.key
        lifetime = policy.lifetime(fresh.ttl, request.ttl)
        entry = self._entry(policy, request, fresh.value, lifetime, since=self.now())

        def keep(outcome: int | Exception) -> None:
            # Again: whoever read the older value in between may have put it into L1, or be about to.
            self._drop(runtime, key)
            if not isinstance(outcome, Exception):
                request.counters.stored_bytes += len(fresh.data)
                if policy.l1:
                    self.l1.put(key, entry)

        return WriteSet(key, fresh.data, lifetime), keep

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

    async def invalidate_group(
        self,
        group: Group,
        prefix: str,
        belongs: Callable[[bytes], bool] | None = None,
        *,
        overtakes: Group | None = None,
    ) -> int:
        """Remove the entries of ``group`` from both levels; return how many.

        Args:
            group: Their group in L1.
            prefix: What their keys in Valkey begin with. Every key under it is looked at.
            belongs: Tells from the stored bytes whether an entry belongs to the group. None: all do.
            overtakes: The group of the requests whose reads and loads under way store nothing more. None: the same.

        Raises:
            L2UnavailableError: They are gone from L1; some may be left in Valkey.
            L2CommandError: Valkey refused.
        """
        runtime = await self.open()
        overtakes = overtakes or group
        count = self._drop_group(runtime, group, overtakes)
        level2, pipe = runtime.level2, runtime.pipe
        if level2 is None or pipe is None:
            return count
        count = 0
        try:
            # A write that is still queued could otherwise arrive behind the scan.
            await pipe.flush()
            async for page in level2.scan(prefix):
                keys = page if belongs is None else await _those_that_belong(level2, page, belongs)
                if keys:
                    count += await pipe.write(Delete(tuple(keys)))
        finally:
            self._drop_group(runtime, group, overtakes)
        return count

    async def flush_writes(self) -> None:
        """Return when every write queued so far has been answered by Valkey, well or ill."""
        runtime = await self.open()
        if runtime.pipe is not None:
            await runtime.pipe.flush()

    def _drop(self, runtime: Runtime, key: str) -> bool:
        runtime.fences.break_key(key)
        return self.l1.drop(key)

    def _drop_group(self, runtime: Runtime, group: Group, overtakes: Group) -> int:
        runtime.fences.break_group(overtakes)
        return self.l1.drop_group(group)

    # Being looked at

    def operation(self, name: str, **attributes: object) -> Operation:
        """Return the context in which the operation ``name`` runs; its span, if there is one, has ``attributes``."""
        if not self._life.is_attached:
            # The first operation opens the cache, and is to have a span too.
            self.tracer = self._find_tracer()
        return self.operations.operation(name, self.tracer, attributes)

    def trace_hit(self, name: str, **attributes: object) -> None:
        """Make the span of an operation that L1 has answered. Ask for it only where ``tracer`` is not None."""
        if self.tracer is not None:
            self.tracer.record(name, {**attributes, "hit": True, "source": "l1", "coalesced": False})

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


def count_found(counters: TierCounters, found: Found) -> None:
    """Count how one caller was answered, past L1."""
    if found.entry is not None and found.source == "l2":
        counters.l2_hits += 1
        counters.saved_micros += found.entry.cost_micros
    else:
        counters.misses += 1
        counters.coalesced += found.coalesced


async def _those_that_belong(level2: Level2, keys: list[bytes], belongs: Callable[[bytes], bool]) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(keys), _READ_COUNT):
        chunk = keys[start : start + _READ_COUNT]
        values = await level2.get_values(chunk)
        found += [key for key, value in zip(chunk, values, strict=True) if value is not None and belongs(value)]
    return found
