"""``get_or_load``: whether a caller hits L1, joins a flight, starts a load, or loads for itself alone.

There are seven cases, in this order:

1. The mode is not "use": "only_cached" looks up, "bypass" loads privately, "refresh" and "store_only" start a load.
2. L1 has the entry: return the entry.
3. The key is pinned: return the pinned answer, also while a load of the key runs.
4. L1 keeps a stale value, or the error of the last load: return or raise it (``kept_answer``).
5. No flight of the key is joinable: start a load in a task of its own, and wait for the load.
6. The flight waits for the caller's own load: load privately, store nothing. Waiting for the flight would never end.
7. Otherwise wait for the flight.

A call with tags hits L1 only if the entry is known to have all of them. If cases 5 to 7 find a cached entry,
``Tagging`` adds the missing tags; if that fails, the call loads as in mode "refresh".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..call import Call, LoadFunction, Mode
from ..engine import Engine
from ..entries.counters import TierCounters
from ..entries.lookup import Lookup
from ..memory.flights import CURRENT_FLIGHT, Flight
from ..runtime.reads import MISS
from .kept_answer import KeptAnswer, KeptAnswers
from .load import Load
from .load_many import LoadMany, LoadManyFunction
from .tagging import Tagging

__all__ = ["Loads"]


class Loads:
    """The loads of one cache.

    Args:
        kind: Makes a load: ``Load``, or a subclass of it with its further arguments.
    """

    def __init__(self, engine: Engine, kind: Callable[..., Load] = Load) -> None:
        self._engine = engine
        self._kind = kind

    async def get_or_load(self, call: Call, function: LoadFunction, mode: Mode) -> Lookup:
        """Return the value of a key, loading it at most once at a time.

        An exception of ``function`` reaches every waiter unchanged, and nothing is stored. Cancelling one waiter leaves
        the others waiting. The modes are those of ``LlmTier.get_or_load``. A Valkey that is unavailable, or refuses the
        read, is a miss, and no error.
        """
        engine = self._engine
        runtime = engine.open_runtime() or await engine.open()
        if mode == "only_cached":
            lookup = await engine.find(call)
            return lookup if lookup.source == "pin" or await Tagging(runtime, call).holds(lookup) else MISS
        if mode == "bypass":
            return await self._kind(runtime, call).run_privately(function)
        if mode != "use":
            return await self._kind(runtime, call, is_refresh=True).start(function, is_shared=mode == "refresh")
        entry = engine.hit_for(call)
        if entry is not None:
            return Lookup(entry, "l1")
        pinned = await engine.find_pin(call)
        if pinned is not None:
            return pinned
        # A part of a stream has its reader: no load of it can run in the background.
        is_kept = call.rules.freshness is not None and self._kind is Load
        if is_kept and (kept := KeptAnswer(runtime, call).find(function)) is not None:
            engine.count(call.key, call.counters, kept)
            return kept
        try:
            lookup = await self._kind(runtime, call).join_or_start(function)
            if call.tags and not await Tagging(runtime, call).holds(lookup):
                lookup = await self._kind(runtime, call, is_refresh=True).join_or_start(function)
                if not await Tagging(runtime, call).holds(lookup):
                    # The joined flight has found an entry that cannot get the tags either.
                    lookup = await self._kind(runtime, call, is_refresh=True).start(function)
        except Exception:
            lookup = runtime.reads.stale(call, MISS) if is_kept else MISS
            if lookup.entry is None:
                call.counters.misses += 1
                raise
        engine.count(call.key, call.counters, lookup)
        return lookup

    async def get_or_load_many(self, calls: Sequence[Call], function: LoadManyFunction) -> list[Lookup]:
        """Return the values of keys, loading each at most once at a time in this process.

        A key that another flight loads is waited for. For the other keys Valkey is asked once, and ``function`` is
        called once, in one task, with the keys that Valkey does not have. A change of one key overtakes that key
        alone. An exception of ``function`` reaches every waiter of one of its keys, and nothing is stored, nor is the
        exception remembered. Stale values are returned at once, and refreshed by one further call. Cancelling the
        caller cancels the task only when no other caller waits for any of its keys.

        Args:
            calls: Of one tier, for distinct keys.
        """
        runtime = await self._engine.open()
        lookups = self._engine.hits(calls)
        missing = [call for call in calls if call.key not in lookups]
        if missing and missing[0].rules.freshness is not None:
            found_stale = KeptAnswers(runtime, missing).find(function)
            for call in missing:
                if call.key in found_stale:
                    self._engine.count(call.key, call.counters, found_stale[call.key])
            lookups |= found_stale
            missing = [call for call in missing if call.key not in lookups]
        found = dict(
            zip([call.key for call in missing], await LoadMany(runtime, missing).join_or_start(function), strict=True)
        )
        tagged = [call for call in missing if call.tags]
        for is_last in (False, True):
            held = await asyncio.gather(*(Tagging(runtime, call).holds(found[call.key]) for call in tagged))
            untagged = [call for call, holds in zip(tagged, held, strict=True) if not holds]
            if untagged:
                load = LoadMany(runtime, untagged, are_refreshes=True, may_join=not is_last)
                found |= zip([call.key for call in untagged], await load.join_or_start(function), strict=True)
        for call in missing:
            self._engine.count(call.key, call.counters, found[call.key])
            lookups[call.key] = found[call.key]
        return [lookups[call.key] for call in calls]

    def joinable(self, key: str) -> Flight | None:
        """Return the flight that a caller may simply wait for, or None if there is more to decide.

        There is more to decide where the caller is itself a loader: the flight may wait for the caller, or need the
        caller's slot. And where the key may be pinned: the pin wins over the load.
        """
        engine = self._engine
        runtime = engine.open_runtime()
        if runtime is None or engine.tracer is not None or engine.pins.may_answer(key, engine.now()):
            return None
        flight = runtime.flights.joinable(key)
        if flight is None or CURRENT_FLIGHT.get() is not None or runtime.load_limits.is_lending:
            return None
        return flight

    async def join(self, operation: str, flight: Flight, counters: TierCounters) -> Lookup:
        """Wait for a flight that ``joinable`` has returned in this same step; count the call as ``operation``.

        The quick path of ``get_or_load`` for callers that only wait. Errors and cancellation as there.
        """
        engine = self._engine
        began = engine.now()
        is_failed = False
        waiter = flight.join()
        try:
            lookup: Lookup = await waiter
        except Exception as error:
            is_failed = True
            counters.misses += 1
            counters.coalesced += 1
            engine.hooks.error(operation, error)
            raise
        finally:
            flight.leave(waiter)
            engine.operations.counters(operation).count(engine.now() - began, failed=is_failed)
        engine.count(flight.fence.key, counters, lookup)
        return lookup
