"""What one worker counted, in a form that can be sent and added up."""

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["l1", "l2", "coalesced", "loader"]
"""How an answer came about: from a level, by joining a load another caller had begun, or by a load of its own."""

OUTCOMES: tuple[Outcome, ...] = ("l1", "l2", "coalesced", "loader")


@dataclass(slots=True)
class Bucket:
    """All answers of one outcome. Times in seconds, costs in dollars."""

    latencies: list[float] = field(default_factory=list)
    model_time: float = 0.0  # what the endpoint takes for these requests, each asked anew
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def add(self, other: "Bucket") -> None:
        """Take over everything that ``other`` holds."""
        self.latencies += other.latencies
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
    degraded: int = 0  # answered while Valkey could not be asked
    unpriced: int = 0  # without a cost, because the model has no price
    wall_seconds: float = 0.0  # from the word to go to the last answer, of the slowest worker

    def add(self, other: "Tally") -> None:
        """Take over everything that ``other`` holds."""
        for outcome in OUTCOMES:
            self.buckets[outcome].add(other.buckets[outcome])
        self.checked += other.checked
        self.wrong += other.wrong
        self.degraded += other.degraded
        self.unpriced += other.unpriced
        self.wall_seconds = max(self.wall_seconds, other.wall_seconds)

    @property
    def done(self) -> int:
        """Answers so far."""
        return sum(len(bucket.latencies) for bucket in self.buckets.values())

    @property
    def hits(self) -> int:
        """Answers found in one of the levels."""
        return len(self.buckets["l1"].latencies) + len(self.buckets["l2"].latencies)

    @property
    def saved(self) -> float:
        """Dollars of the answers for which no model was called."""
        return sum(bucket.cost for outcome, bucket in self.buckets.items() if outcome != "loader")
