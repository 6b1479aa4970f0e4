"""The rules of a tier: its name, its options as the engine needs them, and the form of its values in Valkey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from ...errors import UsageError
from ...log import CacheLog
from ...scopes import CallScopes, KeyScopes
from ...text import shown
from ...tier_options import Admission
from ...ttl import Ttl, resolve_ttl, shorten
from .counters import CounterBook
from .entry import Group
from .freshness import Freshness
from .overrides import Overrides

__all__ = ["Codec", "Decoded", "TierRules", "UndecodableError", "UnreadableHereError", "Value"]


class UndecodableError(ValueError):
    """Bytes in Valkey are not of the tier's form. The engine turns this error into a miss."""


class UnreadableHereError(UndecodableError):
    """Bytes in Valkey are unreadable for this process, which has other options or lacks a library.

    Other processes may be able to read them.
    """


class Value(Protocol):
    """The decoded form of a tier's value. Immutable: L1 hands the same object to every caller."""

    @property
    def size_bytes(self) -> int:
        """The memory that the value takes."""
        ...

    @property
    def cost(self) -> float | None:
        """The dollars that it cost to make the value, or None if that is not known."""
        ...

    @property
    def stored_at(self) -> float:
        """The time of the store, in seconds since the epoch; minus infinity if it is not known."""
        ...


class Decoded(NamedTuple):
    """The content of bytes in Valkey.

    Attributes:
        value: The decoded value.
        tags: The tags of the entry, each of which is in its index. May lack tags of an entry that has very many.
    """

    value: Any
    tags: tuple[str, ...]


class Codec(Protocol):
    """The form of a tier's values in Valkey."""

    def decode(self, data: bytes) -> Decoded:
        """Return the value and the tags in ``data``.

        Raises:
            UndecodableError: ``data`` is corrupt, too large, or not of this tier's form.
        """
        ...

    def pack(self, data: bytes, tags: tuple[str, ...] = ()) -> bytes:
        """Return the bytes to write to Valkey for a value's bytes, possibly compressed, and the entry's tags."""
        ...

    def tags_of(self, data: bytes) -> tuple[str, ...] | None:
        """Return the tags in ``data``, or None if the entry has more tags than are listed. Errors as for ``decode``."""
        ...

    def add_tags(self, data: bytes, tags: tuple[str, ...]) -> bytes:
        """Return the entry in ``data`` with ``tags`` in addition to its own. Errors as for ``decode``."""
        ...


@dataclass(frozen=True, slots=True)
class TierRules:
    """The rules of one tier of one cache, resolved from the options.

    Attributes:
        groups_of: For a tier whose requests of several groups may share an entry: returns the groups of a value, to
            which the request's tags are added. None: an entry has the groups of the call that read, loaded or stored
            it.
        store_when: Decides from a loader's result whether to store it. None: every result is stored.
        admit: Decides from an ``Admission`` whether an entry is stored. None: every entry is.
        streams_finish: Whether a load whose value arrives in parts goes on when its last reader has left.
        lease: Whether a load takes a lease in Valkey first.
        is_state: Whether the values are state, and not copies of data that can be loaded again. An unavailable Valkey
            is then an error, and not a miss.
        max_value_bytes: Most bytes, before ``Codec.pack``, of a value that is stored. None sets no limit.
        threads: Whether plain loaders run in threads.
        shared: Returns the form of a value in which every caller gets the same object. None: each gets its own.
        writes_behind: Whether an explicit store returns when its write is queued.
        scopes: The components of the keys of this tier.
        freshness: How the tier serves expired values and remembers errors, or None if it does neither.
        on_error: The answer to an unavailable Valkey: "degrade" swallows and counts the errors of stores, "raise"
            raises those of lookups and loads. None does neither.
        overrides: The options of the tier that were changed at run time. ``ttl`` is the option, without them.
        owner: The same object for the rules of this tier in both faces of the cache, and for no others.
    """

    tier: str
    codec: Codec
    ttl: Ttl | None
    l1: bool
    l1_ttl: float
    jitter: float
    finish_abandoned: bool
    streams_finish: bool = False
    lease: bool = True
    groups_of: Callable[[Any], tuple[Group, ...]] | None = None
    store_when: Callable[[Any], bool] | None = None
    admit: Callable[[Admission], bool] | None = None
    is_state: bool = False
    max_value_bytes: int | None = None
    threads: bool = False
    shared: Callable[[Any], Any] | None = None
    writes_behind: bool = False
    freshness: Freshness | None = None
    counters: CounterBook = field(default_factory=CounterBook)
    scopes: KeyScopes = field(default_factory=lambda: KeyScopes(CallScopes()), repr=False, compare=False)
    on_error: Literal["degrade", "raise"] | None = None
    overrides: Overrides = field(default_factory=Overrides, repr=False, compare=False)
    owner: object = field(default_factory=object, repr=False, compare=False)

    @property
    def group(self) -> Group:
        """The group of all entries of this tier."""
        return Group("tier", self.tier)

    def default_lifetime(self) -> float | None:
        """Return the seconds that an entry lives without a TTL of its own, or None if it does not expire."""
        return resolve_ttl(self.overrides.ttl, self.ttl)

    def lifetime(self, *wishes: Ttl | None) -> float | None:
        """Return the seconds that an entry lives in Valkey, or None if it does not expire.

        The first of ``wishes`` that is not None decides, or else the tier's TTL. Jitter shortens the result.
        """
        return shorten(resolve_ttl(*wishes, self.ttl), self.jitter)

    def takes(self, data: bytes) -> bool:
        """Return whether ``data``, the bytes of a value before ``Codec.pack``, are few enough to be stored."""
        return self.max_value_bytes is None or len(data) <= self.max_value_bytes

    def admits(self, key: str, data: bytes, value: Value, log: CacheLog) -> bool:
        """Return whether ``admit`` lets the entry of ``key`` be stored.

        Args:
            data: As for ``takes``.
        """
        if self.admit is None:
            return True
        try:
            return bool(self.admit(Admission(key, len(data), self.tier, value.cost)))
        # The caller's function may raise any exception; the waiters get a loaded value in any case.
        except Exception as error:
            log.warn_once("TierOptions.admit raised, so the entry is not stored: %r", error)
            return False

    def check_admission(self, key: str, data: bytes, value: Value, log: CacheLog) -> None:
        """Refuse an explicit write that ``admit`` refuses. Arguments as for ``admits``.

        Raises:
            UsageError: The entry is refused; the message has its key and size.
        """
        if not self.admits(key, data, value, log):
            raise UsageError(
                f"TierOptions.admit of the tier {self.tier!r} refuses the entry of {shown(key)} ({len(data)} bytes)"
            )

    def check_size(self, data: bytes, name: str) -> None:
        """Refuse a value that is too large.

        Args:
            data: As for ``takes``.
            name: The name of the value in the error.

        Raises:
            UsageError: The value is too large; the message has its size and the limit.
        """
        # As ``takes``, without its call: every explicit store comes through here.
        if self.max_value_bytes is not None and len(data) > self.max_value_bytes:
            raise UsageError(
                f"{name} is too large: {len(data)} bytes in Valkey, and TierOptions.max_value_bytes of the tier "
                f"{self.tier!r} is {self.max_value_bytes}"
            )
