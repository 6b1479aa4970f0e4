"""Reads of L2: one lookup or many, from the question to the entry in L1.

    queued by write-behind? ──> that value          pending invalidation? ──> degraded miss
            │ no                                            │ no
            └──────────────> ask Valkey <────────────────────┘
                                 │ value: fill L1 unless the fence is broken
                                 │ placeholder: another load is in progress
                                 │ nothing, or an entry of another form: a miss
                                 └ no answer, or a refusal: degraded miss (an error for state)

This is the one place where an unavailable Valkey becomes a miss, and a Valkey that refuses the read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ...clock import Clock
from ...errors import PASSING, L2CommandError, L2UnavailableError, TierCacheError
from ...log import CacheLog
from ..call import Call
from ..coherence.placeholders import is_placeholder
from ..entries.entry import Group
from ..entries.freshness import KeptEntry
from ..entries.lookup import Lookup
from ..entries.rules import UndecodableError
from ..level2.level2 import Stored
from ..memory.fences import Fence
from ..memory.memory import Memory
from .face import Face
from .l2 import L2
from .no_l2 import NoL2

__all__ = ["MISS", "Reads"]

MISS: Final = Lookup(None, None)


class Reads:
    """The reads of one runtime. A lookup of a disabled tier or tool is a miss, and Valkey is not asked.

    Args:
        serve_untrusted: Seconds, see ``ResilienceOptions``.
    """

    def __init__(
        self, memory: Memory, l2: L2 | NoL2, face: Face, clock: Clock, log: CacheLog, *, serve_untrusted: float
    ) -> None:
        self._switches = memory.switches
        self._memory = memory
        self._face = face
        self._l2 = l2
        self._clock = clock
        self._now = clock.monotonic
        self._log = log
        self._serve_untrusted = serve_untrusted

    async def read(self, call: Call, fence: Fence) -> Lookup:
        """Ask Valkey for ``call.key`` and fill L1 unless ``fence`` is broken.

        Raises:
            L2UnavailableError, L2CommandError: The tier is state, and Valkey is unavailable, or refused the read. For
                other tiers that is a degraded miss.
        """
        l2 = self._l2
        if isinstance(l2, NoL2) or self._switches.are_off(call.groups):
            return MISS
        if (l2.behind or l2.pending) and not call.rules.is_state:
            queued = await l2.behind.find(call.key)
            if queued is not None:
                return Lookup(queued, "l1")
            # No await before this: a queued store that has failed is a pending invalidation now.
            if l2.pending.covers(call.key, call.all_groups):
                return self._degraded(call)
        lookup = self._answered_elsewhere(call)
        if lookup is not None:
            return lookup
        sent_at = self._now()
        self._begin(l2, fence)
        try:
            stored = await l2.level2.get(call.key)
        except (L2UnavailableError, L2CommandError) as error:
            call.counters.l2_errors += 1
            self._memory.hooks.error("l2.read", error)
            if call.rules.is_state or _must_raise(call, error):
                raise
            self._log_refusal(error)
            return self._degraded(call)
        finally:
            fence.reading = False
        return self._received(call, fence, stored, sent_at)

    async def read_many(self, calls: Sequence[Call], fences: Sequence[Fence]) -> list[Lookup]:
        """Do as ``read`` for each of ``calls``, which are of one tier, in one round trip."""
        l2 = self._l2
        if isinstance(l2, NoL2) or all(self._switches.are_off(call.groups) for call in calls):
            return [MISS] * len(calls)
        lookups = await self._answered_locally(l2, calls)
        asked = [(call, fence) for call, fence in zip(calls, fences, strict=True) if call.key not in lookups]
        if asked:
            sent_at = self._now()
            for _, fence in asked:
                self._begin(l2, fence)
            try:
                answers = await l2.level2.get_many([call.key for call, _ in asked])
            except (L2UnavailableError, L2CommandError) as error:
                for call, _ in asked:
                    call.counters.l2_errors += 1
                    lookups[call.key] = self._degraded(call)
                self._memory.hooks.error("l2.read", error)
                if calls[0].rules.is_state or _must_raise(calls[0], error):
                    raise
                self._log_refusal(error)
            else:
                for (call, fence), stored in zip(asked, answers, strict=True):
                    lookups[call.key] = self._received(call, fence, stored, sent_at)
            finally:
                for _, fence in asked:
                    fence.reading = False
        return [lookups[call.key] for call in calls]

    async def _answered_locally(self, l2: L2, calls: Sequence[Call]) -> dict[str, Lookup]:
        """Return the lookups that are answered without asking Valkey, by key."""
        if not calls or calls[0].rules.is_state:
            return {}
        lookups: dict[str, Lookup] = {}
        if l2.behind or l2.pending:
            queued = {call.key: await l2.behind.find(call.key) for call in calls}
            lookups = {key: Lookup(entry, "l1") for key, entry in queued.items() if entry is not None}
            for call in calls:
                if call.key not in lookups and l2.pending.covers(call.key, call.all_groups):
                    lookups[call.key] = self._degraded(call)
        if not self._face.is_alone:
            for call in calls:
                if call.key not in lookups and (lookup := self._answered_elsewhere(call)) is not None:
                    lookups[call.key] = lookup
        return lookups

    def _answered_elsewhere(self, call: Call) -> Lookup | None:
        """Return the lookup of a call that the other face answers without asking Valkey, or None."""
        face = self._face
        if face.is_alone or call.rules.is_state:
            return None
        if face.is_pending_elsewhere(call.key, call.all_groups):
            return self._degraded(call)
        entry = face.queued_elsewhere(call.key, self._now())
        if entry is None or not all(tag in entry.groups for tag in call.tags):
            return None
        return Lookup(entry, "l1")

    def kept(self, call: Call, now: float) -> KeptEntry | None:
        """Return the entry that L1 keeps past its deadline and may serve, or None.

        Without tracking, other software may have changed the key: the promise is that L1 notices within ``l1_ttl``.
        """
        freshness, entry = call.rules.freshness, self._memory.l1.kept(call.key, now)
        if entry is None or freshness is None or now >= freshness.ends(entry):
            return None
        if not (self._l2.is_tracking or now < entry.began + call.rules.l1_ttl):
            return None
        return entry

    def stale(self, call: Call, lookup: Lookup) -> Lookup:
        """Return the stale value for a call whose ``lookup`` found nothing, or ``lookup`` if there is none."""
        if call.rules.freshness is None or lookup.entry is not None:
            return lookup
        entry = self.kept(call, self._now())
        if type(entry) is not KeptEntry or not all(tag in entry.groups for tag in call.tags):
            return lookup
        return lookup._replace(entry=entry, source="stale", placeholder=None)

    def _begin(self, l2: L2, fence: Fence) -> None:
        fence.reading = True
        # While a write of the key is in the pipe, the read may return the older value: it must not fill L1.
        fence.keeps_reads = not (l2.pipe.is_writing(fence.key) or self._face.is_writing_elsewhere(fence.key))

    def _log_refusal(self, error: TierCacheError) -> None:
        """Log, once, that Valkey refused a lookup. The breaker logs an outage and refused credentials."""
        if not isinstance(error, PASSING):
            self._log.warn_once("Valkey refuses lookups, which are misses now (counted as l2_errors): %s", error)

    def _degraded(self, call: Call) -> Lookup:
        """Return the lookup of a call while Valkey cannot be asked: a miss, or an untrusted entry served as stale."""
        longer = self._serve_untrusted
        entry = self._memory.l1.get_untrusted(call.key, self._now(), longer) if longer else None
        return Lookup(entry, None if entry is None else "stale", degraded=True)

    def _received(self, call: Call, fence: Fence, stored: Stored | None, sent_at: float) -> Lookup:
        """Return the lookup for Valkey's answer, and fill L1 with the value unless the fence is broken."""
        rules = call.rules
        if rules.freshness is not None and (stored is None or is_placeholder(stored.value or b"")):
            self._memory.l1.drop_deleted(call.key, sent_at)
        if stored is None:
            return MISS
        if stored.value is not None and not rules.is_state and is_placeholder(stored.value):
            life = math.inf if stored.ttl is None else stored.ttl
            return Lookup(None, None, placeholder=stored.value, placeholder_life=life)
        try:
            if stored.value is None:
                raise UndecodableError("not a string")
            value, tags = rules.codec.decode(stored.value)
        except UndecodableError:
            call.counters.undecodable += 1
            return MISS
        groups = tuple([Group("tag", tag) for tag in tags]) if tags else ()
        entry = call.entry(value, stored.ttl, self._clock, since=sent_at, began=sent_at, tags=groups)
        if rules.l1 and fence.keeps_reads and self._memory.fences.allow(fence):
            if not stored.is_registered and self._l2.is_registering:
                self._memory.l1.bound(fence.key, entry, self._now())
            self._memory.l1.put(fence.key, entry)
        return Lookup(entry, "l2")


def _must_raise(call: Call, error: TierCacheError) -> bool:
    """Return whether the tier wants the error of an unavailable Valkey, and not a degraded miss."""
    return call.rules.on_error == "raise" and isinstance(error, L2UnavailableError)
