"""One load of one key: read Valkey, take the lease or wait for its holder, call the loader, fill both levels.

``get_or_load`` decides whether a caller starts a load, joins one, or loads for itself. ``Load`` carries one load from
the first read to the fill; ``batch`` drives several of them with one read and one call of the loader.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from ...errors import TierCacheError
from ..call import Call, Loaded, LoadFunction, Mode
from ..coherence.leases import Lease, is_placeholder
from ..engine import Engine, count_lookup
from ..entries.counters import TierCounters
from ..entries.entry import Entry
from ..entries.lookup import Lookup
from ..entries.policy import UndecodableError
from ..level2.writes import Delete, WriteSet
from ..memory.flights import CURRENT_FLIGHT, Flight, waiting_for
from ..runtime.runtime import Runtime

__all__ = ["Load", "get_or_load", "join", "joinable", "limited"]

T = TypeVar("T")

# Seconds between two polls of a key that another process loads, in case its announcement is lost.
_FIRST_POLL: Final = 0.02
_LAST_POLL: Final = 0.5
_NOT_FOUND: Final = Lookup(None, None)


async def get_or_load(engine: Engine, request: Call, load: LoadFunction, mode: Mode) -> Lookup:
    """Return the value of a key, loading it at most once at a time.

    What ``load`` raises reaches every waiter unchanged and stores nothing. Cancelling one waiter leaves the others
    waiting. The modes are those of ``LlmTier.get_or_load``.

    Raises:
        L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
    """
    runtime = engine.open_runtime() or await engine.open()
    if mode == "only_cached":
        return await engine.find(request)
    if mode == "bypass":
        return await _load_privately(engine, runtime, request, load)
    if mode != "use":
        return await _start(engine, runtime, request, load, is_refresh=True, is_shared=mode == "refresh")
    entry = engine.hit(request.key, engine.now(), request.counters)
    if entry is not None:
        return Lookup(entry, "l1")
    try:
        found = await _join_or_start(engine, runtime, request, load)
    except Exception:
        request.counters.misses += 1
        raise
    count_lookup(request.counters, found)
    return found


async def join(engine: Engine, operation: str, flight: Flight, counters: TierCounters) -> Lookup:
    """Wait for a flight that ``joinable`` returned in this same step; counted, as ``operation``.

    The quick path of ``get_or_load`` for callers that only wait. Errors and cancellation as there.
    """
    began = engine.now()
    is_failed = False
    waiter = flight.join()
    try:
        found: Lookup = await waiter
    except Exception:
        is_failed = True
        counters.misses += 1
        counters.coalesced += 1
        raise
    finally:
        flight.leave(waiter)
        engine.operations.counters(operation).count(engine.now() - began, failed=is_failed)
    count_lookup(counters, found)
    return found


def joinable(engine: Engine, key: str) -> Flight | None:
    """Return the flight that a caller may simply wait for, None where there is more to decide.

    There is more where the caller is itself a loader: the flight may wait for the caller, or need the caller's slot.
    """
    runtime = engine.open_runtime()
    if runtime is None or engine.tracer is not None:
        return None
    flight = runtime.flights.joinable(key)
    if flight is None or CURRENT_FLIGHT.get() is not None or runtime.load_limits.is_lending:
        return None
    return flight


async def _join_or_start(engine: Engine, runtime: Runtime, request: Call, load: LoadFunction) -> Lookup:
    flight = runtime.flights.joinable(request.key)
    if flight is None:
        return await _start(engine, runtime, request, load)
    parent = CURRENT_FLIGHT.get()
    if parent is not None and flight.depends_on(parent):
        # The caller is a loader, and that flight waits for it: waiting for the flight would never end.
        return await _load_privately(engine, runtime, request, load)
    try:
        if runtime.load_limits.is_lending:
            async with runtime.load_limits.lent():
                found: Lookup = await flight.wait()
        else:
            found = await flight.wait()
    except Exception:
        request.counters.coalesced += 1
        raise
    return found


async def _start(
    engine: Engine,
    runtime: Runtime,
    request: Call,
    function: LoadFunction,
    *,
    is_refresh: bool = False,
    is_shared: bool = True,
) -> Lookup:
    """Start a load in a task of its own, and wait for it."""
    # Registered before anything is awaited: whatever changes the key from here on overtakes the load.
    flight = Flight(runtime.fences.open(request.key, request.groups), finish=request.policy.finish_abandoned)
    if is_shared:
        runtime.flights.add(flight)
    load = Load(engine, runtime, request, flight, is_refresh=is_refresh)
    runtime.start(flight, load.run(function))
    found: Lookup = await flight.wait()
    return found._replace(coalesced=False)


async def limited(
    runtime: Runtime, counters: TierCounters, load: Callable[[], Awaitable[T]], *, is_batched: bool = False
) -> T:
    """Call ``load`` within the limits of the cache, which a batch loader observes itself; counted."""
    counters.loads += 1
    try:
        return await (load() if is_batched else runtime.load_limits.run(load))
    except Exception:
        counters.load_errors += 1
        raise


async def _load_privately(engine: Engine, runtime: Runtime, request: Call, load: LoadFunction) -> Lookup:
    """Load for one caller, in its own task; store nothing."""
    fresh = await limited(runtime, request.counters, load, is_batched=request.is_batched)
    lifetime = request.policy.lifetime(fresh.ttl, request.ttl)
    now = engine.now()
    return Lookup(engine.entry(request.policy, request, fresh.value, lifetime, since=now, began=now), "loader")


class Load:
    """One load of one key.

    Attributes:
        flight: The callers that wait for it, and the fence that says whether it may be stored.
        is_refresh: Whether it replaces what the cache may have.
        is_shared: Whether others may join it, and its value is stored.
        found: What is known so far.
        lease: The right to store in Valkey, None without one.
    """

    __slots__ = ("_engine", "_link", "_runtime", "flight", "found", "is_refresh", "is_shared", "lease", "request")

    def __init__(
        self,
        engine: Engine,
        runtime: Runtime,
        request: Call,
        flight: Flight,
        *,
        is_refresh: bool = False,
        is_shared: bool = True,
    ) -> None:
        self._engine = engine
        self._runtime = runtime
        self._link = runtime.l2
        self.request = request
        self.flight = flight
        self.is_refresh = is_refresh
        self.is_shared = is_shared
        self.found = _NOT_FOUND
        self.lease: Lease | None = None

    async def run(self, function: LoadFunction) -> None:
        """The body of the flight's task."""
        CURRENT_FLIGHT.set(self.flight)
        try:
            if not self.is_refresh:
                await self._read()
            if self.found.entry is None:
                await self._bring(function)
            self.flight.resolve(self.found)
        except BaseException as error:
            self.flight.fail(error)
            raise
        finally:
            self._runtime.finish(self.flight)

    async def _read(self) -> None:
        self.found = await self._engine.read(self._runtime, self.request, self.flight.fence)

    async def _bring(self, function: LoadFunction) -> None:
        """Load what was not found, unless another process does so; store it."""
        request = self.request
        if self.may_lease():
            await self._obtain()
            if self.found.entry is not None:
                return
        try:
            fresh = await limited(self._runtime, request.counters, function, is_batched=request.is_batched)
            entry = self.fill(fresh)
        except BaseException:
            self.give_up()
            raise
        if request.fill is not None:
            if request.policy.takes(fresh.data):
                await request.fill(self.flight.fence, entry)
            else:
                request.counters.too_large += 1

    # The lease

    def may_lease(self) -> bool:
        """Return whether to take a lease: not while Valkey is unavailable, nor where nothing may be stored."""
        runtime, request, l2 = self._runtime, self.request, self._link
        return (
            l2 is not None
            and request.policy.lease
            and request.fill is None
            and not self.found.degraded
            and not runtime.breaker.is_open
            and not runtime.fences.is_barred(self.flight.fence)
            # An explicit write of the key, under way, wins over the load.
            and not l2.pipe.is_changing(request.key)
        )

    def give_up(self) -> None:
        """Remove the placeholder, so that another process can load."""
        if self.lease is not None and self._link is not None:
            self._link.leases.give_up(self.lease)
            self.lease = None

    async def _obtain(self) -> None:
        """Set ``lease``, or ``found`` to what another process has loaded; neither where the load has to do without.

        Waits for the lease of one other load at most.
        """
        waited_for: bytes | None = None
        while True:
            # Nothing has been loaded yet that a change up to now could have overtaken.
            self._runtime.fences.renew(self.flight.fence)
            if self.found.placeholder is None or self._is_orphan(self.found.placeholder):
                try:
                    taken = await self._take()
                except TierCacheError as error:
                    self._engine.log_refusal(error)
                    return
                if isinstance(taken, Lease):
                    self.lease = taken
                    return
                if taken is None:
                    continue
                if is_placeholder(taken):
                    self.found = self.found._replace(placeholder=taken)
                else:
                    # Stored since it was looked for.
                    await self._read()
                    if self._is_decided:
                        return
                    if self.found.placeholder is None:
                        continue
            if waited_for is not None:
                return
            waited_for = self.found.placeholder
            await self._wait_for(waited_for)
            if self._is_decided or (self.found.placeholder == waited_for and not self._is_orphan(waited_for)):
                return

    @property
    def _is_decided(self) -> bool:
        """Whether there is nothing to take a lease for: the value has been found, or Valkey is unavailable."""
        return self.found.entry is not None or self.found.degraded

    def _is_orphan(self, placeholder: bytes | None) -> bool:
        assert self._link is not None
        return self._link.leases.is_orphan(self.request.key, placeholder)

    async def _take(self) -> Lease | bytes | None:
        """Return the lease, or what is there: a placeholder or a value; None if that has changed meanwhile."""
        assert self._link is not None
        leases, key, indexes = self._link.leases, self.request.key, self.request.indexes
        taken = await leases.take(key, indexes)
        if isinstance(taken, Lease):
            return taken
        if is_placeholder(taken):
            # A refresh wins over a load that began earlier. And nobody loads for an orphan.
            if self.is_refresh or self._is_orphan(taken):
                return await leases.take_over(key, taken, indexes)
            return taken
        # A value that no tier can read is replaced.
        return Lease(key, taken) if self.is_refresh or not self._is_decodable(taken) else taken

    def _is_decodable(self, data: bytes) -> bool:
        try:
            self.request.policy.codec.decode(data)
        except UndecodableError:
            return False
        return True

    async def _wait_for(self, placeholder: bytes | None) -> None:
        """Set ``found`` to what is there once the placeholder has gone, or when ``lease_wait`` has passed."""
        engine, runtime, l2, key = self._engine, self._runtime, self._link, self.request.key
        assert l2 is not None
        self.request.counters.lease_waits += 1
        give_up_at = engine.now() + (math.inf if l2.lease_wait is None else l2.lease_wait)
        poll = _FIRST_POLL
        # A load that waits for another process holds no slot: the holder of that lease may be waiting for one.
        async with runtime.load_limits.lent():
            while (
                self.found.placeholder == placeholder
                and not self.found.degraded
                and (left := give_up_at - engine.now()) > 0
                and not self._is_orphan(placeholder)
            ):
                # The holder may be a load of this process that nobody may join any more. If its loader waits for this
                # load, neither would end; and whoever is about to wait for this load has to know.
                holder = l2.leases.load_of(key, placeholder)
                if holder is not None and (current := CURRENT_FLIGHT.get()) is not None and holder.depends_on(current):
                    break
                l2.leases.ask(key)
                with waiting_for(*(() if holder is None else (holder,))):
                    await l2.leases.wait(key, min(poll * random.uniform(0.75, 1.25), left))
                poll = min(2 * poll, _LAST_POLL)
                runtime.fences.renew(self.flight.fence)
                await self._read()

    # The fill

    def fill(self, fresh: Loaded) -> Entry:
        """Store what was loaded where that is right; set ``found`` to it and return its entry.

        In L1 unless the key was changed, or may have been, since the fence was opened. In Valkey under the lease or,
        for a tier without leases, if no change is known. Nowhere if it is too large.
        """
        # No await here: the fence is looked at, L1 filled and the write queued in one step, so that an invalidation
        # comes either before (and nothing is stored) or after (and its delete is queued behind this write).
        engine, fences, l2 = self._engine, self._runtime.fences, self._link
        policy, counters, fence = self.request.policy, self.request.counters, self.flight.fence
        lifetime = policy.lifetime(fresh.ttl, self.request.ttl)
        entry = engine.entry(policy, self.request, fresh.value, lifetime, since=engine.now(), began=fence.began)
        # For every waiter but the one that started the load.
        self.found = Lookup(entry, "loader", coalesced=True, degraded=self.found.degraded)
        if not fresh.store or self._is_overtaken():
            counters.overtaken += fresh.store
            self.give_up()
            return entry
        if not policy.takes(fresh.data):
            counters.too_large += 1
            self.give_up()
            if self.is_refresh:
                self._drop_older()
            return entry
        if l2 is None or self.lease is not None or not policy.lease:
            # A load without the lease is stored in this process alone, and leaves the holder its right.
            fences.overtake(fence)
        is_kept = policy.l1 and not fence.in_doubt
        if is_kept:
            engine.l1.put(fence.key, entry)
        if l2 is None:
            counters.stored_bytes += len(fresh.data) if is_kept else 0
        elif not self._fill_valkey(fresh, lifetime, entry):
            counters.fills_dropped += 1
        return entry

    def _is_overtaken(self) -> bool:
        """Return whether the key was changed since the load began, or is being changed: an explicit write wins."""
        fence, l2 = self.flight.fence, self._link
        is_changing = l2 is not None and l2.pipe.is_changing(fence.key)
        return not fence.holds or is_changing or self._runtime.fences.is_barred(fence)

    def _drop_older(self) -> None:
        """Have nobody read what was there before a value that is newer, and is kept nowhere."""
        key, pipe = self.request.key, self._runtime.pipe
        dropped = self._engine.dropping(self._runtime, (key,))
        if pipe is None:
            dropped(0)
        else:
            # Not only what the load has found: an older value that others have in memory is to go too.
            pipe.post(Delete((key,), announced=True), dropped)

    def _fill_valkey(self, fresh: Loaded, lifetime: float | None, entry: Entry) -> bool:
        """Queue the write; return False if it is not to be written, or the queue is full."""
        request, l2, lease = self.request, self._link, self.lease
        assert l2 is not None
        if lease is None and (request.policy.lease or self._runtime.breaker.is_open):
            return False
        engine, key, counters = self._engine, request.key, request.counters
        data = request.policy.codec.pack(fresh.data)

        def filled(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                counters.fill_errors += 1
                engine.log_refusal(outcome)
            elif outcome:
                counters.stored_bytes += len(data)
            else:
                # The lease was lost: somebody has changed the key, or it ran out and another process loads.
                counters.overtaken += 1
                engine.l1.drop_entry(key, entry)

        if lease is not None:
            return l2.leases.fill(lease, data, lifetime, filled)
        return l2.pipe.fill(WriteSet(key, data, lifetime, indexes=request.indexes), filled)
