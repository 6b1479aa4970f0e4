"""The result of a lookup or a load: the answer, and where it came from; and ``MISS``, the absence of a value."""

from __future__ import annotations

import enum
from math import inf
from typing import Any, ClassVar, Final, Self

from msgspec import Struct

from ..engine.entries.entry import Entry
from ..engine.entries.lookup import Lookup, Source

__all__ = ["MISS", "MissType", "Result", "TextResult"]


class MissType(enum.Enum):
    """Type of ``MISS``."""

    MISS = "MISS"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self.value


# The absence of a value, where None may be a value. False in a condition, as None is; it cannot be stored.
MISS: Final = MissType.MISS


class Result(Struct, frozen=True, eq=False):
    """The outcome of a lookup or a load. Immutable; its lists and dicts belong to the caller.

    Two results are equal if they are of one tier and all of their attributes are equal.

    Attributes:
        key: The key in Valkey.
        source: "l1", "l2", "loader", "stale" or "pin"; None for a miss.
        coalesced: Whether the answer came from a load that another caller had started.
        degraded: Whether Valkey was unavailable for this lookup.
    """

    key: str
    source: Source | None
    _entry: Entry | None
    _now: float
    coalesced: bool = False
    degraded: bool = False

    _shown: ClassVar[tuple[str, ...]] = ()
    # Further attributes, which may be large: ``repr`` leaves them out.
    _hidden: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_found(cls, key: str, found: Lookup, now: float) -> Self:
        """Return the result of ``found``, a lookup of the engine that ended at monotonic second ``now``."""
        return cls(key, found.source, found.entry, now, found.coalesced, found.degraded)

    @property
    def hit(self) -> bool:
        """Whether the answer came from the cache."""
        return self._entry is not None and self.source != "loader"

    @property
    def cost(self) -> float | None:
        """Dollars that the answer cost when it was made, or None if that is not known."""
        return None if self._entry is None else self._entry.value.cost

    @property
    def age(self) -> float | None:
        """Seconds since the answer was stored, or None for a miss or if the time of the store is not known."""
        entry = self._entry
        return None if entry is None or entry.stored_at == -inf else max(0.0, self._now - entry.stored_at)

    @property
    def ttl(self) -> float | None:
        """Seconds that the entry had left in Valkey, or None for a miss or if the entry does not expire.

        If a loaded value did not reach Valkey: the seconds for which this process serves it, or None if neither level
        keeps it. A value on its way to Valkey counts as kept.
        """
        entry = self._entry
        return None if entry is None or entry.expires_at == inf else max(0.0, entry.expires_at - self._now)

    @property
    def stale(self) -> bool:
        """Whether the entry was past its lifetime when it was served, as ``TierOptions.stale_for`` allows."""
        return self.source == "stale" and self._entry is not None and self._now >= self._entry.expires_at

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._shown)
        return f"{type(self).__name__}({shown})"

    def __eq__(self, other: object) -> bool:
        # By the attributes, not by the fields: the entries of equal results may be different objects.
        if type(other) is not type(self):
            return NotImplemented
        return self._attributes() == other._attributes()

    def __hash__(self) -> int:
        return hash((self.key, self.source))

    def _attributes(self) -> tuple[object, ...]:
        # A tuple compares each attribute with itself as equal: a NaN too.
        return tuple(getattr(self, name) for name in self._shown + self._hidden)


class TextResult(Result, frozen=True, eq=False):
    """The result of a tier whose entries are texts. It also has the attributes of ``Result``."""

    _shown: ClassVar[tuple[str, ...]] = (
        *("hit", "response", "key", "source", "cost", "age", "ttl", "coalesced", "degraded", "stale"),
    )

    @property
    def response(self) -> str | Any:
        """The answer's text, or None for a miss."""
        # Most callers know that there is an answer: the type Any lets them use the text without a check for None.
        entry = self._entry
        return None if entry is None else entry.value.response
