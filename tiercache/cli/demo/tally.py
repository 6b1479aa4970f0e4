"""The counts of one worker, in a form that can be sent to the parent and added up."""

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["l1", "l2", "coalesced", "waited", "loader"]
"""The source of an answer: a level, the load of another caller in this or in another process, or the caller's own load.
"""

OUTCOMES: tuple[Outcome, ...] = ("l1", "l2", "coalesced", "waited", "loader")


@dataclass(slots=True)
class Bucket:
    """All answers of one outcome. Times in seconds, costs in dollars."""

    latencies: list[float] = field(default_factory=list)
    first_parts: list[float] = field(default_factory=list)  # of streams: the times until the first part
    model_time: float = 0.0  # the endpoint's latencies for these requests, each loaded separately
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def add(self, other: "Bucket") -> None:
        """Add the counts of ``other``."""
        self.latencies += other.latencies
        self.first_parts += other.first_parts
        self.model_time += other.model_time
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost


@dataclass(slots=True)
class Tally:
    """All answers of one worker, or of several added up."""

    buckets: dict[Outcome, Bucket] = field(default_factory=lambda: {outcome: Bucket() for outcome in OUTCOMES})
    checked: int = 0
    wrong: int = 0
    degraded: int = 0  # answered while Valkey was unavailable
    unpriced: int = 0  # without a cost, because the model has no price
    wall_seconds: float = 0.0  # from ``GO`` to the last answer, of the slowest worker

    def add(self, other: "Tally") -> None:
        """Add the counts of ``other``."""
        for outcome in OUTCOMES:
            self.buckets[outcome].add(other.buckets[outcome])
        self.checked += other.checked
        self.wrong += other.wrong
        self.degraded += other.degraded
        self.unpriced += other.unpriced
        self.wall_seconds = max(self.wall_seconds, other.wall_seconds)

    @property
    def done(self) -> int:
        """The number of answers up to now."""
        return sum(len(bucket.latencies) for bucket in self.buckets.values())

    @property
    def hits(self) -> int:
        """The number of answers that L1 and L2 had, without those that the caller waited for."""
        return len(self.buckets["l1"].latencies) + len(self.buckets["l2"].latencies)

    @property
    def saved(self) -> float:
        """The dollars of the answers that needed no model call."""
        return sum(bucket.cost for outcome, bucket in self.buckets.items() if outcome != "loader")
