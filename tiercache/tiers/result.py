"""What every tier says of an answer: the answer, and where it came from."""

from __future__ import annotations

from math import inf
from typing import Any, Self

from msgspec import Struct

from ..engine.engine import Found, Source
from ..engine.entry import Entry

__all__ = ["Result"]


class Result(Struct, frozen=True):
    """The outcome of a lookup or a load. Its own: changing what it holds changes nobody else's.

    Attributes:
        hit: Whether the answer came from the cache.
        response: The answer's text, None for a miss.
        key: The key in Valkey.
        source: "l1", "l2", "loader" or "stale"; None for a miss.
        cost: Dollars that the answer cost when it was made, None where that is not known.
        age: Seconds since it was stored, None for a miss.
        ttl: Seconds it had left in Valkey, None for a miss or where it does not expire.
        coalesced: It came from a load that another caller had started.
        degraded: Valkey should have been asked and did not answer.
        stale: It is past its lifetime, and was served because nothing newer could be had.
    """

    hit: bool
    response: str | None
    key: str
    source: Source | None
    cost: float | None = None
    age: float | None = None
    ttl: float | None = None
    coalesced: bool = False
    degraded: bool = False
    stale: bool = False
    _entry: Any = None

    @classmethod
    def from_l1(cls, key: str, entry: Entry, now: float) -> Self:
        """Return the result for an entry found in process memory at monotonic second ``now``."""
        value = entry.value
        expires_at = entry.expires_at
        ttl = None if expires_at == inf else expires_at - now
        # By position, which takes two thirds of the time that names take.
        return cls(True, value.response, key, "l1", value.cost, now - entry.stored_at, ttl, False, False, False, value)

    @classmethod
    def from_found(cls, key: str, found: Found, now: float) -> Self:
        """Return the result for what the engine found, or did not find, at monotonic second ``now``."""
        entry = found.entry
        if entry is None:
            return cls(hit=False, response=None, key=key, source=None, degraded=found.degraded)
        value, source = entry.value, found.source
        age, ttl = now - entry.stored_at, entry.expires_at - now
        # By position, as above.
        return cls(
            source != "loader",
            value.response,
            key,
            source,
            value.cost,
            age if age > 0.0 else 0.0,
            None if ttl == inf else ttl if ttl > 0.0 else 0.0,
            found.coalesced,
            found.degraded,
            False,
            value,
        )

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"
