"""One call of a tier, as the engine takes it: the key, the rules of its tier, the options of the call."""

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
        UsageError: It names the modes there are.
    """
    if not isinstance(mode, str) or mode not in _MODES:
        raise UsageError(f"mode must be one of {', '.join(sorted(_MODES))}, not {mode!r}")


class Loaded(NamedTuple):
    """What a load brought.

    Attributes:
        value: The decoded form.
        data: The bytes for Valkey, before ``Codec.pack``.
        ttl: The loader's own wish; None leaves it to the call, the tier and the default.
        store: False to hand the value out and keep it nowhere.
    """

    value: Any
    data: bytes
    ttl: Ttl | None = None
    store: bool = True


LoadFunction: TypeAlias = Callable[[], Awaitable[Loaded]]


class Call(NamedTuple):
    """What one call is about.

    Attributes:
        policy: The rules of its tier.
        key: The key in Valkey.
        groups: The groups whose invalidation overtakes the call.
        counters: Where the call is counted.
        ttl: The call's own wish for a lifetime.
        indexes: Keys of the indexes in Valkey that the entry belongs in: one for each group but the tier's.
        fill: Where the tier itself stores what was loaded (``Loaded.store`` is False then): does so, or raises what the
            waiters get in place of the value.
        is_batched: Whether the loader collects loads, and takes one turn for all of them: ``BatchLoader``.
    """

    policy: TierPolicy
    key: str
    groups: tuple[Group, ...]
    counters: TierCounters
    ttl: Ttl | None = None
    indexes: tuple[str, ...] = ()
    fill: Callable[[Fence, Entry], Awaitable[None]] | None = None
    is_batched: bool = False
