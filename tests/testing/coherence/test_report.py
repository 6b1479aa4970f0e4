"""The report of a run."""

from __future__ import annotations

from tiercache.testing.coherence.checks import check_all
from tiercache.testing.coherence.history import Change, Fault, History, Load, Read, Sample
from tiercache.testing.coherence.report import stories_of, story_of, summary_of, title_of
from tiercache.testing.coherence.run import Outcome, RunSettings

HISTORY = History(
    [
        Load("b", "k", 100.0, 103.0, 1),
        Load("b", "other", 101.0, 101.1, 1),
        Fault(101.5, "bus killed"),
        Change("a", "k", 2, "kv.delete", 101.6, 101.7),
        *(Sample("k", 102.0 + step / 100, 1) for step in range(20)),
        Read("a", "k", 102.3, 102.4, 1, "l2", "kv.get_or_load"),
    ]
)
VIOLATIONS = check_all(HISTORY, 1.0)
OUTCOME = Outcome(RunSettings(fault="bus_kill", seed=7), HISTORY, VIOLATIONS, 100.0, (0.002, 0.018))


def test_report_shows_the_events_of_the_key_and_the_origin_of_its_version() -> None:
    (violation,) = (violation for violation in VIOLATIONS if violation.kind == "own")
    title, *lines = story_of(violation, HISTORY, 100.0).splitlines()
    assert "a read version 1 by kv.get_or_load from l2, 0.600 s after a's kv.delete of version 2" in title
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "b loads 1, until +3.0000",
        "a kv.delete of 2, acknowledged at +0.1000",
        "Valkey holds 1, 20 times",
        "a reads 1 by kv.get_or_load from l2, until +0.1000",
    ]
    assert lines[0].split()[0] == "0.0000"


def test_report_shortens_a_long_history_in_the_middle() -> None:
    history = History([Change("a", "k", 2, "kv.delete", 1.0, 1.1)])
    for step in range(1000):
        history.add(Read("a", "k", 1.2 + step / 1e6, 1.3, step % 2, "l1", "kv.get"))
    violation = check_all(history, 1.0)[-1]
    lines = story_of(violation, history, 0.0).splitlines()
    assert len(lines) < 70
    assert any("... " in line and "lines" in line for line in lines)


def test_report_shows_the_asked_number_of_histories_and_a_line_for_the_rest() -> None:
    long, short = stories_of(OUTCOME, 10), stories_of(OUTCOME, 0)
    assert "b loads 1" in long
    assert "b loads 1" not in short
    for shown in (long, short):
        assert "own: k:" in shown
        assert shown.count("l2: k:") == sum(violation.kind == "l2" for violation in VIOLATIONS)
        assert shown.endswith(
            "again: python -m tiercache.testing.coherence --fault bus_kill --seed 7 --runs 1 --seconds 4 "
            "--replicas 4 --processes 2 --tracking auto --max-staleness 1 --writes both --freshness turns"
        )


def test_report_has_a_line_for_a_run_and_for_a_fault() -> None:
    assert "seed 7" in title_of(OUTCOME)
    assert f"violations {len(VIOLATIONS)} (1 own, 20 l2)" in title_of(OUTCOME)
    (head, line) = summary_of([OUTCOME, OUTCOME]).splitlines()
    assert line.split() == ["bus_kill", "2", "2", "4", "2", str(2 * len(VIOLATIONS))]
    assert len(head.split()) == 6
