"""The settings of a cache: the options as the caller gave them, checked when they are given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeVar

from .clock import Clock
from .engine.entries.freshness import Freshness
from .errors import UsageError
from .options import (
    CoherenceOptions,
    ConnectionOptions,
    DiscoveryOptions,
    L1Options,
    ResilienceOptions,
    TelemetryOptions,
    WriteOptions,
)
from .pricing.prices import ModelPrice
from .stores.valkey.settings import Client
from .text import shown
from .tier_options import LlmOptions, SessionOptions, TierOptions
from .ttl import Ttl, check_ttl

__all__ = ["CacheSettings", "checked", "freshness_of", "llm_options", "session_options", "tier_options"]

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The options of one cache as its caller gave them; see ``AgentCache``. None takes the defaults."""

    name: str
    default_ttl: Ttl | None
    llm: LlmOptions | TierOptions | None
    tool: TierOptions | None
    session: SessionOptions | TierOptions | None
    kv: TierOptions | None
    l1: L1Options | None
    coherence: CoherenceOptions | None
    connection: ConnectionOptions | None
    writes: WriteOptions | None
    resilience: ResilienceOptions | None
    telemetry: TelemetryOptions | None
    discovery: DiscoveryOptions | None
    prices: Mapping[str, ModelPrice | tuple[float, float]] | None
    use_default_prices: bool
    require_l2: bool
    clients: Mapping[str, Client | str] | None
    clock: Clock

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
            raise UsageError(f"name must be 1 to 128 of A-Z a-z 0-9 _ . - and not begin with '__', not {shown(name)}")
        if self.default_ttl is not None:
            check_ttl(self.default_ttl, "default_ttl")


def tier_options(options: TierOptions | None, name: str) -> TierOptions:
    """Return the options of the tier ``name``: ``options``, or the defaults.

    Raises:
        UsageError: ``options`` are of another kind.
    """
    options = checked(options, name, TierOptions)
    if isinstance(options, LlmOptions):
        raise UsageError(f"{name} must be a TierOptions, not a LlmOptions: ignore and key are the llm tier's alone")
    return options


def llm_options(options: TierOptions | None) -> LlmOptions:
    """Return the options of the llm tier, as ``tier_options`` does."""
    options = checked(options, "llm", TierOptions)
    if options.share:
        raise UsageError("llm has no share: an answer is text, and its blocks are copied for each caller")
    if isinstance(options, LlmOptions):
        return options
    return LlmOptions(**{name: getattr(options, name) for name in _fields(TierOptions)})


def session_options(options: SessionOptions | TierOptions | None) -> SessionOptions:
    """Return the options of the session tier, as ``tier_options`` does."""
    if isinstance(options, TierOptions):
        if options.scope is not None:
            raise UsageError("session must have no scope: the id of a thread names its owner")
        if options.on_error is not None:
            raise UsageError("session must have no on_error: sessions are state, and raise if Valkey is unavailable")
        is_of_llm = isinstance(options, LlmOptions) or options.threads or options.share
        if is_of_llm or options.jitter or options.store_when or options.admit or options.compress_above is not None:
            raise UsageError(
                "session must be a SessionOptions: a session has no jitter, store_when, admit, threads, "
                "compress_above, share, ignore and key"
            )
        # Options that a session takes too are taken from a TierOptions.
        common = set(_fields(SessionOptions)) & set(_fields(TierOptions))
        return SessionOptions(**{name: getattr(options, name) for name in common})
    return checked(options, "session", SessionOptions)


def checked(options: T | None, name: str, kind: type[T]) -> T:
    """Return ``options``, or the defaults of ``kind``.

    Raises:
        UsageError: ``options`` are of another kind.
    """
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise UsageError(f"{name} must be a {kind.__name__}, not {type(options).__name__}")
    return options


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


def freshness_of(options: TierOptions) -> Freshness | None:
    """Return how a tier with ``options`` serves expired values and remembers errors, or None if it does neither."""
    if not (options.stale_for or options.early_refresh or options.cache_errors):
        return None
    return Freshness(options.stale_for, options.retry_pause, options.early_refresh, options.cache_errors)
