"""Explanations: how a lookup would be answered, and why, from a look at both levels that changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ...errors import L2UnavailableError
from ..call import Call
from ..coherence.placeholders import holder_of, is_placeholder
from ..entries.freshness import FailedEntry, KeptEntry
from ..entries.rules import UndecodableError
from ..runtime.l2 import L2
from ..runtime.no_l2 import NoL2
from ..runtime.runtime import Runtime

__all__ = ["Explanation", "Inspection"]

L1State: TypeAlias = Literal["hit", "absent", "expired", "stale", "failed", "untrusted", "off"]
L2State: TypeAlias = Literal[
    "hit", "absent", "queued", "leased", "orphaned", "undecodable", "unsettled", "unavailable", "off"
]

_L1_TEXTS: Final[dict[L1State, str]] = {
    "hit": "process memory has it",
    "absent": "process memory does not have it",
    "expired": "process memory has kept it for as long as it may",
    "stale": "process memory has a value past its lifetime, which it serves while one load refreshes it",
    "failed": "process memory remembers the error of the last load, and raises it again",
    "untrusted": "process memory has it, and cannot know whether it is current: Valkey has not confirmed it in time",
    "off": "this tier is not kept in process memory",
}
_L2_TEXTS: Final[dict[L2State, str]] = {
    "hit": "Valkey has it",
    "absent": "Valkey does not have it",
    "queued": "a store of it is on its way to Valkey",
    "leased": "a process is loading it",
    "orphaned": "Valkey has a placeholder that no load renews; the next load takes it over",
    "undecodable": "Valkey has something that this tier cannot read",
    "unsettled": "Valkey is not asked, because an invalidation was not acknowledged yet",
    "unavailable": "Valkey does not answer",
    "off": "there is no Valkey",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an entry is, and how a lookup would be answered.

    Attributes:
        key: The key in Valkey.
        source: The level that would answer a lookup: "l1" or "l2", "stale" for a stale value in L1, "pin" for a pinned
            answer; None for a miss.
        l1: "hit", "absent", "expired", "stale" (past its TTL, and served as ``stale_for`` says), "failed" (a remembered
            error of a loader), "untrusted" (present, and possibly stale), "off".
        l2: "hit", "absent", "queued" (a write-behind store that Valkey has not acknowledged: lookups find it),
            "leased" (a process is loading it), "orphaned" (a placeholder that no load renews, and that the next load
            takes over), "undecodable", "unsettled" (an invalidation is pending), "unavailable", "off".
        age: Seconds since the copy in L1 was stored, by any process, or None if L1 has no copy.
        l1_ttl: Seconds that L1 still keeps the copy, or None if L1 has no copy; inf without an end.
        kept_ttl: Seconds for which L1 still serves the stale value or raises the remembered error, or None if it does
            neither now.
        retry_in: Seconds before which no lookup refreshes the stale value again, because the last load failed; 0: the
            next lookup does. None without a stale value.
        l2_ttl: Seconds that the entry has left in Valkey, or None if Valkey has no entry; inf without an end.
        is_loading: Whether this process is loading the entry, or waits for another process that is.
        lease_holder: The origin of the process that loads the entry, or None if no process does.
        holds_lease: Whether the lease holder is this process.
        trusted: Whether this process knows that L1 is current.
        generation: The number of times that this process has dropped all of L1.
        tracked: Whether the server reports changes that other software makes.
        pinned: Whether the key has a pin, which wins over both levels. ``age`` and the lifetimes are those of the
            levels beneath.
        enabled: Whether lookups of the tier and the tool are enabled. If not, every lookup is a miss.
    """

    key: str
    source: Literal["l1", "l2", "stale", "pin"] | None
    l1: L1State
    l2: L2State
    age: float | None
    l1_ttl: float | None
    kept_ttl: float | None
    retry_in: float | None
    l2_ttl: float | None
    is_loading: bool
    lease_holder: str | None
    holds_lease: bool
    trusted: bool
    generation: int
    tracked: bool
    pinned: bool = False
    enabled: bool = True

    def __str__(self) -> str:
        if not self.enabled:
            return f"{self.key} would miss: this tier or tool is disabled at run time; {_L2_TEXTS[self.l2]}."
        outcome = "would miss" if self.source is None else f"would be answered from {self.source}"
        if self.pinned:
            outcome = "is pinned, and would be answered by its pin"
        return f"{self.key} {outcome}: {_L1_TEXTS[self.l1]}; {_L2_TEXTS[self.l2]}."


class Inspection:
    """A look at one key in both levels, which counts and changes nothing."""

    def __init__(self, runtime: Runtime, call: Call) -> None:
        self._runtime = runtime
        self._call = call

    async def explain(self) -> Explanation:
        """Return how a lookup would be answered.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        runtime, key = self._runtime, self._call.key
        in_l2, l2_ttl, placeholder = await self._look_into_l2()
        pinned = await runtime.pins.find(self._call) is not None
        # No await from here on: the rest describes one moment of this process.
        now, l2 = runtime.now(), runtime.l2
        entry = runtime.l1.peek(key)
        in_l1 = self._l1_state(now)
        enabled = not runtime.switches.are_off(self._call.groups)
        holder = None if placeholder is None else holder_of(placeholder)
        return Explanation(
            key=key,
            source=None if not enabled else "pin" if pinned else _source(in_l1, in_l2),
            l1=in_l1,
            l2=in_l2,
            age=None if entry is None or entry.stored_at == -math.inf else max(0.0, now - entry.stored_at),
            l1_ttl=None if entry is None else max(0.0, entry.deadline - now),
            kept_ttl=None if (kept := self._kept(in_l1)) is None else self._kept_until(kept) - now,
            retry_in=max(0.0, kept.retry_at - now) if kept is not None and in_l1 == "stale" else None,
            l2_ttl=l2_ttl,
            is_loading=runtime.flights.joinable(key, takes_parts=True) is not None,
            lease_holder=holder,
            holds_lease=isinstance(l2, L2) and holder is not None and holder == l2.origin,
            trusted=now < runtime.l1.trusted_until,
            generation=runtime.l1.distrusted_count,
            tracked=l2.is_tracking,
            pinned=pinned,
            enabled=enabled,
        )

    async def _look_into_l2(self) -> tuple[L2State, float | None, bytes | None]:
        """Return the state in Valkey, the seconds left there, and the placeholder that is there."""
        l2, call = self._runtime.l2, self._call
        if isinstance(l2, NoL2):
            return "off", None, None
        if await l2.behind.find(call.key) is not None:
            return "queued", None, None
        if l2.pending.covers(call.key, call.all_groups):
            return "unsettled", None, None
        try:
            stored = await l2.level2.get(call.key)
        except L2UnavailableError:
            return "unavailable", None, None
        if stored is None:
            return "absent", None, None
        life = math.inf if stored.ttl is None else stored.ttl
        if stored.value is None:
            return "undecodable", life, None
        if not call.rules.is_state and is_placeholder(stored.value):
            if l2.leases.is_orphan(call.key, stored.value, life):
                return "orphaned", None, None
            return "leased", None, stored.value
        try:
            call.rules.codec.decode(stored.value)
        except UndecodableError:
            return "undecodable", life, None
        return "hit", life, None

    def _kept(self, in_l1: L1State) -> KeptEntry | None:
        """Return the entry in L1 if it is a stale value or a remembered error."""
        entry = self._runtime.l1.peek(self._call.key)
        return entry if in_l1 in ("stale", "failed") and isinstance(entry, KeptEntry) else None

    def _kept_until(self, kept: KeptEntry) -> float:
        freshness = self._call.rules.freshness
        assert freshness is not None  # Otherwise L1 would not serve the entry.
        return freshness.ends(kept)

    def _l1_state(self, now: float) -> L1State:
        l1, call = self._runtime.l1, self._call
        entry = l1.peek(call.key)
        if not call.rules.l1:
            return "off"
        if entry is None:
            return "absent"
        if now >= entry.deadline:
            kept = self._runtime.reads.kept(call, now)
            if kept is None:
                return "expired"
            if isinstance(kept, FailedEntry):
                return "failed"
            return "stale" if now >= kept.expires_at else "hit" if now < kept.l1_until else "expired"
        return "hit" if l1.trusts(entry.began, now) else "untrusted"


def _source(in_l1: L1State, in_l2: L2State) -> Literal["l1", "l2", "stale"] | None:
    if in_l1 == "hit" or in_l2 == "queued":
        return "l1"
    if in_l1 == "stale":
        return "stale"
    return "l2" if in_l2 == "hit" and in_l1 != "failed" else None
