"""Many keys at once: one read for all that is not in L1, one load for all that is nowhere, one queueing of writes.

The other half of ``Engine``, whose helpers it uses: what a batch does for each of its keys is what the engine does for
one. Requests are for distinct keys; what comes back is in their order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, TypeAlias

from .engine import Engine, count_found
from .flights import CURRENT_FLIGHT, Flight, wait_all
from .found import Found
from .leases import Lease
from .level2 import Delete, Write
from .loading import fill, load_in_turn, may_lease
from .policy import Fresh, Request
from .queued import OnDone
from .runtime import Runtime
from .storing import storing

__all__ = ["LoadMany", "find_many", "get_or_load_many", "invalidate_many", "store_many"]

# Called with the keys that were nowhere; returns what belongs to each of them, in their order.
LoadMany: TypeAlias = Callable[[list[str]], Awaitable[list[Fresh]]]


# Reading


async def find_many(engine: Engine, requests: Sequence[Request]) -> list[Found]:
    """Look keys up in both levels, as ``Engine.find`` does one; Valkey is asked once."""
    runtime = await engine.open()
    founds = _peek_all(engine, requests)
    missing = [request for request in requests if request.key not in founds]
    fences = [runtime.fences.open(request.key, request.groups) for request in missing]
    try:
        read = await engine.read_many(runtime, missing, fences)
    finally:
        for fence in fences:
            runtime.fences.close(fence)
    for request, found in zip(missing, read, strict=True):
        count_found(request.counters, found)
        founds[request.key] = found
    return [founds[request.key] for request in requests]


def _peek_all(engine: Engine, requests: Sequence[Request]) -> dict[str, Found]:
    now = engine.now()
    entries = ((request.key, engine.peek(request.key, now, request.counters)) for request in requests)
    return {key: Found(entry, "l1") for key, entry in entries if entry is not None}


# Loading


class _Own(NamedTuple):
    """A key that this call brings itself.

    Attributes:
        is_shared: Whether others may join the flight, and its value is stored.
    """

    request: Request
    flight: Flight
    is_shared: bool


async def get_or_load_many(engine: Engine, requests: Sequence[Request], load: LoadMany) -> list[Found]:
    """Return the values of keys, loading each at most once at a time in this process.

    A key that another flight is bringing already is waited for. For the others Valkey is asked once, and ``load`` is
    called once, in one task of their own, with those that it does not have. A change of one of the keys meanwhile
    overtakes that key alone. What ``load`` raises reaches everyone who waits for one of its keys, and stores nothing.
    Cancelling the caller cancels the task only when nobody else waits for any of its keys.

    Raises:
        L2CommandError: Valkey refused the read. An unreachable Valkey makes every key a miss, and is no error.
    """
    runtime = await engine.open()
    founds = _peek_all(engine, requests)
    missing = [request for request in requests if request.key not in founds]
    # No await here: once the first key is looked for among the flights, all of them are, and are registered.
    joined = _joinable(runtime, missing)
    own = _take_off(runtime, [request for request in missing if request.key not in joined])
    if own:
        runtime.start(own[0].flight, _run(engine, runtime, own, load))
    flights = joined | {request.key: flight for request, flight, _ in own}
    try:
        # Not for what this call loads itself: that is part of the load that the caller may be.
        async with runtime.load_limits.lent() if joined else nullcontext():
            brought: list[Found] = await wait_all([flights[request.key] for request in missing])
    except Exception:
        for request in missing:
            request.counters.misses += 1
            request.counters.coalesced += request.key in joined
        raise
    for request, found in zip(missing, brought, strict=True):
        shared = request.key in joined and found.source == "loader"
        founds[request.key] = found = found._replace(coalesced=shared)
        count_found(request.counters, found)
    return [founds[request.key] for request in requests]


def _joinable(runtime: Runtime, requests: Sequence[Request]) -> dict[str, Flight]:
    """Return the flights to wait for, by key."""
    parent = CURRENT_FLIGHT.get()
    found = ((request.key, runtime.flights.joinable(request.key)) for request in requests)
    return {
        key: flight
        for key, flight in found
        # A flight that waits for the caller's own load would never end.
        if flight is not None and (parent is None or not flight.depends_on(parent))
    }


def _take_off(runtime: Runtime, requests: Sequence[Request]) -> list[_Own]:
    """Return new flights for ``requests``, which share one load; registered, so that others join them."""
    own: list[_Own] = []
    for request in requests:
        fence = runtime.fences.open(request.key, request.groups)
        leader = own[0].flight if own else None
        flight = Flight(fence, finish=request.policy.finish_abandoned, leader=leader)
        # Where there is one to join that could not be joined, it stays the one, and its value is stored.
        is_shared = runtime.flights.joinable(request.key) is None
        if is_shared:
            runtime.flights.add(flight)
        own.append(_Own(request, flight, is_shared))
    return own


async def _run(engine: Engine, runtime: Runtime, own: Sequence[_Own], load: LoadMany) -> None:
    """The body of the flights' task: read, load what is missing, fill, hand out."""
    CURRENT_FLIGHT.set(own[0].flight)
    try:
        read = await engine.read_many(runtime, [o.request for o in own], [o.flight.fence for o in own])
        missing: list[tuple[_Own, Found]] = []
        for one, found in zip(own, read, strict=True):
            if found.entry is None:
                missing.append((one, found))
            else:
                # Whoever waits for this key alone need not wait for the loader.
                one.flight.resolve(found)
                runtime.land(one.flight)
        if missing:
            await _load(engine, runtime, missing, load)
    except BaseException as error:
        for one in own:
            one.flight.fail(error)
        raise
    finally:
        for one in own:
            runtime.land(one.flight)


async def _load(engine: Engine, runtime: Runtime, missing: Sequence[tuple[_Own, Found]], load: LoadMany) -> None:
    keys = [one.request.key for one, _ in missing]
    leases = await _take_leases(runtime, missing)
    try:
        loaded = await load_in_turn(runtime, missing[0][0].request.counters, lambda: load(keys))
        # No await from here on, as in ``loading.fill``.
        for (one, found), fresh in zip(missing, loaded, strict=True):
            wanted = fresh if one.is_shared else fresh._replace(store=False)
            lease = leases.pop(one.request.key, None)
            entry = fill(engine, runtime, one.request, one.flight.fence, wanted, lease)
            one.flight.resolve(Found(entry, "loader", coalesced=True, degraded=found.degraded))
    finally:
        for lease in leases.values():
            if runtime.link is not None:
                runtime.link.leases.give_up(lease)


async def _take_leases(runtime: Runtime, missing: Sequence[tuple[_Own, Found]]) -> dict[str, Lease]:
    """Return the leases on those keys that no other process loads. The others are loaded too, for this call alone."""
    wanted = [
        one.request
        for one, found in missing
        if one.is_shared and found.placeholder is None and may_lease(runtime, one.request, one.flight.fence, found)
    ]
    for one, _ in missing:
        runtime.fences.renew(one.flight.fence)
    if runtime.link is None or not wanted:
        return {}
    taken = await runtime.link.leases.take_many([(request.key, request.indexes) for request in wanted])
    return {request.key: lease for request, lease in zip(wanted, taken, strict=True) if lease is not None}


# Writing


async def store_many(engine: Engine, pairs: Sequence[tuple[Request, Fresh]]) -> None:
    """Write values, as ``Engine.store`` does one: queued together, sent in batches, and awaited.

    Raises:
        L2UnavailableError: Some of the writes may have happened; L1 has the keys of those that surely did.
        L2CommandError: Valkey refused one. The others are done.
    """
    runtime = await engine.open()
    writes: list[tuple[Write, OnDone]] = []
    if runtime.pipe is not None:
        await runtime.pipe.wait_room(sum(len(request.key) + len(fresh.data) for request, fresh in pairs))
    for request, fresh in pairs:
        writes.append(storing(engine, runtime, request, fresh))
    await _apply(runtime, writes)


async def invalidate_many(engine: Engine, keys: Sequence[str]) -> int:
    """Remove keys from both levels, as ``Engine.invalidate`` does one; return how many were in either.

    Raises:
        L2UnavailableError: They are gone from L1, and may or may not be gone from Valkey.
        L2CommandError: Valkey refused one. The others are gone.
    """
    runtime = await engine.open()
    were_here = [engine.l1.peek(key) is not None for key in keys]
    drops: list[tuple[Write, OnDone]] = [
        (Delete((key,), announced=True), engine.dropping(runtime, (key,))) for key in keys
    ]
    counts = await _apply(runtime, drops)
    return sum(was_here or count > 0 for was_here, count in zip(were_here, counts, strict=True))


async def _apply(runtime: Runtime, writes: Sequence[tuple[Write, OnDone]]) -> list[int]:
    if runtime.pipe is not None:
        return await runtime.pipe.write_all(writes)
    for _, on_done in writes:
        on_done(0)
    return [0] * len(writes)
