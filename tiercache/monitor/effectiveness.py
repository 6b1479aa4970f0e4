"""How well caching pays for each tool, and what the Monitor would recommend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .statistics import CacheStats

__all__ = ["Recommendation", "ToolEffectiveness", "rate"]

Recommendation: TypeAlias = Literal["increase_ttl", "optimal", "decrease_ttl_or_disable"]

# The Monitor's thresholds: a hit rate above the one is high, below the other low; a lifetime under an hour is short.
_HIGH: Final = 0.8
_LOW: Final = 0.4
_SHORT_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class ToolEffectiveness:
    """How well caching pays for one tool.

    Attributes:
        tool: Its name.
        hit_rate: Fraction of its lookups that were hits, 0 to 1.
        cost_saved: Dollars.
        recommendation: What to do about its lifetime.
    """

    tool: str
    hit_rate: float
    cost_saved: float
    recommendation: Recommendation


def rate(stats: CacheStats, ttl_of: Callable[[str], float | None], min_samples: int) -> list[ToolEffectiveness]:
    """Return the verdict on each tool that was asked for ``min_samples`` times, most dollars saved first.

    Args:
        ttl_of: The lifetime in force for a tool, None for no expiry.
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
