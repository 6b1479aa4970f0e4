"""The options that the engine takes, one class a concern, as the caller made them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...options import CoherenceOptions, L1Options, ResilienceOptions, WriteOptions
from ..entries.overrides import Switches
from ..hooks.registry import HookRegistry
from ..memory.loaders import RunPlain

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The caller's options for one engine.

    Attributes:
        require_l2: Whether opening fails while Valkey is unavailable.
        run_plain: Calls every plain loader; None: see ``LoaderCalls``.
        hooks: The hooks, which the faces of a cache share.
        switches: The tiers and tools that are disabled at run time.
    """

    l1: L1Options = field(default_factory=L1Options)
    coherence: CoherenceOptions = field(default_factory=CoherenceOptions)
    writes: WriteOptions = field(default_factory=WriteOptions)
    resilience: ResilienceOptions = field(default_factory=ResilienceOptions)
    require_l2: bool = False
    run_plain: RunPlain | None = None
    hooks: HookRegistry = field(default_factory=HookRegistry)
    switches: Switches = field(default_factory=Switches)
