"""Loads of many keys: one read for all keys that L1 does not have, one call of the loader for all that are missing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TypeAlias

from ..call import Call, Loaded
from ..entries.lookup import Lookup
from ..memory.flights import CURRENT_FLIGHT, Flight, wait_all
from ..runtime.l2 import L2
from ..runtime.reads import MISS
from ..runtime.runtime import Runtime
from .load import Load
from .report_load import report_load
from .tagging import Tagging

__all__ = ["LoadMany", "LoadManyFunction"]

# Called with the missing keys; returns their values in the same order.
LoadManyFunction: TypeAlias = Callable[[list[str]], Awaitable[list[Loaded]]]


class LoadMany:
    """One ``get_or_load_many``: the flights that it joins, and the loads that it starts.

    Args:
        calls: For distinct keys that L1 does not have.
        are_refreshes: Whether the loads replace the values that Valkey may have.
        may_join: Whether the calls may wait for other flights. Otherwise a key that another flight loads is loaded for
            this caller alone, and its value is not stored.
    """

    def __init__(
        self, runtime: Runtime, calls: Sequence[Call], *, are_refreshes: bool = False, may_join: bool = True
    ) -> None:
        self._are_refreshes = are_refreshes
        self._may_join = may_join
        self._runtime = runtime
        self._calls = calls
        self._loads: list[Load] = []

    async def join_or_start(self, function: LoadManyFunction) -> list[Lookup]:
        """Return the lookups of the calls, in order; see ``Loads.get_or_load_many``."""
        runtime = self._runtime
        # No await here: this step looks for all keys among the flights and registers the new ones.
        joined = self._joinable()
        self._register([call for call in self._calls if call.key not in joined])
        start = partial(runtime.start, self._loads[0].flight, self._run(function)) if self._loads else None
        flights = joined | {load.call.key: load.flight for load in self._loads}
        try:
            # Not for the loads of this call alone: they are part of the load that the caller may be.
            async with runtime.load_limits.lent() if joined else nullcontext():
                lookups: list[Lookup] = await wait_all([flights[call.key] for call in self._calls], start)
        except Exception:
            for call in self._calls:
                call.counters.misses += 1
                call.counters.coalesced += call.key in joined
            raise
        return [
            lookup._replace(coalesced=call.key in joined and lookup.source == "loader")
            for call, lookup in zip(self._calls, lookups, strict=True)
        ]

    def start(self, function: LoadManyFunction) -> None:
        """Load the calls in the background, for keys without a flight. No caller gets an error."""
        self._register(self._calls)
        self._runtime.start(self._loads[0].flight, self._run(function))

    def _joinable(self) -> dict[str, Flight]:
        """Return the flights to wait for, by key."""
        runtime, parent = self._runtime, CURRENT_FLIGHT.get()
        joined: dict[str, Flight] = {}
        for call in self._calls if self._may_join else ():
            flight = runtime.flights.joinable(call.key)
            # A flight that waits for the caller's own load would never end.
            if flight is not None and (parent is None or not flight.depends_on(parent)):
                Tagging(runtime, call).join(flight)
                joined[call.key] = flight
        return joined

    def _register(self, calls: Sequence[Call]) -> None:
        """Register a load for each of ``calls``, behind one leader, so that other callers can join them."""
        for call in calls:
            load = Load(self._runtime, call, is_refresh=self._are_refreshes)
            # A flight that this caller could not join stays the joinable one, and its value is stored.
            load.is_joinable = self._runtime.flights.joinable(call.key) is None
            load.register(is_shared=load.is_joinable, leader=self._loads[0].flight if self._loads else None)
            self._loads.append(load)

    async def _run(self, function: LoadManyFunction) -> None:
        """Read, load the missing keys, fill, hand the values out: the body of the flights' task."""
        loads = self._loads
        CURRENT_FLIGHT.set(loads[0].flight)
        try:
            calls, fences = [load.call for load in loads], [load.flight.fence for load in loads]
            missing: list[Load] = []
            lookups = [MISS] * len(loads) if self._are_refreshes else await self._runtime.reads.read_many(calls, fences)
            for load, lookup in zip(loads, lookups, strict=True):
                load.lookup = lookup
                if lookup.entry is None:
                    missing.append(load)
                else:
                    # A caller that waits for this key alone does not wait for the loader.
                    load.flight.resolve(lookup)
                    self._runtime.finish(load.flight)
            if missing:
                await self._load(missing, function)
        except BaseException as error:
            for load in loads:
                load.flight.fail(error)
            raise
        finally:
            for load in loads:
                self._runtime.finish(load.flight)

    async def _load(self, missing: Sequence[Load], function: LoadManyFunction) -> None:
        await self._take_leases(missing)
        for load in missing:
            load.note_unreported()
        try:
            keys = [load.call.key for load in missing]
            run = partial(self._runtime.load_limits.call, lambda: function(keys), missing[0].call.counters)
            values = await report_load(missing, self._runtime, run)
            # No await from here on, as in ``Load.fill``.
            for load, loaded in zip(missing, values, strict=True):
                load.fill(loaded if load.is_joinable else loaded._replace(store=False))
                load.lease = None
                load.flight.resolve(load.lookup)
        finally:
            for load in missing:
                load.give_up()

    async def _take_leases(self, missing: Sequence[Load]) -> None:
        """Take the leases on the keys that no other process loads. The other keys are loaded for this call alone."""
        l2 = self._runtime.l2
        for load in missing:
            self._runtime.fences.renew(load.flight.fence)
        if not isinstance(l2, L2):
            return
        wanted = [load for load in missing if load.is_joinable and load.is_lease_free(l2.leases) and load.may_lease()]
        if not wanted:
            return
        keys = [(load.call.key, load.call.indexes, load.lookup.placeholder) for load in wanted]
        taken = await l2.leases.take_many(keys, wanted[0].call.expected_ttl)
        for load, lease in zip(wanted, taken, strict=True):
            load.lease = lease
            if lease is not None:
                lease.later_indexes = load.flight.added_indexes
