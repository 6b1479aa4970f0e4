"""The policy of a tier: its name, its rules, and the codec between its values and the bytes in Valkey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import UsageError
from ...ttl import Ttl, resolve_ttl, shorten
from .counters import CounterBook
from .entry import Group

__all__ = ["Codec", "TierPolicy", "UndecodableError", "UnreadableHereError"]


class UndecodableError(ValueError):
    """Bytes in Valkey do not have the tier's form. This error never leaves the engine: such an entry is a miss."""


class UnreadableHereError(UndecodableError):
    """This process cannot decode the bytes: its options differ or a library is missing. Other processes may do so."""


class Codec(Protocol):
    """The codec of a tier: its values as bytes in Valkey, their size in memory, their cost and age."""

    def decode(self, data: bytes) -> Any:
        """Return the value, immutable; raise UndecodableError if ``data`` are foreign, corrupt or too large."""
        ...

    def pack(self, data: bytes) -> bytes:
        """Return the bytes to write to Valkey: ``data``, or fewer bytes that ``decode`` accepts too."""
        ...

    def size_bytes(self, value: Any) -> int:
        """Return the bytes of memory that ``value`` takes."""
        ...

    def cost(self, value: Any) -> float | None:
        """Return the cost of making ``value``, in dollars, or None if the cost is unknown."""
        ...

    def stored_at(self, value: Any) -> float:
        """Return the time at which ``value`` was stored, in seconds since the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """The resolved rules of one tier of one cache.

    Attributes:
        groups_of: For tiers in which calls with different groups may share an entry: returns the groups of a value, to
            which the engine adds the tags of the call. None: an entry belongs to the groups of the call that made it.
        store_when: Returns whether the cache stores a loader's result. None: the cache stores every result.
        lease: Whether a load takes a lease in Valkey first.
        is_state: Whether the values are state, not copies of a source: while Valkey is unavailable a read raises
            instead of missing.
        max_value_bytes: Most bytes, before ``Codec.pack``, that a value may have; the cache stores no larger value.
            None: no limit.
        writes_behind: Whether an explicit store returns as soon as the store is queued (write-behind).
    """

    tier: str
    codec: Codec
    ttl: Ttl | None
    l1: bool
    l1_ttl: float
    jitter: float
    finish_abandoned: bool
    lease: bool = True
    groups_of: Callable[[Any], tuple[Group, ...]] | None = None
    store_when: Callable[[Any], bool] | None = None
    is_state: bool = False
    max_value_bytes: int | None = None
    writes_behind: bool = False
    counters: CounterBook = field(default_factory=CounterBook)

    @property
    def group(self) -> Group:
        """The group of all entries of this tier."""
        return Group("tier", self.tier)

    def default_lifetime(self) -> float | None:
        """Return the tier's lifetime in seconds, for entries without a lifetime of their own; None means no expiry."""
        return resolve_ttl(self.ttl)

    def lifetime(self, *ttls: Ttl | None) -> float | None:
        """Return an entry's lifetime in Valkey in seconds, less the jitter; None means no expiry.

        Args:
            ttls: Lifetimes for this entry, the most specific first; the first that is not None counts, and if all are
                None, the tier's lifetime.
        """
        return shorten(resolve_ttl(*ttls, self.ttl), self.jitter)

    def takes(self, data: bytes) -> bool:
        """Return whether ``data``, before ``Codec.pack``, are within ``max_value_bytes``."""
        return self.max_value_bytes is None or len(data) <= self.max_value_bytes

    def check_size(self, data: bytes, name: str) -> None:
        """Refuse a value that is too large.

        Args:
            name: Name of the value in the error text.

        Raises:
            UsageError: ``data`` have more than ``max_value_bytes``; the text names the size and the limit.
        """
        if not self.takes(data):
            raise UsageError(
                f"{name} is too large: {len(data)} bytes in Valkey, and TierOptions.max_value_bytes of the tier "
                f"{self.tier!r} is {self.max_value_bytes}"
            )
