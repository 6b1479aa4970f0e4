"""The results of the benchmarks: ratios over rounds, the comparison with a stored run, tables, and blocks of a page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import baseline, pages
from benchmarks.__main__ import main
from benchmarks.driver import Driver
from benchmarks.goals import goals
from benchmarks.results import Case, Ratio, Results
from benchmarks.tables import duration, goal_table, markdown, work_tables
from benchmarks.timing import Budget, Clock, Measured, sample
from benchmarks.works import WORKS
from tests.seams import results_of_driver

SHORT_L1 = "l1-hit/short-1 as fast as betterdb"


def results(**rounds: list[list[float]]) -> Results:
    """Return a run of the short L1 hit, from the seconds of each round by peer."""
    run = Results({"date": "2026-01-01"})
    for peer, values in rounds.items():
        for each in values:
            case = Case("l1-hit", "short-1", peer)
            run.add({peer: Measured(list(each), list(each), 1)}, case)
    return run


def test_ratio_is_median_of_quotients_of_rounds() -> None:
    run = results(tiercache=[[1.0, 1.0, 9.0], [2.0], [1.0]], betterdb=[[10.0], [10.0], [12.0]])
    ratio = run.speed("l1-hit", "short-1", "betterdb")
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == (10.0, 5.0, 12.0)


def test_ratio_is_none_without_measurement() -> None:
    assert results(tiercache=[[1.0]]).speed("l1-hit", "short-1", "betterdb") is None


def test_results_leave_out_failed_case_and_name_it() -> None:
    run = results(tiercache=[[1.0]], betterdb=[[2.0]])
    run.fail(Case("l1-hit", "short-1", "betterdb"), "a wrong answer")
    assert run.peers("l1-hit", "short-1") == ["tiercache"]
    assert "Left out: l1-hit/short-1/betterdb (a wrong answer)." in markdown(run)


@pytest.mark.parametrize(("now", "passes"), [(74.0, False), (76.0, True), (75.0, True), (200.0, True)])
def test_comparison_fails_when_ratio_drops_by_over_a_quarter(now: float, passes: bool) -> None:
    compared = baseline.compare({"a": 100.0, "b": 1.0}, {"a": now, "b": 1.0})
    assert compared.passes(complete=True) is passes
    assert list(compared.dropped) == ([] if passes else ["a"])
    assert ("DROPPED  a: 100 -> " in compared.report()) is not passes


def test_comparison_of_complete_run_fails_when_row_is_missing() -> None:
    compared = baseline.compare({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})
    assert compared.missing == ("b",)
    assert "missing  b" in compared.report()
    assert "missing" not in compared.report(complete=False)
    assert compared.passes(complete=False)
    assert not compared.passes(complete=True)


def test_comparison_fails_without_rows() -> None:
    assert not baseline.compare({"a": 1.0}, {}).passes(complete=False)


def test_baseline_is_loaded_as_saved(tmp_path: Path) -> None:
    run = results(tiercache=[[1.0]], betterdb=[[160.0]])
    baseline.save(run, tmp_path / "baseline.json")
    assert baseline.load(tmp_path / "baseline.json") == {SHORT_L1: 160.0}


def test_results_are_loaded_as_saved(tmp_path: Path) -> None:
    run = results(tiercache=[[1.0, 2.0], [3.0]], betterdb=[[10.0], [20.0]])
    run.add({"tiercache": Measured([5.0], [1.0], 7, {"loader_calls": 1})}, Case("stampede", "1000", "tiercache"))
    run.fail(Case("l1-hit", "chat-1", "betterdb"), "a wrong answer")
    run.save(tmp_path / "run.json")
    assert Results.load(tmp_path / "run.json") == run


def test_baseline_inverts_ratio_of_upper_limit() -> None:
    run = Results()
    for seconds in ((0.060,), (0.120,)):
        run.rounds.clear()
        run.add({"tiercache": Measured(list(seconds), [1.0], 1, {"loader_calls": 1})}, Case("stampede", "1000", ""))
        stored = baseline.ratios(run)["1,000 identical misses, one process, time of the loader"]
        assert stored == pytest.approx(0.05 / seconds[0])


def test_pooled_results_pair_rounds_of_each_run() -> None:
    one = results(tiercache=[[1.0], [1.0]], betterdb=[[10.0], [20.0]])
    other = results(tiercache=[[2.0]], betterdb=[[60.0]], handmade=[[4.0]])
    one.machine["runs"] = other.machine["runs"] = "1"
    other.machine["date"] = "2026-01-02"
    pooled = Results.pooled([one, other])
    assert pooled.speed("l1-hit", "short-1", "betterdb") == Ratio(20.0, 10.0, 30.0)
    assert pooled.speed("l1-hit", "short-1", "handmade") == Ratio(2.0, 2.0, 2.0)
    assert "3 rounds of 2 runs taken together, 2026-01-01 to 2026-01-02." in markdown(pooled)
    assert one.rounds[Case("l1-hit", "short-1", "betterdb")][0].round == 0


def test_pooled_results_leave_out_case_that_failed_in_one_run() -> None:
    one, other = (results(tiercache=[[1.0]], betterdb=[[10.0]]) for _ in range(2))
    other.fail(Case("l1-hit", "short-1", "betterdb"), "a wrong answer")
    pooled = Results.pooled([one, other])
    assert pooled.peers("l1-hit", "short-1") == ["tiercache"]
    assert "Left out: l1-hit/short-1/betterdb (a wrong answer)." in markdown(pooled)


def test_pooled_results_refuse_runs_of_different_machines() -> None:
    one, other = results(tiercache=[[1.0]]), results(tiercache=[[1.0]])
    other.machine["cpu_count"] = "64"
    with pytest.raises(ValueError, match="cpu_count"):
        Results.pooled([one, other])


def test_command_shows_and_compares_pooled_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{number}.json") for number in range(2)]
    for file, seconds in zip(files, (100.0, 200.0), strict=True):
        results(tiercache=[[1.0]], betterdb=[[seconds]]).save(Path(file))
    stored = tmp_path / "baseline.json"
    assert _command(monkeypatch, "--show", *files, "--save-baseline", str(stored)) == 0
    assert baseline.load(stored) == {SHORT_L1: 150.0}
    assert "| at least 150x | 150x (100-200) | yes |" in capsys.readouterr().out
    assert _command(monkeypatch, "--show", *files, "--compare", str(stored)) == 0
    assert _command(monkeypatch, "--show", files[0], "--compare", str(stored)) == 1
    assert f"DROPPED  {SHORT_L1}: 150 -> 100" in capsys.readouterr().err


def test_command_keeps_measurements_of_interrupted_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupted(driver: Driver, after_round: object) -> None:
        results_of_driver(driver).add({"floor": Measured([1.0], [1.0], 1)}, Case("l1-hit", "short-1", "floor"), 0)
        raise KeyboardInterrupt

    monkeypatch.setattr(Driver, "run", interrupted)
    output = tmp_path / "run.json"
    assert _command(monkeypatch, "--peers", "floor", "--output", str(output)) == 130
    run = Results.load(output)
    assert run.peers("l1-hit", "short-1") == ["floor"]
    assert run.machine["stopped"] == "1"


def _command(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *args])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return main()


def test_goal_of_single_caller_in_l2_shows_ratio_by_cpu_time() -> None:
    run = Results()
    for peer, wall, cpu in (("tiercache", 1.0, 0.5), ("betterdb", 5.0, 4.0)):
        run.add({peer: Measured([wall], [cpu], 1)}, Case("l2-hit", "short-1", peer))
    (goal,) = goals(run)
    assert not goal.is_met
    assert "| 5x (5-5) | **no** | 8x (8-8) |" in goal_table(run)


def test_goal_is_met_at_its_limit() -> None:
    for seconds, is_met in ((149.0, False), (150.0, True)):
        (goal,) = goals(results(tiercache=[[1.0]], betterdb=[[seconds]]))
        assert goal.is_met is is_met
        assert ("| **no** |" in goal_table(results(tiercache=[[1.0]], betterdb=[[seconds]]))) is not is_met


def test_table_has_row_ratio_and_mark_for_each_peer() -> None:
    pytest.importorskip("betterdb_agent_cache")
    text = work_tables(results(tiercache=[[2e-6]], betterdb=[[2e-4]]), WORKS["l1-hit"])
    assert text.splitlines()[-4:] == [
        "| short request | 1 caller |",
        "| --- | --: |",
        "| **tiercache** | **2 µs** |",
        "| betterdb-agent-cache | 200 µs (100x) [1] |",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.01234, "12.3 ms"), (0.0001234, "123 µs"), (1.5e-7, "150 ns")]
)
def test_duration_has_three_digits_and_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_page_block_is_replaced_and_rest_is_kept() -> None:
    run = results(tiercache=[[1.0]], betterdb=[[150.0]])
    page = "before\n<!-- benchmark: goals -->\nold\n<!-- end -->\nafter\n<!-- benchmark: uvloop -->\nx\n<!-- end -->\n"
    once = pages.filled(page, run)
    assert "old" not in once
    assert "at least 150x" in once
    assert once.startswith("before\n")
    assert "\nafter\n" in once
    assert pages.filled(once, run) == once


def _marks(page: Path) -> list[str]:
    return re.findall(r"<!-- benchmark: ([a-z-]+) -->", page.read_text("utf-8"))


def test_page_has_a_mark_for_every_figure_and_every_figure_has_a_page() -> None:
    marks = {page: _marks(page) for page in pages.PAGES}
    assert all(marks.values())
    assert {name for names in marks.values() for name in names} == set(pages.BLOCKS)


def test_goals_of_wrapped_clients_compare_with_bare_sdk() -> None:
    run = Results()
    figures = (("wrapped-hit", "l1-whole", 0.0012, 0.001), ("wrapped-hit", "l1-stream", 0.007, 0.005))
    for work, variant, ours, bare in (*figures, ("wrapped-first-part", "first", 0.0105, 0.01)):
        pair = {"tiercache": Measured([ours], [ours], 1), "sdk": Measured([bare], [bare], 1)}
        run.add(pair, Case(work, variant, "tiercache"))
    run.add({"tiercache": Measured([0.02, 0.2, 0.3], [], 1)}, Case("wrapped-follow", "delay", "tiercache"))
    found = [(round(goal.figure.value, 6), goal.limit, goal.is_met) for goal in goals(run)]
    assert found == [(1.2, 1.3, True), (1.4, 1.3, False), (0.5, 1, True), (200.0, 100, False)]


def test_page_names_the_number_of_missed_goals() -> None:
    goals_page = next(page for page in pages.PAGES if page.name == "GOALS.md").read_text("utf-8")
    performance = next(page for page in pages.PAGES if page.name == "performance.md").read_text("utf-8")
    met, missed = (len(re.findall(rf"^\|.*\| {word} \|", goals_page, re.MULTILINE)) for word in ("yes", r"\*\*no\*\*"))
    assert met + missed > 0
    assert f"tiercache met {met} of {met + missed} goals and missed {missed}" in goals_page
    assert f"## Why {missed} goals are missed" in goals_page
    assert f"Of {met + missed} goals, tiercache meets {met} and misses {missed}" in performance


async def test_sample_finds_loops_that_fill_its_time() -> None:
    done: list[int] = []

    async def body(loops: int) -> tuple[Clock, int]:
        done.append(loops)
        clock = Clock()
        clock.wall = clock.cpu = loops * 0.001
        return clock, loops

    measured = await sample(body, Budget(values=3, min_seconds=0.05), 0)
    assert measured.wall == pytest.approx([0.001] * 3)
    assert measured.loops * 0.001 >= 0.025
    done.clear()
    await sample(body, Budget(values=3, min_seconds=0.05), 7)
    assert done == [7, 7, 7, 7]


async def test_sample_ends_when_values_together_take_long() -> None:
    async def body(loops: int) -> tuple[Clock, int]:
        clock = Clock()
        clock.wall = 0.15
        return clock, loops

    assert (await sample(body, Budget(values=3, min_seconds=0.05), 0)).wall == [0.15, 0.15]


async def test_sample_takes_slow_value_once() -> None:
    async def body(loops: int) -> tuple[Clock, int]:
        clock = Clock()
        clock.wall = 3.0
        return clock, loops

    assert (await sample(body, Budget(values=3, min_seconds=0.05), 0)).wall == [3.0]
