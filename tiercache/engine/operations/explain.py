"""Why a lookup is answered as it is: a look at both levels that counts nothing and changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ...errors import L2UnavailableError
from ..call import Call
from ..coherence.leases import holder_of, is_placeholder
from ..engine import Engine
from ..entries.policy import UndecodableError
from ..runtime.l2 import L2
from ..runtime.runtime import Runtime

__all__ = ["Explanation", "explain"]

L1State: TypeAlias = Literal["hit", "absent", "expired", "untrusted", "off"]
L2State: TypeAlias = Literal["hit", "absent", "queued", "leased", "undecodable", "pending", "unavailable", "off"]

_L1_SAYS: Final[dict[L1State, str]] = {
    "hit": "process memory has it",
    "absent": "process memory does not have it",
    "expired": "process memory has kept it for as long as it may",
    "untrusted": "process memory has it, and cannot know whether it is current: nothing was heard from Valkey",
    "off": "this tier is not kept in process memory",
}
_L2_SAYS: Final[dict[L2State, str]] = {
    "hit": "Valkey has it",
    "absent": "Valkey does not have it",
    "queued": "a store of it is on its way to Valkey",
    "leased": "a process is loading it",
    "undecodable": "Valkey has something that this tier cannot read",
    "pending": "Valkey is not asked, because an invalidation was not acknowledged yet",
    "unavailable": "Valkey does not answer",
    "off": "there is no Valkey",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an entry is, and how a lookup would be answered.

    Attributes:
        key: The key in Valkey.
        source: Where a lookup would find it: "l1", "l2"; None where it would miss.
        l1: "hit", "absent", "expired", "untrusted" (present, and not known to be current), "off".
        l2: "hit", "absent", "queued" (stored behind, and not acknowledged: lookups find that), "leased" (a process is
            loading it), "undecodable", "unsettled" (an invalidation was not acknowledged), "unavailable", "off".
        age: Seconds since the copy in process memory was stored, by whomever; None where there is none.
        l1_ttl: Seconds for which process memory keeps it, None where it has none, inf without end.
        l2_ttl: Seconds it has left in Valkey, None where it is not there, inf without end.
        is_loading: Whether this process is loading it, or waits for another one that is.
        lease_holder: The process that loads it, by the name it has among those of this cache; None for nobody.
        holds_lease: Whether that is this process.
        trusted: Whether process memory is known to be current.
        generation: How often this process has had to forget everything.
        tracked: Whether changes by others than tiercache are heard of.
    """

    key: str
    source: Literal["l1", "l2"] | None
    l1: L1State
    l2: L2State
    age: float | None
    l1_ttl: float | None
    l2_ttl: float | None
    is_loading: bool
    lease_holder: str | None
    holds_lease: bool
    trusted: bool
    generation: int
    tracked: bool

    def __str__(self) -> str:
        outcome = "would miss" if self.source is None else f"would be answered from {self.source}"
        return f"{self.key} {outcome}: {_L1_SAYS[self.l1]}; {_L2_SAYS[self.l2]}."


async def explain(engine: Engine, request: Call) -> Explanation:
    """Return how a lookup of ``request`` would be answered.

    Raises:
        L2CommandError: Valkey refused the read.
    """
    runtime = await engine.open()
    l2 = runtime.l2
    in_l2, l2_ttl, placeholder = ("off", None, None) if l2 is None else await _look(l2, request)
    # No await from here on: what is said of this process is of one moment.
    now = engine.now()
    entry = engine.l1.peek(request.key)
    l1 = _l1_state(engine, request, now)
    holder = None if placeholder is None else holder_of(placeholder)
    return Explanation(
        key=request.key,
        source="l1" if l1 == "hit" or in_l2 == "queued" else "l2" if in_l2 == "hit" else None,
        l1=l1,
        l2=in_l2,
        age=None if entry is None or entry.stored_at == -math.inf else max(0.0, now - entry.stored_at),
        l1_ttl=None if entry is None else max(0.0, entry.deadline - now),
        l2_ttl=l2_ttl,
        is_loading=_is_loading(runtime, request.key),
        lease_holder=holder,
        holds_lease=l2 is not None and holder is not None and holder == l2.origin,
        trusted=now < engine.l1.trusted_until,
        generation=0 if l2 is None else l2.coherence.generation,
        tracked=l2 is not None and l2.listener.is_tracking,
    )


async def _look(l2: L2, request: Call) -> tuple[L2State, float | None, bytes | None]:
    """Return what Valkey has, how long for, and the placeholder that is there."""
    if await l2.behind.find(request.key) is not None:
        return "queued", None, None
    if l2.pending.covers(request.key, request.groups):
        return "pending", None, None
    try:
        stored = await l2.level2.get(request.key)
    except L2UnavailableError:
        return "unavailable", None, None
    if stored is None:
        return "absent", None, None
    life = math.inf if stored.ttl is None else stored.ttl
    if stored.value is None:
        return "undecodable", life, None
    if not request.policy.is_state and is_placeholder(stored.value):
        return "leased", None, stored.value
    try:
        request.policy.codec.decode(stored.value)
    except UndecodableError:
        return "undecodable", life, None
    return "hit", life, None


def _l1_state(engine: Engine, request: Call, now: float) -> L1State:
    entry = engine.l1.peek(request.key)
    if not request.policy.l1:
        return "off"
    if entry is None:
        return "absent"
    if now >= entry.deadline:
        return "expired"
    return "hit" if engine.l1.trusts(entry.began, now) else "untrusted"


def _is_loading(runtime: Runtime, key: str) -> bool:
    return runtime.flights.joinable(key) is not None
