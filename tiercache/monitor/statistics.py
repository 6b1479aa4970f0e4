"""The statistics hash: the counters of every process of the fleet, added up in Valkey.

``{name}:__stats`` is a hash of integers that processes only increment. betterdb-agent-cache has the same fields
``llm:hits``, ``llm:misses``, ``tool:hits``, ``tool:misses``, for each tool ``tool:{tool}:hits`` and ``...:misses``,
``cost_saved_micros`` and ``tool:{tool}:cost_saved_micros``, ``session:reads`` and ``session:writes``. The fields that
only tiercache has begin with ``tc:``. A process counts in memory and sends the increments since the last time, about
once a second and when it closes. A process sends each increment once: after a fault the hash may be too low, never too
high.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..engine.entries.counters import OTHER, CounterBook, TierCounters
from ..engine.level2.level2 import Level2
from ..engine.level2.replies import send
from ..errors import TierCacheError
from ..locks import ThreadLock
from ..log import CacheLog
from ..text import shown

__all__ = ["CacheStats", "SessionStats", "StatsHash", "TierStats", "ToolStats", "parse"]

# Counts are integers of 64 bits, as HINCRBY makes them, and only ever incremented.
_MOST: Final = 2**63 - 1
# Seconds between two looks at increments that Valkey has not acknowledged.
_LOOK_SECONDS: Final = 0.002
# The Monitor is JavaScript: a field of the tool ``__proto__`` changes the prototype of all its objects, and ends it.
_UNNAMED_TOOLS: Final = frozenset({OTHER, "__proto__"})
_TOOL_FIELD: Final = re.compile(r"tool:([^:]+):(hits|misses|cost_saved_micros)")


@dataclass(frozen=True, slots=True)
class TierStats:
    """Lookups in one tier, of all processes."""

    hits: int
    misses: int

    @property
    def total(self) -> int:
        """Hits and misses."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Hits as a fraction of all lookups, 0 to 1; 0 without lookups."""
        return self.hits / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class ToolStats(TierStats):
    """Lookups of one tool's results, of all processes.

    Attributes:
        cost_saved_micros: Millionths of a dollar that the hits saved.
        ttl: Seconds of the tool's policy, or None if the tool has no policy.
    """

    cost_saved_micros: int
    ttl: int | None


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Reads and writes of session fields, of all processes."""

    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The counters of the whole fleet under one cache name.

    Attributes:
        llm, tool: Hits and misses by tier.
        session: Reads and writes.
        cost_saved_micros: Millionths of a dollar that the hits saved.
        per_tool: Hits, misses and savings by tool.
        coalesced: Callers, among the misses, that waited on another caller's load, by tier.
        write_errors: Values stored with ``WriteOptions(mode="behind")`` that did not reach Valkey, by tier.
    """

    llm: TierStats
    tool: TierStats
    session: SessionStats
    cost_saved_micros: int
    per_tool: Mapping[str, ToolStats]
    coalesced: Mapping[str, int]
    write_errors: Mapping[str, int]


class _Sent(NamedTuple):
    """The counts under one label that this process has sent."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    saved_micros: int = 0
    write_errors: int = 0


class StatsHash:
    """The statistics hash of one cache: collects the tiers' increments and sends them.

    Args:
        name: The cache's name.
        books: Returns pairs of a tier's name and the tier's counters, always in the same order; new pairs come last.
            Two pairs of one tier belong to the two faces of a cache.
        totals: Further fields: name to a function that returns a count which never falls.
        log: The cache's log.
    """

    def __init__(
        self,
        name: str,
        books: Callable[[], Iterable[tuple[str, CounterBook]]],
        totals: Mapping[str, Callable[[], int]],
        log: CacheLog,
    ) -> None:
        self._log = log
        self._key = f"{name}:__stats"
        self._books = books
        self._totals = totals
        # By the number of the book, and the label.
        self._sent: dict[tuple[int, str], _Sent] = {}
        self._sent_totals: Counter[str] = Counter()
        # Both faces of a cache send the increments of both, each from its own thread.
        self._lock = ThreadLock()
        self._unanswered_count = 0

    def collect(self) -> dict[str, int]:
        """Return the increments since the last call, by field. From now on they count as sent. For any thread."""
        with self._lock:
            return self._collect()

    def _collect(self) -> dict[str, int]:
        fields: Counter[str] = Counter()
        for number, (tier, book) in enumerate(self._books()):
            for label, counters in book.items():
                now = _now(counters)
                before = self._sent.get((number, label), _Sent())
                if now != before:
                    self._sent[number, label] = now
                    since = _Sent(*(new - old for new, old in zip(now, before, strict=True)))
                    fields.update(_fields(tier, label, since))
        for field, total in self._totals.items():
            count = total()
            fields[field] += count - self._sent_totals[field]
            self._sent_totals[field] = count
        return {field: count for field, count in fields.items() if count}

    async def send(self, level2: Level2) -> bool:
        """Add the increments to the hash in one round trip; return False if they are lost."""
        increments = self.collect()
        if not increments:
            return True
        self._count_unanswered(1)
        try:
            await send(level2, [("HINCRBY", self._key, field, count) for field, count in increments.items()])
        except TierCacheError as error:
            # Valkey may have executed some of them: to send them again could count them twice.
            self._log.debug("increments of the statistics are lost: %s", error)
            return False
        finally:
            self._count_unanswered(-1)
        return True

    def _count_unanswered(self, by: int) -> None:
        with self._lock:
            self._unanswered_count += by

    async def sent(self, timeout: float) -> None:
        """Return when the hash has all collected increments; give up after ``timeout`` seconds.

        Another task, or the other face, may have collected increments that Valkey does not have yet.
        """
        now = asyncio.get_running_loop().time
        give_up_at = now() + timeout
        # No event: the answer may arrive in the thread of the other face.
        while self._unanswered_count and now() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)

    async def read(self, level2: Level2) -> dict[str, int]:
        """Return the fields of the hash. A field that is no count is left out, with one warning for the cache.

        Raises:
            L2UnavailableError, L2CommandError: Valkey did not return the hash.
        """
        (reply,) = await send(level2, [("HGETALL", self._key)])
        return self._counts(reply)

    def _counts(self, reply: Sequence[bytes]) -> dict[str, int]:
        """Return the counts in a hash, whose fields and values alternate in ``reply``."""
        fields: dict[str, int] = {}
        for field, value in zip(reply[::2], reply[1::2], strict=True):
            count = _count(value)
            name = field.decode(errors="replace")
            if count is None or name.encode() != field:
                self._log.warn_once("fields of the statistics that are no counts are left out, such as %s", shown(name))
            else:
                fields[name] = count
        return fields


def _count(value: bytes) -> int | None:
    """Return the count in a field, or None if the field holds no integer of 64 bits from 0."""
    # Its length first: Python takes quadratic time for an int of many digits.
    count = int(value) if len(value) <= len(str(_MOST)) and value.isdigit() else -1
    return count if 0 <= count <= _MOST else None


def _now(counters: TierCounters) -> _Sent:
    return _Sent(
        counters.l1_hits + counters.l2_hits,
        counters.misses,
        counters.coalesced,
        counters.saved_micros,
        counters.write_errors,
    )


def _fields(tier: str, label: str, since: _Sent) -> dict[str, int]:
    """Return the increments of the hash's fields for ``since``, the increments of one label."""
    if tier not in ("llm", "tool"):
        return {
            f"tc:{tier}:{label}:lookups": since.hits + since.misses,
            f"tc:{tier}:{label}:found": since.hits,
            f"tc:{tier}:{label}:coalesced": since.coalesced,
        }
    fields = {
        f"{tier}:hits": since.hits,
        f"{tier}:misses": since.misses,
        f"tc:{tier}:coalesced": since.coalesced,
        f"tc:{tier}:write_errors": since.write_errors,
        "cost_saved_micros": since.saved_micros,
    }
    if tier == "tool" and label not in _UNNAMED_TOOLS:
        fields |= {
            f"tool:{label}:hits": since.hits,
            f"tool:{label}:misses": since.misses,
            f"tool:{label}:cost_saved_micros": since.saved_micros,
        }
    return fields


def parse(fields: Mapping[str, int], ttl_of: Callable[[str], int | None]) -> CacheStats:
    """Return the statistics in ``fields`` of the hash.

    Args:
        ttl_of: Returns the seconds of a tool's policy, or None if the tool has no policy.
    """
    tools: dict[str, dict[str, int]] = {}
    for field, count in fields.items():
        match = _TOOL_FIELD.fullmatch(field)
        if match:
            tools.setdefault(match[1], {})[match[2]] = count

    def tier(name: str) -> TierStats:
        return TierStats(fields.get(f"{name}:hits", 0), fields.get(f"{name}:misses", 0))

    return CacheStats(
        llm=tier("llm"),
        tool=tier("tool"),
        session=SessionStats(fields.get("session:reads", 0), fields.get("session:writes", 0)),
        cost_saved_micros=fields.get("cost_saved_micros", 0),
        per_tool={
            tool: ToolStats(
                hits=counts.get("hits", 0),
                misses=counts.get("misses", 0),
                cost_saved_micros=counts.get("cost_saved_micros", 0),
                ttl=ttl_of(tool),
            )
            for tool, counts in sorted(tools.items())
        },
        coalesced={name: fields.get(f"tc:{name}:coalesced", 0) for name in ("llm", "tool")},
        write_errors={name: fields.get(f"tc:{name}:write_errors", 0) for name in ("llm", "tool")},
    )
