"""One load of one key, from the first read to the fill. ``Load`` has the four steps; a flight's task runs them.

    read          ask Valkey                          a value ──────────────────────────> hand it out
      │ miss
    obtain_lease  put a placeholder under the key     another process loads ─> wait, read again ─> hand it out
      │ lease, or go on without
    function      call the caller's loader            an exception ─> give the lease up, raise it in every waiter
      │ value
    fill          L1 and Valkey, each only if no change has overtaken the load; hand the value out in any case

``load_many`` drives several loads with one read and one call of the loader. ``streams.recorded_load`` adds loads whose
value arrives in parts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, cast

from ...errors import L2CommandError, TierCacheError
from ..call import Call, Loaded, LoadFunction
from ..coherence.leases import Lease, Leases
from ..entries.entry import Entry, Group, has_tags, names_of_tags
from ..entries.freshness import KeptEntry, UncopyableError, served_until
from ..entries.lookup import Lookup
from ..level2.writes import Release, WriteSet
from ..memory.flights import CURRENT_FLIGHT, Flight, Ongoing
from ..runtime.l2 import L2
from ..runtime.no_l2 import NoL2
from ..runtime.reads import MISS
from ..runtime.runtime import Runtime
from .change import KeyChange
from .lease_search import LeaseSearch
from .report_load import report_load
from .tagging import Tagging

__all__ = ["Load"]


class Load:
    """One load of one key.

    Args:
        is_refresh: Whether the load replaces the value that the cache may have.

    Attributes:
        call: The call that started the load.
        flight: The callers that wait for the load; its fence decides whether the value may be stored. ``register``
            makes the flight.
        is_joinable: Whether other callers may join the load, and its value is stored.
        lookup: The outcome as far as it is known.
        lease: The right to store the value in Valkey, or None.
        takes_parts: Whether the value arrives in parts (``streams.recorded_load``).
    """

    __slots__ = ("_had_lease", "_runtime", "call", "flight", "is_joinable", "is_refresh", "lease", "lookup")

    flight: Flight
    takes_parts: ClassVar[bool] = False

    def __init__(self, runtime: Runtime, call: Call, *, is_refresh: bool = False) -> None:
        self._runtime = runtime
        self.call = call
        self.is_refresh = is_refresh
        self.is_joinable = True
        self.lookup = MISS
        self.lease: Lease | None = None
        # The end of a lease registers the key with the server again.
        self._had_lease = False

    # Callers

    async def join_or_start(self, function: LoadFunction) -> Lookup:
        """Wait for the flight of the key, or start one; load privately if that flight waits for the caller.

        A caller that waits adds its tags to the flight: a loaded value is stored with the tags of all its waiters.
        """
        runtime = self._runtime
        flight = runtime.flights.joinable(self.call.key, takes_parts=self.takes_parts)
        if flight is None:
            return await self.start(function)
        parent = CURRENT_FLIGHT.get()
        if parent is not None and flight.depends_on(parent):
            return await self.run_privately(function)
        Tagging(runtime, self.call).join(flight)
        value: Any = None
        try:
            if runtime.load_limits.is_lending:
                async with runtime.load_limits.lent():
                    value = await flight.wait()
            else:
                value = await flight.wait()
        except BaseException as error:
            # Cancelled while it waited to get its slot back.
            if type(value) is Ongoing:
                value.leave()
            self.call.counters.coalesced += isinstance(error, Exception)
            raise
        return _as_lookup(value)

    async def start(self, function: LoadFunction, *, is_shared: bool = True) -> Lookup:
        """Run the load in a task of its own, and wait for it.

        Args:
            is_shared: Whether other callers may join.
        """
        # Registered before any await: every change of the key from here on overtakes the load.
        self.register(is_shared=is_shared)
        value = await self.flight.wait(partial(self._runtime.start, self.flight, self._run(function)))
        return _as_lookup(value)._replace(coalesced=False)

    async def run_privately(self, function: LoadFunction) -> Lookup:
        """Load for one caller, in the caller's own task; store nothing."""
        runtime, call = self._runtime, self.call
        loaded = await report_load((self,), runtime, partial(self._limited, function))
        now = runtime.now()
        # Without a lifetime: neither level keeps the value.
        entry = call.entry(loaded.value, None, runtime.clock, since=now, began=now, tags=call.tags)
        return Lookup(entry, "loader")

    def register(self, *, is_shared: bool = True, leader: Flight | None = None) -> None:
        """Open the fence and make the flight; with ``is_shared`` other callers can join it.

        Args:
            leader: The flight whose task runs this load too.
        """
        runtime, call = self._runtime, self.call
        # First: a change of the other face that came before this load must not break the fence of the load.
        runtime.l1.settle()
        fence = runtime.fences.open(call.key, call.all_groups)
        self.flight = Flight(fence, finishes=call.rules.finish_abandoned, leader=leader)
        self.flight.is_recorded = self.takes_parts
        if is_shared:
            runtime.flights.add(self.flight)

    @property
    def waiter_count(self) -> int:
        """The callers that wait for the value now. A private load has one, and no flight."""
        flight = getattr(self, "flight", None)
        return 1 if flight is None else flight.waiter_count

    # The steps

    async def _run(self, function: LoadFunction) -> None:
        """Run the steps: the body of the flight's task."""
        CURRENT_FLIGHT.set(self.flight)
        try:
            if not self.is_refresh:
                await self._read()
            if self.lookup.entry is None:
                await self._load(function)
            self.flight.resolve(self.lookup)
        except BaseException as error:
            if self.call.rules.freshness is not None and isinstance(error, Exception):
                self._remember(error)
            self.flight.fail(error)
            raise
        finally:
            self._runtime.finish(self.flight)

    async def _read(self) -> None:
        self.lookup = await self._runtime.reads.read(self.call, self.flight.fence)

    async def _load(self, function: LoadFunction) -> None:
        """Take the lease, call the loader and fill, unless another process loads the value first."""
        call = self.call
        if self.may_lease() and await self._obtain_lease():
            return
        self.note_unreported()
        try:
            loaded = await self._call(function)
            entry = self.fill(loaded)
        except BaseException:
            self.give_up()
            raise
        if call.fill is not None and not self._is_refused(loaded):
            await call.fill(self.flight.fence, entry)

    async def _call(self, function: LoadFunction) -> Loaded:
        return await report_load((self,), self._runtime, partial(self._limited, function))

    async def _limited(self, function: LoadFunction) -> Loaded:
        return await self._runtime.load_limits.call(function, self.call.counters, is_batched=self.call.is_batched)

    def _remember(self, error: Exception) -> None:
        """Keep ``error`` in L1 for the next callers, if the tier remembers such errors and no value is there.

        No await here, as in ``fill``: a change of the key comes before this step, or removes the error after it.
        """
        runtime, call, fence = self._runtime, self.call, self.flight.fence
        assert call.rules.freshness is not None
        if self.is_refresh or isinstance(error, TierCacheError) or self._is_overtaken() or fence.in_doubt:
            return
        if type(runtime.l1.peek(call.key)) is KeptEntry:
            return  # The stale value goes on being served.
        try:
            failed = call.rules.freshness.failed(error, fence.groups, began=fence.began, now=runtime.now())
        except UncopyableError as reason:
            runtime.log.warn_once("an error of a loader cannot be copied, and is not remembered: %s", reason)
            return
        if failed is not None:
            if runtime.l2.is_registering and not self._had_lease:
                runtime.l1.bound(call.key, failed, runtime.now())  # The read of the key may have failed.
            runtime.l1.put(call.key, failed)

    # The lease

    def may_lease(self) -> bool:
        """Return whether to take a lease: not while Valkey is unavailable, and not if nothing may be stored."""
        runtime, call = self._runtime, self.call
        return (
            call.rules.lease
            and call.fill is None
            and not self.lookup.degraded
            and not runtime.breaker.is_open
            and not runtime.fences.is_barred(self.flight.fence)
            # An explicit write of the key, in the pipe, wins over the load.
            and not runtime.l2.pipe.is_changing(call.key)
        )

    def is_lease_free(self, leases: Leases) -> bool:
        """Return whether the first read found no placeholder, or an orphan."""
        lookup = self.lookup
        return lookup.placeholder is None or leases.is_orphan(
            self.call.key, lookup.placeholder, lookup.placeholder_life
        )

    async def _obtain_lease(self) -> bool:
        """Take the lease; return whether the load is over, because another process has loaded the value."""
        search = LeaseSearch(self._runtime, self.call, self.flight.fence, self.lookup, is_refresh=self.is_refresh)
        self.lease = await search.run()
        self.lookup = search.lookup
        if self.lease is not None:
            self._had_lease = True
            self.lease.later_indexes = self.flight.added_indexes
        return self.lookup.entry is not None

    def note_unreported(self) -> None:
        """Let callers join for ``max_staleness`` at most if no lease registered the key: its read may have failed."""
        self.flight.is_unreported = self.lease is None and self._runtime.l2.is_registering

    def give_up(self) -> None:
        """Remove the placeholder, so that another process can load."""
        if self.lease is not None and isinstance(self._runtime.l2, L2):
            self._runtime.l2.leases.give_up(self.lease)
            self.lease = None

    # The fill

    def fill(self, loaded: Loaded) -> Entry:
        """Store the loaded value in each level that may keep it; set ``lookup`` and return the entry.

        0. The tier or tool is disabled: nowhere; a refresh also removes the older value.
        1. The key was changed since the load began, or is being changed: nowhere.
        2. No store can take the value, or it is too large or not admitted: nowhere. A refresh also removes the older
           value.
        3. Otherwise in L1, unless a change may have been missed, and in Valkey under the lease. A tier without leases
           stores in Valkey if no change is known.
        """
        # No await here: this step looks at the fence, fills L1 and queues the write, so that an invalidation comes
        # either before it (and nothing is stored) or after it (and its delete is queued behind this write).
        runtime, call, fence = self._runtime, self.call, self.flight.fence
        rules, counters = call.rules, call.counters
        lifetime = rules.lifetime(loaded.ttl, call.ttl)
        now, tags = runtime.now(), self._tags
        entry = call.entry(loaded.value, lifetime, runtime.clock, since=now, began=fence.began, tags=tags)
        # For every waiter but the caller that started the load.
        self.lookup = Lookup(entry, "loader", coalesced=True, degraded=self.lookup.degraded)
        if runtime.switches.are_off(fence.groups):
            return self._not_kept(entry)
        if not loaded.store or self._is_overtaken():
            counters.overtaken += loaded.store
            self.give_up()
            if call.fill is None:
                entry.expires_at = math.inf
            return entry
        if self._is_refused(loaded):
            return self._not_kept(entry)
        if self.lease is not None or not rules.lease:
            # A load without the lease is stored in this process alone, and leaves the holder its right.
            runtime.fences.overtake(fence)
        if rules.l1 and not fence.in_doubt:
            runtime.l1.put(fence.key, entry)
        if not self._fill_l2(loaded, lifetime, entry):
            counters.fills_dropped += 1
            self._note_kept_in_l1(entry)
        if self.is_refresh:
            # After the write is queued: the other face finds it there, and not the older value in Valkey.
            runtime.face.hand_over_key(fence.key)
        return entry

    def _not_kept(self, entry: Entry) -> Entry:
        """Return the entry of a value that neither level keeps. The older value of a refresh must not survive it."""
        self.give_up()
        entry.expires_at = math.inf
        if self.is_refresh:
            self._drop_older()
        return entry

    def _note_kept_in_l1(self, entry: Entry) -> None:
        """Record in ``entry``, which every waiter has, that Valkey does not keep it: L1 may have the only copy."""
        l1 = self._runtime.l1
        if self._runtime.l2.is_registering:
            # No write registers the key, and its read may have failed.
            l1.bound(self.call.key, entry, self._runtime.now())
        if l1.peek(self.call.key) is not entry:
            entry.expires_at = math.inf
        elif self._runtime.breaker.is_open or self.lookup.degraded:
            # Until Valkey answers again, no PONG prolongs the trust in the copy.
            entry.expires_at = min(served_until(entry), l1.trust_ends(entry.began))
        else:
            entry.expires_at = served_until(entry)

    def _is_refused(self, loaded: Loaded) -> bool:
        """Return whether no store takes the value, or it is too large or not admitted. Count such a value."""
        counters, log = self.call.counters, self._runtime.log
        if loaded.is_too_large:
            return True
        if loaded.refusal is not None:
            counters.unstorable += 1
            log.warn_once("no store can take a loaded value (counted as unstorable): %s", loaded.refusal)
            return True
        if not self.call.rules.takes(loaded.data):
            counters.too_large += 1
            log.warn_once(
                "a loaded value of %d bytes is too large to be stored (counted as too_large)", len(loaded.data)
            )
            return True
        if not self.call.rules.admits(self.call.key, loaded.data, loaded.value, log):
            counters.not_admitted += 1
            return True
        return False

    @property
    def _tags(self) -> tuple[Group, ...]:
        """The tags of the call, and of the calls that joined the flight."""
        groups = self.flight.fence.groups
        return tuple([group for group in groups if group.kind == "tag"]) if has_tags(groups) else ()

    def _is_overtaken(self) -> bool:
        """Return whether the key was changed since the load began, or is being changed: an explicit write wins."""
        runtime, fence = self._runtime, self.flight.fence
        runtime.l1.settle()  # A change by the other face may have broken the fence.
        return not fence.holds or runtime.l2.pipe.is_changing(fence.key) or runtime.fences.is_barred(fence)

    def _drop_older(self) -> None:
        """Remove the older value from both levels of every process: the newer one cannot be stored."""
        change = KeyChange(self._runtime, self.call.key, is_repeated=True)
        change.begin()
        # The caller may look the key up before the pipe sends the delete: that lookup must not read the older value.
        # The delete is announced also where the load found no value: other processes may have an older one in L1.
        self._runtime.l2.pending.delete(self.call.key, change.done)

    def _fill_l2(self, loaded: Loaded, lifetime: float | None, entry: Entry) -> bool:
        """Queue the write; return False if it must not be written, or the queue is full."""
        runtime, call, lease = self._runtime, self.call, self.lease
        if isinstance(runtime.l2, NoL2):
            # L1 holds the only copy, as it is: nothing is packed, and nothing is stored if L1 keeps no values.
            if call.rules.l1:
                call.counters.stored_bytes += len(loaded.data)
                runtime.hooks.store(call.key, call.groups, len(loaded.data), lifetime, is_load=True)
            self._note_kept_in_l1(entry)
            return True
        if lease is None and (call.rules.lease or runtime.breaker.is_open):
            return False
        counters, tags = call.counters, self._tags
        data = call.rules.codec.pack(loaded.data, names_of_tags(tags))
        write = WriteSet(call.key, data, lifetime, indexes=call.indexes + self.flight.added_indexes)

        def filled(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                counters.fill_errors += 1
                runtime.log_refusal(outcome)
                runtime.hooks.error("l2.fill", outcome)
                self._note_kept_in_l1(entry)
                if isinstance(outcome, L2CommandError):
                    # As for a store: an index may have refused the key although Valkey took the value.
                    runtime.l2.pipe.post(Release(call.key, data))
            elif outcome:
                counters.stored_bytes += len(data)
                runtime.hooks.store(call.key, call.groups, len(data), lifetime, is_load=True)
            else:
                # The lease was lost: the key was changed, or the lease ran out and another process loads.
                counters.overtaken += 1
                runtime.l1.drop_entry(call.key, entry)
                self._note_kept_in_l1(entry)

        if lease is not None:
            return runtime.l2.leases.fill(lease, write, filled)
        return runtime.l2.pipe.fill(write, filled)


def _as_lookup(value: Any) -> Lookup:
    """Return the lookup of a caller to whom its flight has handed ``value``."""
    if type(value) is Ongoing:
        return Lookup(None, "loader", coalesced=True, ongoing=value)
    return cast(Lookup, value)
