"""Many keys at once: one read for all that is not in L1, one load for all that is nowhere, one queueing of writes.

The other half of ``Engine``, whose helpers it uses: what a batch does for each of its keys is what the engine does for
one. Requests are for distinct keys; what comes back is in their order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import TypeAlias

from ..call import Call, Loaded
from ..engine import Engine, count_lookup
from ..entries.lookup import Lookup
from ..level2.queued_write import OnDone
from ..level2.writes import Delete, Write
from ..memory.flights import CURRENT_FLIGHT, Flight, wait_all
from ..runtime.runtime import Runtime
from .load import Load, limited
from .store import storing

__all__ = ["LoadMany", "find_many", "get_or_load_many", "invalidate_many", "store_many"]

# Called with the keys that were nowhere; returns what belongs to each of them, in their order.
LoadMany: TypeAlias = Callable[[list[str]], Awaitable[list[Loaded]]]


# Reading


async def find_many(engine: Engine, requests: Sequence[Call]) -> list[Lookup]:
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
        count_lookup(request.counters, found)
        founds[request.key] = found
    return [founds[request.key] for request in requests]


def _peek_all(engine: Engine, requests: Sequence[Call]) -> dict[str, Lookup]:
    now = engine.now()
    entries = ((request.key, engine.hit(request.key, now, request.counters)) for request in requests)
    return {key: Lookup(entry, "l1") for key, entry in entries if entry is not None}


# Loading


async def get_or_load_many(engine: Engine, requests: Sequence[Call], load: LoadMany) -> list[Lookup]:
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
    own = _take_off(engine, runtime, [request for request in missing if request.key not in joined])
    if own:
        runtime.start(own[0].flight, _run(engine, runtime, own, load))
    flights = joined | {load.request.key: load.flight for load in own}
    try:
        # Not for what this call loads itself: that is part of the load that the caller may be.
        async with runtime.load_limits.lent() if joined else nullcontext():
            brought: list[Lookup] = await wait_all([flights[request.key] for request in missing])
    except Exception:
        for request in missing:
            request.counters.misses += 1
            request.counters.coalesced += request.key in joined
        raise
    for request, found in zip(missing, brought, strict=True):
        shared = request.key in joined and found.source == "loader"
        founds[request.key] = found = found._replace(coalesced=shared)
        count_lookup(request.counters, found)
    return [founds[request.key] for request in requests]


def _joinable(runtime: Runtime, requests: Sequence[Call]) -> dict[str, Flight]:
    """Return the flights to wait for, by key."""
    parent = CURRENT_FLIGHT.get()
    found = ((request.key, runtime.flights.joinable(request.key)) for request in requests)
    return {
        key: flight
        for key, flight in found
        # A flight that waits for the caller's own load would never end.
        if flight is not None and (parent is None or not flight.depends_on(parent))
    }


def _take_off(engine: Engine, runtime: Runtime, requests: Sequence[Call]) -> list[Load]:
    """Return new loads for ``requests``, which share one call of the loader; registered, so that others join them."""
    loads: list[Load] = []
    for request in requests:
        fence = runtime.fences.open(request.key, request.groups)
        leader = loads[0].flight if loads else None
        flight = Flight(fence, finish=request.policy.finish_abandoned, leader=leader)
        # A flight that could not be joined stays the one that others join, and its value is stored.
        is_shared = runtime.flights.joinable(request.key) is None
        if is_shared:
            runtime.flights.add(flight)
        loads.append(Load(engine, runtime, request, flight, is_shared=is_shared))
    return loads


async def _run(engine: Engine, runtime: Runtime, loads: Sequence[Load], function: LoadMany) -> None:
    """The body of the flights' task: read, load what is missing, fill, hand out."""
    CURRENT_FLIGHT.set(loads[0].flight)
    try:
        requests, fences = [load.request for load in loads], [load.flight.fence for load in loads]
        missing: list[Load] = []
        for load, found in zip(loads, await engine.read_many(runtime, requests, fences), strict=True):
            load.found = found
            if found.entry is None:
                missing.append(load)
            else:
                # Whoever waits for this key alone need not wait for the loader.
                load.flight.resolve(found)
                runtime.finish(load.flight)
        if missing:
            await _load(runtime, missing, function)
    except BaseException as error:
        for load in loads:
            load.flight.fail(error)
        raise
    finally:
        for load in loads:
            runtime.finish(load.flight)


async def _load(runtime: Runtime, missing: Sequence[Load], function: LoadMany) -> None:
    await _take_leases(runtime, missing)
    try:
        keys = [load.request.key for load in missing]
        loaded = await limited(runtime, missing[0].request.counters, lambda: function(keys))
        # No await from here on, as in ``Load.fill``.
        for load, fresh in zip(missing, loaded, strict=True):
            load.fill(fresh if load.is_shared else fresh._replace(store=False))
            load.lease = None
            load.flight.resolve(load.found)
    finally:
        for load in missing:
            load.give_up()


async def _take_leases(runtime: Runtime, missing: Sequence[Load]) -> None:
    """Take the leases on those keys that no other process loads. The others are loaded for this call alone."""
    wanted = [load for load in missing if load.is_shared and load.found.placeholder is None and load.may_lease()]
    for load in missing:
        runtime.fences.renew(load.flight.fence)
    if runtime.l2 is None or not wanted:
        return
    taken = await runtime.l2.leases.take_many([(load.request.key, load.request.indexes) for load in wanted])
    for load, lease in zip(wanted, taken, strict=True):
        load.lease = lease


# Writing


async def store_many(engine: Engine, pairs: Sequence[tuple[Call, Loaded]]) -> None:
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
