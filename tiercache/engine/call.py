"""One call of a tier as the engine receives it: the key, the policy of the tier, the options of the call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ..errors import UsageError
from ..ttl import Ttl
from .entries.counters import TierCounters
from .entries.entry import Entry, Group
from .entries.policy import TierPolicy
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
    """

    value: Any
    data: bytes
    ttl: Ttl | None = None
    store: bool = True


LoadFunction: TypeAlias = Callable[[], Awaitable[Loaded]]


class Call(NamedTuple):
    """The subject and the options of one call.

    Attributes:
        policy: The policy of the tier.
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

    policy: TierPolicy
    key: str
    groups: tuple[Group, ...]
    counters: TierCounters
    ttl: Ttl | None = None
    indexes: tuple[str, ...] = ()
    fill: Callable[[Fence, Entry], Awaitable[None]] | None = None
    is_batched: bool = False
