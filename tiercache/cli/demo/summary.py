"""What the demo found out: one dataclass, from which the table and the JSON are both made."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .messages import DemoSettings
from .tally import OUTCOMES, Bucket, Outcome, Tally


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds an agent waited for an answer of one outcome; None where there was none."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Bill:
    """What the workload takes: model calls, tokens, dollars, and two times in seconds.

    ``agent_seconds`` is the waiting of all agents added up, ``wall_seconds`` the time from the first request to the
    last answer.
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
        """Answers from a level, as a part of all."""
        return (self.counts["l1"] + self.counts["l2"]) / self.requests

    def problems(self) -> list[str]:
        """Return in words what does not add up; nothing when all is well."""
        found = []
        if self.answers_wrong:
            found.append(f"{self.answers_wrong:,} answers were not the answer to the request that was asked")
        if self.answers_checked != self.settings.requests:
            found.append(
                f"{self.answers_checked:,} answers were checked, {self.settings.requests:,} requests were planned"
            )
        if self.endpoint_calls != self.counts["loader"]:
            found.append(
                f"the endpoint counted {self.endpoint_calls:,} calls, the workers {self.counts['loader']:,} loads"
            )
        return found


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest of ``values`` that ``percent`` of them do not exceed (nearest rank), None for no values."""
    if not values:
        return None
    rank = -(-percent * len(values) // 100)  # rounded up, in integers
    return sorted(values)[max(rank, 1) - 1]


def as_document(summary: Summary) -> dict[str, Any]:
    """Return the summary for a machine: all fields, and what follows from them."""
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
        tally: The tallies of all workers, added up.
        distinct_requests: How many different requests were asked.
        endpoint_calls: The endpoint's own count.
        pause: Seconds between two requests of an agent; part of both wall times.
    """
    everything = Bucket()
    for bucket in tally.buckets.values():
        everything.add(bucket)
    loaded = tally.buckets["loader"]
    at_once = min(settings.workers * settings.agents, settings.requests)
    # Shared evenly by all agents, which no real schedule beats: the saving shown is the least there is.
    modelled_wall = (everything.model_time + pause * tally.done) / at_once
    return Summary(
        settings=settings,
        requests=tally.done,
        distinct_requests=distinct_requests,
        counts={outcome: len(tally.buckets[outcome].latencies) for outcome in OUTCOMES},
        latencies={
            outcome: Latency(percentile(bucket.latencies, 50), percentile(bucket.latencies, 99))
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
