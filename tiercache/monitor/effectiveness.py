"""The effectiveness of caching for each tool, and the Monitor's recommendation for the tool's lifetime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .statistics import CacheStats

__all__ = ["Recommendation", "ToolEffectiveness", "rate"]

Recommendation: TypeAlias = Literal["increase_ttl", "optimal", "decrease_ttl_or_disable"]

# The Monitor's thresholds: hit rates above _HIGH are high, hit rates below _LOW are low, lifetimes under an hour short.
_HIGH: Final = 0.8
_LOW: Final = 0.4
_SHORT_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class ToolEffectiveness:
    """The effectiveness of caching for one tool.

    Attributes:
        tool: The tool's name.
        hit_rate: Fraction of the tool's lookups that were hits, 0 to 1.
        cost_saved: Dollars.
        recommendation: The proposed change of the tool's lifetime.
    """

    tool: str
    hit_rate: float
    cost_saved: float
    recommendation: Recommendation


def rate(stats: CacheStats, ttl_of: Callable[[str], float | None], min_samples: int) -> list[ToolEffectiveness]:
    """Return the effectiveness of each tool with at least ``min_samples`` lookups, most dollars saved first.

    Args:
        ttl_of: Returns the present lifetime of a tool's results, or None if they do not expire.
    """
    verdicts = [
        ToolEffectiveness(
            tool, counts.hit_rate, counts.cost_saved_micros / 1_000_000, _recommend(counts.hit_rate, ttl_of(tool))
        )
        for tool, counts in stats.per_tool.items()
        if counts.total >= min_samples
    ]
    return sorted(verdicts, key=lambda verdict: verdict.cost_saved, reverse=True)


def _recommend(hit_rate: float, ttl: float | None) -> Recommendation:
    if hit_rate > _HIGH:
        return "increase_ttl" if ttl is not None and ttl < _SHORT_SECONDS else "optimal"
    return "optimal" if hit_rate >= _LOW else "decrease_ttl_or_disable"
