"""What the engine is told of a tier: its name, its rules, and how its values look in Valkey."""

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
    """Bytes in Valkey are not of the tier's form. It never leaves the engine: such an entry is a miss."""


class UnreadableHereError(UndecodableError):
    """They are not for this process, which has other options or lacks a library. Others may be able to read them."""


class Codec(Protocol):
    """How a tier's values look in Valkey, and what they weigh in memory."""

    def decode(self, data: bytes) -> Any:
        """Return the value, immutable; raise UndecodableError for anything foreign, corrupt or too large."""
        ...

    def pack(self, data: bytes) -> bytes:
        """Return what is written to Valkey for the bytes of a value: these, or fewer that ``decode`` takes as well."""
        ...

    def size_bytes(self, value: Any) -> int:
        """Return the memory that ``value`` takes."""
        ...

    def cost(self, value: Any) -> float | None:
        """Return the dollars that ``value`` cost to make, None where that is not known."""
        ...

    def stored_at(self, value: Any) -> float:
        """Return when ``value`` was stored, in seconds since the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """The resolved rules of one tier of one cache.

    Attributes:
        groups_of: Where requests of several groups may share an entry: returns the groups of a value, which has the
            request's tags besides. None: an entry belongs to the groups of whoever asked for it.
        store_when: Tells from what a loader returned whether it is to be stored. None: it is.
        lease: Whether a load takes a lease in Valkey first.
        is_state: Whether the values are state and no copies of something: an unavailable Valkey is then no miss, but an
            error.
        max_value_bytes: Most bytes, before ``Codec.pack``, that a value may have to be kept. None: any.
        writes_behind: Whether an explicit store returns when it is queued.
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
        """Return the seconds that an entry lives for which nobody said anything, None for ever."""
        return resolve_ttl(self.ttl)

    def lifetime(self, *wishes: Ttl | None) -> float | None:
        """Return the seconds an entry lives in Valkey, None for ever: the first of ``wishes``, else the tier's."""
        return shorten(resolve_ttl(*wishes, self.ttl), self.jitter)

    def takes(self, data: bytes) -> bool:
        """Return whether ``data``, before ``Codec.pack``, are few enough bytes to be kept."""
        return self.max_value_bytes is None or len(data) <= self.max_value_bytes

    def check_size(self, data: bytes, name: str) -> None:
        """Refuse what ``takes`` says no to.

        Args:
            name: What to call the value in the error.

        Raises:
            UsageError: It names the size and the limit.
        """
        if not self.takes(data):
            raise UsageError(
                f"{name} is too large: {len(data)} bytes in Valkey, and TierOptions.max_value_bytes of the tier "
                f"{self.tier!r} is {self.max_value_bytes}"
            )
