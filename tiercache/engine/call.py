"""One call of a tier as the engine receives it: the key, the rules of the tier, the options of the call."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ..clock import Clock
from ..errors import UsageError
from ..ttl import Ttl
from .entries.counters import TierCounters
from .entries.entry import ENTRY_OVERHEAD_BYTES, Entry, Group, shared_size
from .entries.rules import TierRules, Value
from .memory.fences import Fence

__all__ = ["Call", "LoadFunction", "Loaded", "Mode", "check_mode"]

Mode: TypeAlias = Literal["use", "refresh", "bypass", "only_cached", "store_only"]


_MODES: Final = frozenset({"use", "refresh", "bypass", "only_cached", "store_only"})


def check_mode(mode: object) -> None:
    """Refuse an unknown mode.

    Raises:
        UsageError: ``mode`` is unknown; the text lists the known modes.
    """
    if not isinstance(mode, str) or mode not in _MODES:
        raise UsageError(f"mode must be one of {', '.join(sorted(_MODES))}, not {mode!r}")


class Loaded(NamedTuple):
    """The result of a load.

    Attributes:
        value: The decoded value.
        data: The bytes for Valkey, before ``Codec.pack``.
        ttl: The lifetime that the loader chose; None leaves the choice to the call, the tier and the cache's default.
        store: False if the value goes to the waiters only and the cache must not store it.
        refusal: The reason why no store can take the value, or None. The waiters get the value all the same.
    """

    value: Any
    data: bytes
    ttl: Ttl | None = None
    store: bool = True
    refusal: Exception | None = None


LoadFunction: TypeAlias = Callable[[], Awaitable[Loaded]]


class Call(NamedTuple):
    """The subject and the options of one call.

    Attributes:
        rules: The rules of the tier.
        key: The key in Valkey.
        groups: The groups whose invalidation overtakes the call.
        counters: The counters that count the call.
        ttl: The lifetime that the call chose, or None.
        indexes: Keys of the indexes in Valkey that must list the entry: one index for each group except the tier's.
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
    indexes: tuple[str, ...] = ()
    fill: Callable[[Fence, Entry], Awaitable[None]] | None = None
    is_batched: bool = False

    def entry(self, value: Value, ttl: float | None, clock: Clock, *, since: float, began: float) -> Entry:
        """Return the L1 entry for ``value``.

        Args:
            ttl: Seconds that the value has left in Valkey from ``since`` on, or None for no expiry.
            since: Monotonic second at which ``ttl`` was known.
            began: Monotonic second at which the value is known to have been current.
        """
        rules = self.rules
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
        return Entry(
            value,
            deadline,
            began,
            expires_at,
            stored_at,
            self.groups if rules.groups_of is None else self._groups_of(value),
            # L1 never weighs an entry that it does not keep.
            shared_size(ENTRY_OVERHEAD_BYTES + len(self.key) + value.size_bytes) if rules.l1 else 0,
            0 if cost is None else round(cost * 1_000_000),
        )

    def _groups_of(self, value: Any) -> tuple[Group, ...]:
        """Return the groups of an entry that calls of several groups may share: the value's, and the call's tags."""
        assert self.rules.groups_of is not None
        return self.rules.groups_of(value) + tuple(group for group in self.groups if group.kind == "tag")
