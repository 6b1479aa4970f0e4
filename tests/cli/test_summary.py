"""The summary: its arithmetic, and the sentences for inconsistent counts."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.cli.demo.messages import DemoSettings, Progress, decode, encode
from tiercache.cli.demo.summary import Summary, as_document, percentile, summarize
from tiercache.cli.demo.tally import OUTCOMES, Bucket, Tally

SETTINGS = DemoSettings(requests=10, workers=1, agents=2, seed=3, scale=0.5)


def tally() -> Tally:
    """Return a tally of ten answers: five from L1, one from L2, one coalesced, one waited for, two loaded."""
    return Tally(
        buckets={
            "l1": Bucket([0.001] * 5, [], 10.0, 500, 50, 0.5),
            "l2": Bucket([0.002], [], 2.0, 100, 10, 0.1),
            "coalesced": Bucket([1.0], [0.25], 2.0, 100, 10, 0.1),
            "waited": Bucket([0.004], [], 2.0, 100, 10, 0.1),
            "loader": Bucket([2.0, 3.0], [1.0, 1.5], 5.0, 200, 20, 0.2),
        },
        checked=10,
        wall_seconds=3.0,
    )


def summary() -> Summary:
    return summarize(SETTINGS, tally(), distinct_requests=2, endpoint_calls=2, pause=0.1)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([1, 2, 3, 4], 50, 2),
        ([1, 2, 3, 4, 5], 50, 3),
        (range(1, 101), 99, 99),
        (range(1, 102), 99, 100),
        (range(1, 1001), 99, 990),
        ([3, 1, 2], 100, 3),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], percent: int, expected: float | None) -> None:
    assert percentile(values, percent) == expected


@given(st.lists(st.floats(0, 1e3), min_size=1), st.integers(1, 100))
def test_percentile_is_the_smallest_value_with_enough_values_below(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= percent * len(values)
    assert 100 * sum(value < found for value in values) < percent * len(values)


def test_bill_without_a_cache_has_all_answers() -> None:
    without = summary().without_cache
    assert without.model_calls == 10
    assert (without.input_tokens, without.output_tokens) == (1000, 100)
    assert without.dollars == pytest.approx(1.0)
    assert without.agent_seconds == pytest.approx(21.0)
    assert without.wall_seconds == pytest.approx((21.0 + 10 * 0.1) / 2)


def test_bill_with_the_cache_has_the_loads_only() -> None:
    spent = summary().with_cache
    assert spent.model_calls == 2
    assert (spent.input_tokens, spent.output_tokens) == (200, 20)
    assert spent.dollars == pytest.approx(0.2)
    assert spent.agent_seconds == pytest.approx(6.011)
    assert spent.wall_seconds == 3.0


def test_document_has_the_savings() -> None:
    document = as_document(summary())
    assert document["saved"]["model_calls"] == 8
    assert document["saved"]["dollars"] == pytest.approx(0.8)
    assert document["hit_rate"] == pytest.approx(0.6)
    assert document["counts"] == {"l1": 5, "l2": 1, "coalesced": 1, "waited": 1, "loader": 2}
    assert document["latencies"]["l2"] == {"p50": 0.002, "p99": 0.002, "first_p50": None}
    assert document["latencies"]["loader"] == {"p50": 2.0, "p99": 3.0, "first_p50": 1.0}
    assert document["problems"] == []
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answers_wrong": 1}, "1 answers were not the answer"),
        ({"answers_checked": 9}, "9 answers were checked, 10 requests were planned"),
        ({"endpoint_calls": 3}, "the endpoint counted 3 calls, the workers 2 loads"),
        ({"distinct_requests": 3}, "the endpoint counted 2 calls, fewer than the 3 distinct requests"),
    ],
)
def test_summary_names_an_inconsistency(changes: dict[str, int], says: str) -> None:
    (problem,) = replace(summary(), **changes).problems()
    assert says in problem


def test_tally_adds_other_tallies() -> None:
    total = Tally()
    total.add(tally())
    total.add(Tally(wrong=1, checked=2, degraded=3, unpriced=4, wall_seconds=2.0))
    total.add(tally())
    assert (total.done, total.hits) == (20, 12)
    assert total.saved == pytest.approx(1.6)
    assert (total.checked, total.wrong, total.degraded, total.unpriced) == (22, 1, 3, 4)
    assert total.wall_seconds == 3.0
    assert total.buckets["loader"].first_parts == [1.0, 1.5, 1.0, 1.5]
    assert {outcome: len(total.buckets[outcome].latencies) for outcome in OUTCOMES} == {
        "l1": 10,
        "l2": 2,
        "coalesced": 2,
        "waited": 2,
        "loader": 4,
    }


def test_tally_is_the_same_after_encoding_and_decoding() -> None:
    progress = Progress(10, 7, 0.8, tally())
    assert decode(encode(progress), Progress) == progress
