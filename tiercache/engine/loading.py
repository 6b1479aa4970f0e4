"""Loading: one flight a key in this process, one lease a key among all, one rule for what is stored of a load.

Another part of ``Engine``, whose helpers it uses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..errors import TierCacheError
from .counters import TierCounters
from .engine import Engine, count_found
from .entry import Entry
from .fences import Fence
from .flights import CURRENT_FLIGHT, Flight, waiting_for
from .found import Found
from .leases import Lease, is_placeholder
from .level2 import Delete, WriteSet
from .link import Link
from .policy import Fresh, Load, Mode, Request, UndecodableError
from .runtime import Runtime

__all__ = ["fill", "get_or_load", "join", "joinable", "load_in_turn"]

T = TypeVar("T")

# Seconds between two looks at a key that another process loads, should its end not be heard of.
_FIRST_LOOK: Final = 0.02
_LAST_LOOK: Final = 0.5


async def get_or_load(engine: Engine, request: Request, load: Load, mode: Mode) -> Found:
    """Return the value of a key, loading it at most once at a time.

    What ``load`` raises reaches every waiter unchanged and stores nothing. Cancelling one waiter leaves the others
    waiting. The modes are those of ``LlmTier.get_or_load``.

    Raises:
        L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
    """
    runtime = engine.at_hand() or await engine.open()
    if mode == "only_cached":
        return await engine.find(request)
    if mode == "bypass":
        return await _load_privately(engine, runtime, request, load)
    if mode != "use":
        return await _fly(engine, runtime, request, load, read=False, shared=mode == "refresh")
    entry = engine.peek(request.key, engine.now(), request.counters)
    if entry is not None:
        return Found(entry, "l1")
    try:
        found = await _join_or_fly(engine, runtime, request, load)
    except Exception:
        request.counters.misses += 1
        raise
    count_found(request.counters, found)
    return found


async def join(engine: Engine, operation: str, flight: Flight, counters: TierCounters) -> Found:
    """Return what a flight brings that ``joinable`` has returned in the same step; counted, as ``operation``.

    The quick path of ``get_or_load`` for those who merely wait. Errors and cancellation as there.
    """
    began = engine.now()
    is_failed = False
    # No coroutine, context or object but these: what the last of a thousand waits for is that all were served.
    waiter = flight.join()
    try:
        found: Found = await waiter
    except Exception:
        is_failed = True
        counters.misses += 1
        counters.coalesced += 1
        raise
    finally:
        flight.leave(waiter)
        engine.operations.counters(operation).count(engine.now() - began, failed=is_failed)
    count_found(counters, found)
    return found


def joinable(engine: Engine, key: str) -> Flight | None:
    """Return the load that a caller whom L1 has not answered may simply wait for, None where there is more to it.

    There is where the caller is a loader itself: it may be what that load waits for, or hold what that load needs.
    """
    runtime = engine.at_hand()
    if runtime is None or engine.tracer is not None:
        return None
    flight = runtime.flights.joinable(key)
    if flight is None or CURRENT_FLIGHT.get() is not None or runtime.load_limits.is_lending:
        return None
    return flight


async def _join_or_fly(engine: Engine, runtime: Runtime, request: Request, load: Load) -> Found:
    flight = runtime.flights.joinable(request.key)
    if flight is None:
        return await _fly(engine, runtime, request, load, read=True, shared=True)
    parent = CURRENT_FLIGHT.get()
    if parent is not None and flight.depends_on(parent):
        # The caller is a loader, and that flight waits for it: waiting for the flight would never end.
        return await _load_privately(engine, runtime, request, load)
    try:
        if runtime.load_limits.is_lending:
            async with runtime.load_limits.lent():
                found: Found = await flight.wait()
        else:
            found = await flight.wait()
    except Exception:
        request.counters.coalesced += 1
        raise
    return found


async def _fly(engine: Engine, runtime: Runtime, request: Request, load: Load, *, read: bool, shared: bool) -> Found:
    """Start a flight and wait for it."""
    # Registered before anything is awaited: whatever changes the key from here on overtakes the flight.
    flight = Flight(runtime.fences.open(request.key, request.groups), finish=request.policy.finish_abandoned)
    if shared:
        runtime.flights.add(flight)
    runtime.start(flight, _run(engine, runtime, request, flight, load, read=read))
    found: Found = await flight.wait()
    return found._replace(coalesced=False)


async def _run(engine: Engine, runtime: Runtime, request: Request, flight: Flight, load: Load, *, read: bool) -> None:
    """The body of a flight's task: read, take the lease, load, fill, hand out."""
    CURRENT_FLIGHT.set(flight)
    try:
        found = await engine.read(runtime, request, flight.fence) if read else Found(None, None)
        if found.entry is None:
            found = await _bring(engine, runtime, request, flight.fence, load, found, is_wanted_anew=not read)
        flight.resolve(found)
    except BaseException as error:
        flight.fail(error)
        raise
    finally:
        runtime.land(flight)


async def _bring(
    engine: Engine,
    runtime: Runtime,
    request: Request,
    fence: Fence,
    load: Load,
    found: Found,
    *,
    is_wanted_anew: bool,
) -> Found:
    """Load what was not found, unless another process does so; store it."""
    lease, link = None, runtime.link
    if link is not None and may_lease(runtime, request, fence, found):
        found, lease = await _obtain(engine, runtime, link, request, fence, found, is_wanted_anew=is_wanted_anew)
        if found.entry is not None:
            return found
    try:
        fresh = await _load_one(runtime, request, load)
        entry = fill(engine, runtime, request, fence, fresh, lease, is_wanted_anew=is_wanted_anew)
    except BaseException:
        if link is not None and lease is not None:
            link.leases.give_up(lease)
        raise
    if request.fill is not None:
        if request.policy.takes(fresh.data):
            await request.fill(fence, entry)
        else:
            request.counters.too_large += 1
    # For all who wait but the one who has started it: they are many.
    return Found(entry, "loader", coalesced=True, degraded=found.degraded)


def may_lease(runtime: Runtime, request: Request, fence: Fence, found: Found) -> bool:
    """Return whether a load is to take a lease: not while Valkey does not answer, nor where nothing may be stored."""
    return (
        request.policy.lease
        and request.fill is None
        and not found.degraded
        and not runtime.breaker.is_open
        and not runtime.fences.is_barred(fence)
        # An explicit write of the key, under way, wins over the load.
        and not (runtime.pipe is not None and runtime.pipe.is_changing(request.key))
    )


async def _obtain(
    engine: Engine,
    runtime: Runtime,
    link: Link,
    request: Request,
    fence: Fence,
    found: Found,
    *,
    is_wanted_anew: bool,
) -> tuple[Found, Lease | None]:
    """Return the lease on a key, or what another process has loaded; neither where the load has to do without.

    Waits for the lease of one other load at most.
    """
    waited_for: bytes | None = None
    while True:
        # Nothing has been brought yet that a change up to now could have overtaken.
        runtime.fences.renew(fence)
        if found.placeholder is None or link.leases.is_orphan(request.key, found.placeholder):
            try:
                taken = await _take(link, request, is_wanted_anew=is_wanted_anew)
            except TierCacheError as error:
                engine.log_refusal(error)
                return found, None
            if isinstance(taken, Lease):
                return found, taken
            if taken is None:
                continue
            if is_placeholder(taken):
                found = found._replace(placeholder=taken)
            else:
                # Stored since it was looked for.
                found = await engine.read(runtime, request, fence)
                if found.entry is not None or found.degraded:
                    return found, None
                if found.placeholder is None:
                    continue
        if waited_for is not None:
            return found, None
        waited_for = found.placeholder
        found = await _wait(engine, runtime, link, request, fence, found)
        if found.entry is not None or found.degraded:
            return found, None
        if found.placeholder == waited_for and not link.leases.is_orphan(request.key, waited_for):
            return found, None


async def _take(link: Link, request: Request, *, is_wanted_anew: bool) -> Lease | bytes | None:
    """Return the lease on a key, or what is there: a placeholder or a value; None if that has changed meanwhile."""
    taken = await link.leases.take(request.key, request.indexes)
    if isinstance(taken, Lease):
        return taken
    if is_placeholder(taken):
        # Who loads it has begun earlier than a load that is wanted anew, whose value is the one to be stored. And an
        # orphan is loaded by nobody.
        if is_wanted_anew or link.leases.is_orphan(request.key, taken):
            return await link.leases.take_over(request.key, taken, request.indexes)
        return taken
    # What no tier can read is to be replaced.
    return Lease(request.key, taken) if is_wanted_anew or not _is_decodable(request, taken) else taken


def _is_decodable(request: Request, data: bytes) -> bool:
    try:
        request.policy.codec.decode(data)
    except UndecodableError:
        return False
    return True


async def _wait(engine: Engine, runtime: Runtime, link: Link, request: Request, fence: Fence, found: Found) -> Found:
    """Return what is found once the placeholder has gone, or when ``lease_wait`` has passed."""
    request.counters.lease_waits += 1
    waited_for = found.placeholder
    limit = math.inf if link.lease_wait is None else link.lease_wait
    give_up_at = engine.now() + limit
    look = _FIRST_LOOK
    # A load that waits for another process holds no slot: whoever holds that lease may be waiting for one.
    async with runtime.load_limits.lent():
        while found.placeholder == waited_for and not found.degraded and (left := give_up_at - engine.now()) > 0:
            if link.leases.is_orphan(request.key, waited_for):
                break
            # It may be that of a load of this process that nobody may join any more. Should its loader wait for this
            # load, neither would end; and whoever is about to wait for this one has to know.
            holder = link.leases.load_of(request.key, waited_for)
            if holder is not None and (load := CURRENT_FLIGHT.get()) is not None and holder.depends_on(load):
                break
            link.leases.ask(request.key)
            with waiting_for(*(() if holder is None else (holder,))):
                await link.leases.wait(request.key, min(look * random.uniform(0.75, 1.25), left))
            look = min(2 * look, _LAST_LOOK)
            runtime.fences.renew(fence)
            found = await engine.read(runtime, request, fence)
    return found


async def _load_one(runtime: Runtime, request: Request, load: Load) -> Fresh:
    return await load_in_turn(runtime, request.counters, load, is_batched=request.is_batched)


async def load_in_turn(
    runtime: Runtime, counters: TierCounters, load: Callable[[], Awaitable[T]], *, is_batched: bool = False
) -> T:
    """Return what ``load`` returns, within the limits of the cache, which a batched one sees to itself; counted."""
    counters.loads += 1
    try:
        return await (load() if is_batched else runtime.load_limits.run(load))
    except Exception:
        counters.load_errors += 1
        raise


async def _load_privately(engine: Engine, runtime: Runtime, request: Request, load: Load) -> Found:
    """Load for one caller, in its own task; store nothing."""
    policy = request.policy
    fresh = await _load_one(runtime, request, load)
    lifetime = policy.lifetime(fresh.ttl, request.ttl)
    now = engine.now()
    return Found(engine.entry(policy, request, fresh.value, lifetime, since=now, began=now), "loader")


def fill(
    engine: Engine,
    runtime: Runtime,
    request: Request,
    fence: Fence,
    fresh: Fresh,
    lease: Lease | None,
    *,
    is_wanted_anew: bool = False,
) -> Entry:
    """Return the entry of what was loaded, having stored it where that is right.

    In L1 unless the key was changed, or may have been, since ``fence`` was opened. In Valkey under ``lease`` or, for a
    tier without leases, if no change is known. Nowhere if it is too large.

    Args:
        is_wanted_anew: Whether it was loaded in place of what the cache may have.
    """
    # No await here: the fence is looked at, L1 filled and the write queued in one step, so that an invalidation
    # comes either before (and nothing is stored) or after (and its delete is queued behind this write).
    policy, counters, link = request.policy, request.counters, runtime.link
    lifetime = policy.lifetime(fresh.ttl, request.ttl)
    entry = engine.entry(policy, request, fresh.value, lifetime, since=engine.now(), began=fence.began)
    # Changed since the load began, or being changed: an explicit write wins until it is answered.
    is_overtaken = not fence.holds or (link is not None and link.pipe.is_changing(fence.key))
    if not fresh.store or is_overtaken or runtime.fences.is_barred(fence):
        counters.overtaken += fresh.store
        if link is not None and lease is not None:
            link.leases.give_up(lease)
        return entry
    if not policy.takes(fresh.data):
        counters.too_large += 1
        if link is not None and lease is not None:
            link.leases.give_up(lease)
        if is_wanted_anew:
            _drop_older(engine, runtime, fence.key)
        return entry
    if link is None or lease is not None or not policy.lease:
        # A load without the lease is stored in this process alone, and leaves the one that has it its right.
        runtime.fences.overtake(fence)
    is_kept = policy.l1 and not fence.in_doubt
    if is_kept:
        engine.l1.put(fence.key, entry)
    if link is None:
        counters.stored_bytes += len(fresh.data) if is_kept else 0
    elif not _fill_valkey(engine, runtime, link, request, fresh, lifetime, lease, entry):
        counters.fills_dropped += 1
    return entry


def _drop_older(engine: Engine, runtime: Runtime, key: str) -> None:
    """Have nobody read what was there before a value that is newer, and is kept nowhere."""
    dropped = engine.dropping(runtime, (key,))
    if runtime.pipe is None:
        dropped(0)
    else:
        # Not only what the load has found: an older value that others have in memory is to go too.
        runtime.pipe.post(Delete((key,), announced=True), dropped)


def _fill_valkey(
    engine: Engine,
    runtime: Runtime,
    link: Link,
    request: Request,
    fresh: Fresh,
    lifetime: float | None,
    lease: Lease | None,
    entry: Entry,
) -> bool:
    """Queue the write of what was loaded; return False if it is not to be written, or dropped."""
    key, counters = request.key, request.counters
    if lease is None and (request.policy.lease or runtime.breaker.is_open):
        return False
    data = request.policy.codec.pack(fresh.data)

    def filled(outcome: int | Exception) -> None:
        if isinstance(outcome, Exception):
            counters.fill_errors += 1
            engine.log_refusal(outcome)
        elif outcome:
            counters.stored_bytes += len(data)
        else:
            # The lease was lost: somebody has changed the key, or it has run out and another process loads anew.
            counters.overtaken += 1
            engine.l1.drop_entry(key, entry)

    if lease is not None:
        return link.leases.fill(lease, data, lifetime, filled)
    return link.pipe.fill(WriteSet(key, data, lifetime, indexes=request.indexes), filled)
