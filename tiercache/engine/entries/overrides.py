"""Overrides: the options of tiers that a program changes while its processes run, and the tiers that it disables.

The engine asks ``Switches`` where a call has missed L1. A hit asks nothing: the entries of a disabled tier leave L1
when this process learns of the change, and from then on L1 keeps no entry of the tier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .entry import Group

__all__ = ["Overrides", "Switches"]


@dataclass(slots=True)
class Overrides:
    """The options of one tier that were changed at run time. The faces of a cache share the object.

    Attributes:
        ttl: Seconds, before the tier's option; None leaves the option.
        stale_for: Seconds, before the tier's option; None leaves the option.
        stale_for_of_tools: The same for single tools, before ``stale_for``. Any thread may replace the mapping.
    """

    ttl: float | None = None
    stale_for: float | None = None
    stale_for_of_tools: Mapping[str, float] = field(default_factory=dict)

    def stale_for_of(self, groups: Sequence[Group]) -> float | None:
        """Return the ``stale_for`` of an entry with these groups, or None for the option of the tier."""
        tools = self.stale_for_of_tools
        if tools:
            for group in groups:
                if group.kind == "tool" and group.value in tools:
                    return tools[group.value]
        return self.stale_for


class Switches:
    """The tiers and tools that are disabled at run time. The faces of a cache share the object.

    Attributes:
        off: The groups of the disabled entries. Any thread may replace the set.
    """

    __slots__ = ("off",)

    def __init__(self) -> None:
        self.off: frozenset[Group] = frozenset()

    def are_off(self, groups: Sequence[Group]) -> bool:
        """Return whether the tier or the tool of an entry with these groups is disabled."""
        off = self.off
        return bool(off) and any(group in off for group in groups)
