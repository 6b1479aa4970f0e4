"""The result of the demo: one dataclass, the source of both the tables and the JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .messages import DemoSettings
from .tally import OUTCOMES, Bucket, Outcome, Tally


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that agents waited for the answers of one outcome, or None if there were no such answers.

    Attributes:
        first_p50: Until the first part; None also without streams.
        p50: Until the whole answer.
    """

    p50: float | None
    p99: float | None
    first_p50: float | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """The cost of the workload: model calls, tokens, dollars, and two times in seconds.

    Attributes:
        agent_seconds: The sum of the waits of all agents.
        wall_seconds: The time from the first request to the last answer.
    """

    model_calls: int
    input_tokens: int
    output_tokens: int
    dollars: float
    agent_seconds: float
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of one run. ``without_cache`` times are modelled, ``with_cache`` times are measured."""

    settings: DemoSettings
    requests: int
    distinct_requests: int
    counts: dict[Outcome, int]
    latencies: dict[Outcome, Latency]
    with_cache: Bill
    without_cache: Bill
    endpoint_calls: int
    answers_checked: int
    answers_wrong: int
    answers_degraded: int
    answers_unpriced: int

    @property
    def hit_rate(self) -> float:
        """Hits of L1 and L2, without waits, as a fraction of all answers, 0 to 1."""
        return (self.counts["l1"] + self.counts["l2"]) / self.requests

    def problems(self) -> list[str]:
        """Return a sentence for each inconsistency of the counts, or an empty list."""
        found = []
        if self.answers_wrong:
            found.append(f"{self.answers_wrong:,} answers were not the answer to their request")
        if self.answers_checked != self.settings.requests:
            found.append(
                f"{self.answers_checked:,} answers were checked, {self.settings.requests:,} requests were planned"
            )
        if self.endpoint_calls != self.counts["loader"]:
            found.append(
                f"the endpoint counted {self.endpoint_calls:,} calls, the workers {self.counts['loader']:,} loads"
            )
        if self.endpoint_calls < self.distinct_requests:
            found.append(
                f"the endpoint counted {self.endpoint_calls:,} calls, "
                f"fewer than the {self.distinct_requests:,} distinct requests"
            )
        return found


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that at least ``percent`` of ``values`` do not exceed (nearest rank), or None."""
    if not values:
        return None
    rank = -(-percent * len(values) // 100)  # rounded up, in integer arithmetic
    return sorted(values)[max(rank, 1) - 1]


def as_document(summary: Summary) -> dict[str, Any]:
    """Return the summary for ``--json``: all fields, and the numbers derived from them."""
    spent, full = asdict(summary.with_cache), asdict(summary.without_cache)
    return {
        **asdict(summary),
        "hit_rate": summary.hit_rate,
        "saved": {name: full[name] - spent[name] for name in full},
        "problems": summary.problems(),
    }


def summarize(
    settings: DemoSettings, tally: Tally, *, distinct_requests: int, endpoint_calls: int, pause: float
) -> Summary:
    """Return the summary of a run.

    Args:
        settings: The options of the run.
        tally: The sum of the tallies of all workers.
        distinct_requests: The number of different requests.
        endpoint_calls: The endpoint's own count.
        pause: Seconds between two requests of an agent; both wall times include the pauses.
    """
    everything = Bucket()
    for bucket in tally.buckets.values():
        everything.add(bucket)
    loaded = tally.buckets["loader"]
    at_once = min(settings.workers * settings.agents, settings.requests)
    # An even split over all agents. No real schedule is faster, so the table shows the smallest possible saving.
    modelled_wall = (everything.model_time + pause * tally.done) / at_once
    return Summary(
        settings=settings,
        requests=tally.done,
        distinct_requests=distinct_requests,
        counts={outcome: len(tally.buckets[outcome].latencies) for outcome in OUTCOMES},
        latencies={
            outcome: Latency(
                percentile(bucket.latencies, 50), percentile(bucket.latencies, 99), percentile(bucket.first_parts, 50)
            )
            for outcome, bucket in tally.buckets.items()
        },
        with_cache=Bill(
            model_calls=len(loaded.latencies),
            input_tokens=loaded.input_tokens,
            output_tokens=loaded.output_tokens,
            dollars=loaded.cost,
            agent_seconds=sum(everything.latencies),
            wall_seconds=tally.wall_seconds,
        ),
        without_cache=Bill(
            model_calls=tally.done,
            input_tokens=everything.input_tokens,
            output_tokens=everything.output_tokens,
            dollars=everything.cost,
            agent_seconds=everything.model_time,
            wall_seconds=modelled_wall,
        ),
        endpoint_calls=endpoint_calls,
        answers_checked=tally.checked,
        answers_wrong=tally.wrong,
        answers_degraded=tally.degraded,
        answers_unpriced=tally.unpriced,
    )
