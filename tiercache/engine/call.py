"""One call of a tier as the engine receives it: the key, the rules of the tier, the options of the call."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ..clock import Clock
from ..errors import UsageError
from ..text import shown
from ..ttl import Ttl, resolve_ttl
from .entries.counters import TierCounters
from .entries.entry import ENTRY_OVERHEAD_BYTES, Entry, Group, shared_size
from .entries.rules import TierRules, Value
from .memory.fences import Fence
from .memory.tag_table import tuple_size

__all__ = ["MODES", "Call", "LoadFunction", "Loaded", "Mode", "check_mode"]

Mode: TypeAlias = Literal["use", "refresh", "bypass", "only_cached", "store_only"]

MODES: Final = frozenset({"use", "refresh", "bypass", "only_cached", "store_only"})


def check_mode(mode: object) -> None:
    """Refuse an unknown mode.

    Raises:
        UsageError: ``mode`` is unknown; the text lists the known modes.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise UsageError(f"mode must be one of {', '.join(sorted(MODES))}, not {shown(mode)}")


class Loaded(NamedTuple):
    """The result of a load.

    Attributes:
        value: The decoded value.
        data: The bytes for Valkey, before ``Codec.pack``.
        ttl: The lifetime that the loader chose; None leaves the choice to the call, the tier and the cache's default.
        store: False if the value goes to the waiters only and the cache must not store it.
        refusal: The reason why no store can take the value, or None. The waiters get the value all the same.
        is_too_large: Whether the value is too large to be stored, and ``data`` is therefore not made. The tier has
            counted it.
    """

    value: Any
    data: bytes
    ttl: Ttl | None = None
    store: bool = True
    refusal: Exception | None = None
    is_too_large: bool = False


LoadFunction: TypeAlias = Callable[[], Awaitable[Loaded]]


class Call(NamedTuple):
    """The subject and the options of one call.

    Attributes:
        rules: The rules of the tier.
        key: The key in Valkey.
        groups: The groups of the entry without its tags.
        counters: The counters that count the call.
        ttl: The lifetime that the call chose, or None.
        tags: The tags of the call, as groups.
        indexes: Keys of the indexes in Valkey that must list the entry: one for each group except the tier's, and one
            for each of ``tags``, in the same order, at the end.
        fill: For tiers that store loaded values themselves (``Loaded.store`` is then False): stores the value, or
            raises the error that the waiters get instead of the value. None: the engine stores loaded values.
        is_batched: Whether the loader is a ``BatchLoader``, which collects loads and takes one slot of ``max_loads``
            for all of them.
    """

    rules: TierRules
    key: str
    groups: tuple[Group, ...]
    counters: TierCounters
    ttl: Ttl | None = None
    tags: tuple[Group, ...] = ()
    indexes: tuple[str, ...] = ()
    fill: Callable[[Fence, Entry], Awaitable[None]] | None = None
    is_batched: bool = False

    @property
    def all_groups(self) -> tuple[Group, ...]:
        """The groups whose invalidation overtakes the call."""
        return self.groups + self.tags if self.tags else self.groups

    @property
    def expected_ttl(self) -> float | None:
        """Seconds that the value will live unless its loader decides otherwise, or None for no expiry."""
        return resolve_ttl(self.ttl, self.rules.ttl)

    @property
    def tag_indexes(self) -> dict[Group, str]:
        """The keys of the indexes of ``tags``."""
        return dict(zip(self.tags, self.indexes[-len(self.tags) :], strict=True)) if self.tags else {}

    def entry(
        self,
        value: Value,
        ttl: float | None,
        clock: Clock,
        *,
        since: float,
        began: float,
        tags: tuple[Group, ...] = (),
    ) -> Entry:
        """Return the L1 entry for ``value``.

        Args:
            ttl: Seconds that the value has left in Valkey from ``since`` on, or None for no expiry.
            since: Monotonic second at which ``ttl`` was known.
            began: Monotonic second at which the value is known to have been current.
            tags: The tags of the entry.
        """
        rules = self.rules
        if rules.shared is not None:
            value = rules.shared(value)
        expires_at = deadline = math.inf if ttl is None else since + ttl
        if deadline > since + rules.l1_ttl:
            deadline = since + rules.l1_ttl
        now = clock.monotonic()
        age = clock.wall() - value.stored_at
        stored_at = now - age if age > 0.0 else now
        if 0.0 <= since - stored_at < 0.001:
            # Entries carry milliseconds. One float object in memory serves for both moments.
            stored_at = since
        cost = value.cost
        groups = self.groups if rules.groups_of is None else rules.groups_of(value)
        size_bytes = 0
        if tags:
            groups += tags
            size_bytes = tuple_size(groups)
        if rules.l1:
            # L1 never weighs an entry that it does not keep.
            size_bytes = shared_size(size_bytes + ENTRY_OVERHEAD_BYTES + len(self.key) + value.size_bytes)
        entry = Entry(
            value,
            deadline,
            began,
            expires_at,
            stored_at,
            groups,
            size_bytes,
            0 if cost is None else round(cost * 1_000_000),
        )
        # The load took from ``began`` to ``since``; of a value that was read or given both are one moment.
        return entry if rules.freshness is None else rules.freshness.keep(entry, since - began)
