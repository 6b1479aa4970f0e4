"""The engine: looks up keys in the levels of one cache in one process, in the same way for every tier.

Tiers pass calls (``call.Call``) with the rules of their tier; the engine knows nothing of prompts, prices, sockets or
metrics. The modules in ``operations/`` build loads, stores and invalidations on the engine.
"""

from __future__ import annotations

import math
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from typing import Literal

from ..clock import SYSTEM_CLOCK, Clock
from ..identity import KeepsIdentity
from ..log import CacheLog
from .call import Call
from .entries.counters import TierCounters
from .entries.entry import Entry, Group
from .entries.lookup import Lookup
from .entries.operation import HasAttributes, Operation, OperationLog, Tracer
from .hooks.calls import HookCalls
from .memory.l1 import L1
from .memory.pins import PinTable
from .runtime.face import Face
from .runtime.lifecycle import Lifecycle
from .runtime.loop_end import warn_if_left_open
from .runtime.options import EngineOptions
from .runtime.runtime import Runtime, Server

__all__ = ["Engine"]


class Engine(KeepsIdentity):
    """One cache's levels, in one process.

    Args:
        server: The Valkey, or None for a cache of process memory alone.
        find_tracer: Returns the tracer to make spans with, or None if no span is wanted.
        on_start: Called before the first use in each process and on each loop.

    Attributes:
        log: The log of this cache.
        l1: The process memory of this engine.
        pins: The pins of this engine.
        face: The face of the cache that this engine is, with the way to the other face.
        run_plain: Calls the plain loaders; None: they run on the event loop, unless their tier wants threads.
        hooks: The calls of the hooks of this face.
        coherence: How this process follows the changes of other processes.
        operations: The count and duration of every operation.
        open_runtime, abandon: As ``Lifecycle.open_runtime`` and ``Lifecycle.abandon``.
        tracer: Makes the spans, or None if no span is wanted: then no span object is made.
    """

    def __init__(
        self,
        log: CacheLog,
        server: Server | None,
        options: EngineOptions,
        *,
        clock: Clock = SYSTEM_CLOCK,
        find_tracer: Callable[[], Tracer | None] = lambda: None,
        on_start: Callable[[], object] = lambda: None,
    ) -> None:
        self.log = log
        self.l1 = L1(options.l1, max_staleness=options.coherence.max_staleness)
        self.l1.serves_untrusted = options.resilience.serve_untrusted > 0
        # No other process can change the entries of a cache of process memory alone.
        self.l1.trusted_until = math.inf if server is None else -math.inf
        self.pins = PinTable(self.l1, log.cache_name, is_shared=server is not None)
        self.now = clock.monotonic
        self.wall = clock.wall
        self.run_plain = options.run_plain
        self.coherence = options.coherence
        self.hooks = HookCalls(options.hooks, log)
        self.operations = OperationLog(clock.monotonic, self.hooks)
        self.tracer: Tracer | None = None
        self._find_tracer = find_tracer
        self._on_start = on_start
        self._server = server
        self._options = options
        self._clock = clock
        self._life = Lifecycle(self._start)
        self.face = Face(self.l1, self.pins, lambda: self._life.runtime)
        self.open_runtime = self._life.open_runtime
        self.abandon = self._life.abandon
        options.hooks.watch(self._hooks_changed)

    async def open(self, *, gives_up: bool = False) -> Runtime:
        """Return the runtime of the running loop, opened. Arguments and errors as for ``Lifecycle.open``."""
        return await self._life.open(gives_up=gives_up)

    async def aclose(self) -> None:
        """Finish loads and writes, close the connections, clear L1. Every later call raises UsageError."""
        await self._life.aclose()
        self.l1.clear()

    @property
    def is_in_use(self) -> bool:
        """Whether the current runtime belongs to an open loop of this process."""
        return self._life.is_in_use

    def close_unused(self) -> bool:
        """Close without an event loop, as ``Lifecycle.close_unused`` does, and clear L1."""
        is_closed = self._life.close_unused()
        if is_closed:
            self.l1.clear()
        return is_closed

    def warn_if_left_open(self) -> None:
        """Warn that the program has dropped the cache, if it leaves connections that ``aclose`` would close."""
        runtime = self._life.runtime
        if self._server is not None and runtime is not None:
            warn_if_left_open(runtime, self.log.cache_name)

    def _start(self) -> Runtime:
        if self._server is not None:
            # No listener received the changes that other processes made since the last runtime.
            self.l1.clear()
            self.l1.trusted_until = -math.inf
        self.tracer = self._find_tracer()
        self._on_start()
        return Runtime(self._server, self._options, self.face, self._clock, self.log, self.hooks)

    def clear_l1(self) -> int:
        """Clear L1, and that of the other face before its next lookup; return how many entries they had."""
        return self.l1.clear(may_lack_changes=False) + self.face.clear_other()

    # Lookups

    def hit(self, key: str, now: float, counters: TierCounters) -> Entry | None:
        """Return the entry in L1 and count the hit, without a task, a lock or an await.

        None means only that L1 has no answer here: the loop may be another one, or the cache closed. ``find`` and
        ``get_or_load`` report these.
        """
        runtime = self._life.runtime
        if runtime is None or runtime.loop is not get_running_loop():
            return None
        entry = self.l1.get(key, now)
        if entry is not None:
            counters.l1_hits += 1
            counters.saved_micros += entry.cost_micros
        return entry

    def _hit_reported(self, key: str, now: float, counters: TierCounters) -> Entry | None:
        entry = Engine.hit(self, key, now, counters)
        if entry is not None:
            self.hooks.hit(key, entry, "l1", now)
        return entry

    def _hooks_changed(self) -> None:
        # A hit in L1 takes a microsecond, and must not ask whether there is a hook.
        if self.hooks.registry.hit:
            self.hit = self._hit_reported  # type: ignore[method-assign]
        else:
            self.__dict__.pop("hit", None)

    def hit_for(self, call: Call) -> Entry | None:
        """Return the entry in L1 as ``hit`` does, unless the call has a tag that the entry is not known to have."""
        if call.tags and not self.knows_tags(call.key, call.tags):
            return None
        return self.hit(call.key, self.now(), call.counters)

    def knows_tags(self, key: str, tags: tuple[Group, ...]) -> bool:
        """Return whether the entry in L1, if there is any, has all ``tags``.

        Without a Valkey the entry gets the missing tags here: no other process must learn of them.
        """
        entry = self.l1.peek(key)
        if entry is None or all(tag in entry.groups for tag in tags):
            return True
        if self._server is not None:
            return False
        self.l1.add_tags(key, entry, tags)
        return True

    def hits(self, calls: Sequence[Call]) -> dict[str, Lookup]:
        """Return the lookups that L1 answers, by key, as ``hit_for`` does."""
        now = self.now()
        lookups: dict[str, Lookup] = {}
        for call in calls:
            if not call.tags or self.knows_tags(call.key, call.tags):
                entry = self.hit(call.key, now, call.counters)
                if entry is not None:
                    lookups[call.key] = Lookup(entry, "l1")
        return lookups

    async def find(self, call: Call, *, fresh: bool = False, is_l1_miss: bool = False) -> Lookup:
        """Look a key up in both levels.

        Args:
            fresh: Whether to look in Valkey alone.
            is_l1_miss: Whether ``hit`` has returned None in this same step.
        """
        runtime = self.open_runtime()
        if runtime is None:
            runtime = await self.open()
            is_l1_miss = False
        if not (fresh or is_l1_miss):
            entry = self.hit_for(call)
            if entry is not None:
                return Lookup(entry, "l1")
        pinned = await self.find_pin(call)
        if pinned is not None:
            return pinned
        fence = runtime.fences.open(call.key, call.all_groups)
        try:
            lookup = await runtime.reads.read(call, fence)
        finally:
            runtime.fences.close(fence)
        lookup = runtime.reads.stale(call, lookup)
        self.count(call.key, call.counters, lookup)
        return lookup

    async def find_pin(self, call: Call) -> Lookup | None:
        """Return the pinned answer of a call that L1 has not answered, and count the hit; None if there is no pin."""
        runtime = self.open_runtime()
        if runtime is None or not self.pins.may_answer(call.key, self.now()):
            return None
        if runtime.switches.are_off(call.groups):
            return None
        lookup = await runtime.pins.find(call)
        if lookup is not None:
            self.count(call.key, call.counters, lookup)
        return lookup

    async def find_many(self, calls: Sequence[Call]) -> list[Lookup]:
        """Look keys up in both levels, as ``find`` does, with one question to Valkey for all of them.

        Args:
            calls: Of one tier, for distinct keys.
        """
        runtime = await self.open()
        lookups = self.hits(calls)
        missing = [call for call in calls if call.key not in lookups]
        fences = [runtime.fences.open(call.key, call.all_groups) for call in missing]
        try:
            read = await runtime.reads.read_many(missing, fences)
        finally:
            for fence in fences:
                runtime.fences.close(fence)
        for call, found in zip(missing, read, strict=True):
            lookup = runtime.reads.stale(call, found)
            self.count(call.key, call.counters, lookup)
            lookups[call.key] = lookup
        return [lookups[call.key] for call in calls]

    def count(self, key: str, counters: TierCounters, lookup: Lookup) -> None:
        """Count and report the answer to one caller that L1 did not answer at once."""
        _count_lookup(counters, lookup)
        if self.hooks.registry.hit:
            self.hooks.lookup(key, lookup, self.now())

    async def flush_writes(self) -> None:
        """Return when Valkey has answered every write queued so far, with success or an error."""
        runtime = await self.open()
        await runtime.l2.pipe.flush()

    # Telemetry

    def operation(self, name: str, key: HasAttributes | None = None, /, **attributes: object) -> Operation:
        """Return the context in which the operation ``name`` runs.

        Args:
            key: The key whose attributes the span has. Without a tracer the engine does not ask the key for them.
            attributes: Further attributes of the span.
        """
        if not self._life.is_attached:
            # The first operation opens the cache, and must have a span too.
            self.tracer = self._find_tracer()
        if key is not None and self.tracer is not None:
            attributes = {**key.attributes, **attributes}
        return self.operations.operation(name, self.tracer, attributes)

    def trace_hit(self, name: str, **attributes: object) -> None:
        """Make the span of an operation that L1 has answered. Call it only where ``tracer`` is not None."""
        if self.tracer is not None:
            self.tracer.record(name, {**attributes, "hit": True, "source": "l1", "coalesced": False})

    @property
    def runtime(self) -> Runtime | None:
        """The current runtime, of any loop, or None before the first use."""
        return self._life.runtime

    @property
    def queued_write_count(self) -> int:
        """Writes that Valkey has not answered yet."""
        runtime = self._life.runtime
        return 0 if runtime is None else runtime.l2.pipe.queued_count

    @property
    def tracking(self) -> Literal["interest", "broadcast", "off"]:
        """How Valkey reports the changes of other clients."""
        runtime = self._life.runtime
        return "off" if runtime is None else runtime.l2.tracking

    @property
    def is_degraded(self) -> bool:
        """Whether the breaker takes Valkey for unavailable."""
        runtime = self._life.runtime
        return runtime is not None and runtime.breaker.is_open


def _count_lookup(counters: TierCounters, lookup: Lookup) -> None:
    """Count the answer to one caller that L1 did not answer at once."""
    entry, source, coalesced = lookup[:3]
    if entry is not None and source != "loader":
        if source == "l2":
            counters.l2_hits += 1
        else:
            counters.l1_hits += 1  # Stale or pinned, from memory.
            counters.stale_hits += source == "stale"
        counters.saved_micros += entry.cost_micros
    else:
        counters.misses += 1
        counters.coalesced += coalesced
