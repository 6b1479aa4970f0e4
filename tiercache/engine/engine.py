"""The engine: one lookup through the levels, one rule for writes and invalidations. Long, for they share every rule.

Tiers hand it requests and codecs; it knows nothing of prompts, prices, sockets or metrics. Its other parts, which use
what it has, are ``loading``, ``batch``, ``invalidation`` and ``state``.
"""

from __future__ import annotations

import logging
import math
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..clock import Clock
from ..errors import L2UnavailableError
from .call import Call
from .coherence.coherence import Coherence
from .coherence.leases import is_placeholder
from .entries.counters import TierCounters
from .entries.entry import ENTRY_OVERHEAD_BYTES, Entry, Group, shared_size
from .entries.lookup import Lookup, Source
from .entries.operation import Operation, OperationLog, Tracer
from .entries.policy import TierPolicy, UndecodableError, Value
from .level2.level2 import Stored
from .level2.queued_write import OnDone
from .level2.writes import Delete
from .memory.fences import Fence
from .memory.l1 import L1
from .runtime.l2 import Bounds, Connect
from .runtime.lifecycle import Lifecycle
from .runtime.runtime import Limits, Runtime, Service

__all__ = ["Engine", "Lookup", "Source", "count_lookup"]

_LOGGER: Final = logging.getLogger("tiercache")


class Engine:
    """One cache's levels, in one process.

    Attributes:
        at_hand: As ``Lifecycle.open_runtime``.
        tracer: Makes the spans. None where they are not wanted: then nothing is made for them.
    """

    def __init__(
        self,
        *,
        l1: L1,
        connect: Connect | None,
        limits: Limits,
        bounds: Bounds,
        clock: Clock,
        service: Service | None = None,
        find_tracer: Callable[[], Tracer | None] | None = None,
    ) -> None:
        self.l1 = l1
        # Nobody else changes what is in one process alone.
        l1.trusted_until = math.inf if connect is None else -math.inf
        self.now = clock.monotonic
        self.wall = clock.wall
        self.operations = OperationLog(clock.monotonic)
        self.tracer: Tracer | None = None
        self._find_tracer = find_tracer or (lambda: None)
        self._connect = connect
        self._limits = limits
        self._bounds = bounds
        self._service = service
        self._life = Lifecycle(self._start)
        self.open_runtime = self._life.open_runtime
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
            self.l1.trusted_until = -math.inf
        self.tracer = self._find_tracer()
        return Runtime(self._connect, self._service, self._limits, self._bounds, self.l1, self.now)

    # Reading

    def hit(self, key: str, now: float, counters: TierCounters) -> Entry | None:
        """Return the entry in process memory, without a task, a lock or an await; counts a hit.

        None says nothing about the loop or whether the cache is open: ``find`` and ``get_or_load`` do.
        """
        runtime = self._life.runtime
        if runtime is None or runtime.loop is not get_running_loop():
            return None
        entry = self.l1.get(key, now)
        if entry is not None:
            counters.l1_hits += 1
            counters.saved_micros += entry.cost_micros
        return entry

    async def find(self, request: Call, *, fresh: bool = False, is_l1_miss: bool = False) -> Lookup:
        """Look a key up in both levels; with ``fresh`` in Valkey alone.

        Args:
            is_l1_miss: Whether ``hit`` has found nothing, in this very step.
        """
        runtime = self.open_runtime()
        if runtime is None:
            runtime = await self.open()
            is_l1_miss = False
        if not (fresh or is_l1_miss):
            entry = self.hit(request.key, self.now(), request.counters)
            if entry is not None:
                return Lookup(entry, "l1")
        fence = runtime.fences.open(request.key, request.groups)
        try:
            found = await self.read(runtime, request, fence)
        finally:
            runtime.fences.close(fence)
        count_lookup(request.counters, found)
        return found

    async def read(self, runtime: Runtime, request: Call, fence: Fence) -> Lookup:
        """Ask Valkey, fill L1 unless the fence is broken. An unavailable Valkey is a miss, but for state an error."""
        l2 = runtime.l2
        if l2 is None:
            return Lookup(None, None)
        if (l2.behind or l2.pending) and not request.policy.is_state:
            queued = await l2.behind.find(request.key)
            if queued is not None:
                return Lookup(queued, "l1")
            # No await before this: what was queued and has failed is unsettled now.
            if l2.pending.covers(request.key, request.groups):
                return self._without_valkey(request)
        sent_at = self.now()
        self._begin_reading(runtime, fence)
        try:
            stored = await l2.level2.get(request.key)
        except L2UnavailableError:
            request.counters.l2_errors += 1
            if request.policy.is_state:
                raise
            return self._without_valkey(request)
        finally:
            fence.reading = False
        return self._received(runtime, request, fence, stored, sent_at)

    async def read_many(self, runtime: Runtime, requests: Sequence[Call], fences: Sequence[Fence]) -> list[Lookup]:
        """As ``read``, for requests of one tier in one round trip."""
        l2 = runtime.l2
        if l2 is None:
            return [Lookup(None, None)] * len(requests)
        found: dict[str, Lookup] = {}
        if (l2.behind or l2.pending) and requests and not requests[0].policy.is_state:
            queued = {request.key: await l2.behind.find(request.key) for request in requests}
            found = {key: Lookup(entry, "l1") for key, entry in queued.items() if entry is not None}
            for request in requests:
                if request.key not in found and l2.pending.covers(request.key, request.groups):
                    found[request.key] = self._without_valkey(request)
        asked = [(request, fence) for request, fence in zip(requests, fences, strict=True) if request.key not in found]
        if asked:
            sent_at = self.now()
            for _, fence in asked:
                self._begin_reading(runtime, fence)
            try:
                answers = await l2.level2.get_many([request.key for request, _ in asked])
            except L2UnavailableError:
                for request, _ in asked:
                    request.counters.l2_errors += 1
                    found[request.key] = self._without_valkey(request)
                if requests[0].policy.is_state:
                    raise
            else:
                for (request, fence), stored in zip(asked, answers, strict=True):
                    found[request.key] = self._received(runtime, request, fence, stored, sent_at)
            finally:
                for _, fence in asked:
                    fence.reading = False
        return [found[request.key] for request in requests]

    @staticmethod
    def _begin_reading(runtime: Runtime, fence: Fence) -> None:
        fence.reading = True
        fence.keeps_reads = not runtime.is_writing(fence.key)

    def _without_valkey(self, request: Call) -> Lookup:
        """Return what there is to say while Valkey cannot be asked."""
        longer = self._limits.serve_untrusted
        entry = self.l1.get_untrusted(request.key, self.now(), longer) if longer else None
        return Lookup(entry, None if entry is None else "stale", degraded=True)

    def _received(self, runtime: Runtime, request: Call, fence: Fence, stored: Stored | None, sent_at: float) -> Lookup:
        """Return what Valkey's answer means, having filled L1 with it unless the fence is broken."""
        policy, counters = request.policy, request.counters
        if stored is None:
            return Lookup(None, None)
        if stored.value is not None and not policy.is_state and is_placeholder(stored.value):
            return Lookup(None, None, placeholder=stored.value)
        try:
            if stored.value is None:
                raise UndecodableError("not a string")
            value = policy.codec.decode(stored.value)
        except UndecodableError:
            counters.undecodable += 1
            return Lookup(None, None)
        entry = self.entry(policy, fence, value, stored.ttl, since=sent_at, began=sent_at)
        if policy.l1 and fence.keeps_reads and self.may_keep(runtime, fence):
            self.l1.put(fence.key, entry)
        return Lookup(entry, "l2")

    def may_keep(self, runtime: Runtime, fence: Fence) -> bool:
        """Return whether what was brought back under ``fence`` may be kept in this process."""
        return runtime.fences.allow(fence)

    def entry(
        self, policy: TierPolicy, of: Fence | Call, value: Value, ttl: float | None, *, since: float, began: float
    ) -> Entry:
        """Return the entry for a value that has ``ttl`` seconds to live in Valkey, counted from ``since``.

        Args:
            began: When it is known to have been current.
        """
        expires_at = deadline = math.inf if ttl is None else since + ttl
        # A copy that outlives Valkey's would serve what is gone; one with no Valkey behind it is no copy.
        if self._connect is not None and deadline > since + policy.l1_ttl:
            deadline = since + policy.l1_ttl
        age = self.wall() - value.stored_at
        stored_at = self.now() - age if age > 0.0 else self.now()
        if 0.0 <= since - stored_at < 0.001:
            stored_at = since  # It is told in milliseconds: one float in memory for both.
        cost = value.cost
        return Entry(
            value,
            deadline,
            began,
            expires_at,
            stored_at,
            of.groups if policy.groups_of is None else _groups(policy.groups_of, of, value),
            # What is not kept in process memory need not be weighed.
            shared_size(ENTRY_OVERHEAD_BYTES + len(of.key) + value.size_bytes) if policy.l1 else 0,
            0 if cost is None else round(cost * 1_000_000),
        )

    # Being told

    def log_refusal(self, error: Exception) -> None:
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

    # Invalidating

    async def invalidate(self, key: str) -> bool:
        """Remove ``key`` from both levels; return whether it was in either.

        Raises:
            L2UnavailableError: It is gone from L1, and may or may not be gone from Valkey.
            L2CommandError: Valkey refused the delete.
        """
        runtime = await self.open()
        was_here = self.l1.peek(key) is not None
        dropped = self.dropping(runtime, (key,))
        if runtime.pipe is None:
            dropped(0)
            return was_here
        return await runtime.pipe.write(Delete((key,), announced=True), dropped) > 0 or was_here

    def dropping(self, runtime: Runtime, keys: Sequence[str]) -> OnDone:
        """Drop ``keys``, which are about to be changed; return what must be done when the outcome is known."""
        for key in keys:
            self.l1.drop(key)
        fences = [runtime.fences.open_for_write(key) for key in keys]

        def drop_again(outcome: int | Exception) -> None:
            for fence in fences:
                self.written(runtime, fence)
            if runtime.l2 is not None:
                runtime.l2.pending.note(keys, outcome)

        return drop_again

    def written(self, runtime: Runtime, fence: Fence) -> None:
        """Drop a key whose change has been answered: the second time."""
        # Whoever read the older value in between may have put it into L1, or be about to.
        runtime.fences.written(fence)
        self.l1.drop(fence.key)
        if runtime.l2 is not None:
            runtime.l2.leases.wake(fence.key)

    async def flush_writes(self) -> None:
        """Return when every write queued so far has been answered by Valkey, well or ill."""
        runtime = await self.open()
        if runtime.pipe is not None:
            await runtime.pipe.flush()

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
    def runtime(self) -> Runtime | None:
        """The runtime there is, of whichever loop; None before the first use."""
        return self._life.runtime

    @property
    def coherence(self) -> Coherence | None:
        """What was heard of other processes' changes; None before the first use, and without Valkey."""
        runtime = self._life.runtime
        return None if runtime is None or runtime.l2 is None else runtime.l2.coherence

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


def _groups(groups_of: Callable[[Any], tuple[Group, ...]], of: Fence | Call, value: Any) -> tuple[Group, ...]:
    """Return the groups of an entry that requests of several may share: the value's own, and the request's tags."""
    return groups_of(value) + tuple(group for group in of.groups if group.kind == "tag")


def count_lookup(counters: TierCounters, found: Lookup) -> None:
    """Count how one caller was answered, past L1."""
    entry, source, coalesced, _, _ = found
    if entry is not None and source != "loader":
        if source == "l2":
            counters.l2_hits += 1
        else:
            counters.l1_hits += 1  # Stale, from memory.
        counters.saved_micros += entry.cost_micros
    else:
        counters.misses += 1
        counters.coalesced += coalesced
