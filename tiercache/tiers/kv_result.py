"""What comes out of a kv tier: values, the absence of one, and where a value came from."""

from __future__ import annotations

import enum
import math
from typing import Any, Final, Self

from msgspec import Struct

from ..engine.entry import Entry
from ..engine.found import Found, Source

__all__ = ["MISS", "KvResult", "MissType"]


class MissType(enum.Enum):
    """Type of ``MISS``."""

    MISS = "MISS"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self.value


# The absence of a value: for where None is one. False in a condition, as None is; cannot be stored.
MISS: Final = MissType.MISS


class KvResult(Struct, frozen=True, kw_only=True):
    """The outcome of a load through the cache. Its own: changing its value changes nobody else's.

    Attributes:
        hit: Whether the value came from the cache.
        value: The value; ``MISS`` for a miss in mode "only_cached".
        key: The key in Valkey.
        source: "l1", "l2", "loader" or "stale"; None for a miss.
        age: Seconds since it was stored; None for a miss, and where this process has read it from Valkey, whose bytes
            do not say.
        ttl: Seconds it had left in Valkey, None for a miss or where it does not expire.
        coalesced: It came from a load that another caller had started.
        degraded: Valkey should have been asked and did not answer.
        stale: It is past its lifetime, and was served because nothing newer could be had.
    """

    hit: bool
    value: Any
    key: str
    source: Source | None
    age: float | None = None
    ttl: float | None = None
    coalesced: bool = False
    degraded: bool = False
    stale: bool = False

    @classmethod
    def from_found(cls, key: str, found: Found, now: float) -> Self:
        """Return the result for what the engine found, or did not find, at monotonic second ``now``."""
        entry = found.entry
        if entry is None:
            return cls(hit=False, value=MISS, key=key, source=None, degraded=found.degraded)
        return cls(
            hit=found.is_hit,
            value=entry.value.value(),
            key=key,
            source=found.source,
            age=None if entry.stored_at == -math.inf else max(0.0, now - entry.stored_at),
            ttl=None if entry.expires_at == math.inf else max(0.0, entry.expires_at - now),
            coalesced=found.coalesced,
            degraded=found.degraded,
        )

    @classmethod
    def from_l1(cls, key: str, entry: Entry, now: float) -> Self:
        """Return the result for an entry found in process memory at monotonic second ``now``."""
        return cls.from_found(key, Found(entry, "l1"), now)
