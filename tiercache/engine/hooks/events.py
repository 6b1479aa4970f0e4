"""The events of a cache: one frozen record for each kind. A hook gets the record as its one argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ErrorEvent", "HitEvent", "InvalidateEvent", "LoadEvent", "StoreEvent"]


@dataclass(frozen=True, slots=True)
class HitEvent:
    """A lookup has found an entry. Each caller makes one event, also the callers that shared one read of Valkey.

    Attributes:
        tier: "llm", "tool", "session", or the name of a kv tier.
        key: The key in Valkey.
        source: "l1", "l2", "pin" for a pinned answer, or "stale" for an entry that Valkey could not confirm.
        age: Seconds since the store, or None if the time of the store is not known.
        cost: Dollars that the hit saved, or None if the cost of the entry is not known.
        model: The model of an llm entry, else None.
        tool: The tool of a tool entry, else None.
    """

    tier: str
    key: str
    source: Literal["l1", "l2", "stale", "pin"]
    age: float | None = None
    cost: float | None = None
    model: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class LoadEvent:
    """A call of a loader has ended.

    Attributes:
        tier, key, model, tool: As for ``HitEvent``.
        seconds: The duration of the call, with the wait for a slot of ``ResilienceOptions.max_loads``. A loader of
            many keys makes one event for each key, all with the seconds of the one call.
        waiter_count: Callers that waited for the value when the call ended; 0 if all of them had left.
        error: The exception that the loader raised, or None.
    """

    tier: str
    key: str
    seconds: float
    waiter_count: int = 1
    error: Exception | None = None
    model: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class StoreEvent:
    """Valkey has stored a value. In a cache without a Valkey: process memory has.

    Attributes:
        tier, key, model, tool: As for ``HitEvent``.
        size_bytes: Bytes of the value as it was stored; of a compressed value, its compressed size. None for a session
            field that ``append`` or ``incr`` changed.
        ttl: Seconds that the value lives, or None for no expiry, and for a session field that keeps its window.
        is_load: Whether a loader made the value. Otherwise the program stored it.
    """

    tier: str
    key: str
    size_bytes: int | None
    ttl: float | None = None
    is_load: bool = False
    model: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class InvalidateEvent:
    """Entries have been removed.

    Attributes:
        kind: "key" for one entry; "matching" for the keys that match a pattern; else the group: "tag", "model",
            "tool", "thread", "tier", or "tiers" for all kv tiers at once.
        value: The key or the pattern in Valkey, or the name of the group.
        count: Entries that were removed. From elsewhere: the entries that L1 of this process dropped.
        origin: "here" for a call of this program. "elsewhere" for a change that the other face of the cache, another
            process or other software made: an entry in L1 of this process was removed or replaced there.
    """

    kind: str
    value: str
    count: int
    origin: Literal["here", "elsewhere"] = "here"


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An operation has failed.

    Attributes:
        operation: The operation that raised, such as "llm.store". "l2.read", "l2.fill" or "l2.store" for a read, a
            write of a loaded value, or a write behind that Valkey did not answer or refused. No caller gets these three
            errors, except that a read of session state raises too.
        error: The exception.
    """

    operation: str
    error: Exception
