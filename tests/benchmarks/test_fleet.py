"""The benchmark of fleets: the shape of its results, the wrong answers that it notices, the end of its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import valkey

from benchmarks.fleet import changes, pages, throughput
from benchmarks.fleet.__main__ import main
from benchmarks.fleet.callers import HOT, level_of, windows
from benchmarks.fleet.member import Members
from benchmarks.fleet.plan import TRACKING, Plan, turned
from benchmarks.peers import Endpoint
from benchmarks.process import CaseFailedError, Process
from benchmarks.results import Case, Results
from benchmarks.server import running_valkey
from benchmarks.timing import Measured
from tests.child_processes import PROC, process_table, python_with_default_signals, wait_until
from tiercache import CoherenceOptions

TINY = Plan(
    rounds=1,
    processes=(2,),
    callers=(1, 4),
    stored=400,
    values=1,
    seconds=0.03,
    followers=(4,),
    changes=10,
    rest_seconds=0.05,
)
MEMBERS = "benchmarks.fleet.followers"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with running_valkey() as (endpoint, _):
        yield endpoint


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Return the command with a tiny plan for ``--quick``; it writes ``run.json``."""
    monkeypatch.setattr("benchmarks.fleet.__main__.QUICK", TINY)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return lambda *args: main(["--quick", "--output", str(tmp_path / "run.json"), *args])


def test_fleet_results_have_every_figure_of_every_case(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    run = Results.load(tmp_path / "run.json")
    cases = {throughput.case_of(2, callers, peer) for callers in TINY.callers for peer in TINY.peers}
    cases |= {changes.case_of(change, tracking, 4) for change in changes.CHANGES for tracking in TRACKING}
    assert set(run.rounds) == cases | {changes.floor_case(4)}
    assert not run.failed
    assert run.machine["stopped"] == "0"
    for case, rounds in run.rounds.items():
        values = [getattr(each, clock) for each in rounds for clock in ("wall", "cpu", "server")]
        assert all(len(each) == 1 and each[0] > 0 for each in values), case
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "run.md").read_text() + "\n"
    assert "| 2 processes, 4 callers each | **" in printed
    assert all(f'| {change}, `"{TRACKING[0]}"` | ' in printed for change in ("load", "store", "invalidation"))
    assert "| floor: DEL and 3 messages | " in printed


def test_fleet_command_fails_when_answers_of_a_cache_are_wrong(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = throughput.opened

    @contextlib.contextmanager
    def opened_and_changed(plan: Plan, endpoint: Endpoint, peer: str, processes: int) -> Iterator[Members]:
        with opened(plan, endpoint, peer, processes) as members:
            if peer == "handmade":
                _give_every_key_one_value(endpoint)
            yield members

    monkeypatch.setattr(throughput, "opened", opened_and_changed)
    monkeypatch.setattr("benchmarks.fleet.__main__.QUICK", replace(TINY, peers=("tiercache", "handmade")))
    assert command("--parts", "throughput") == 1
    run = Results.load(tmp_path / "run.json")
    assert set(run.failed) == {throughput.case_of(2, callers, "handmade").name for callers in TINY.callers}
    assert all("answered Answer" in reason for reason in run.failed.values())
    assert {case.peer for case in run.rounds} == {"tiercache"}


def _give_every_key_one_value(endpoint: Endpoint) -> None:
    with valkey.Valkey.from_url(endpoint.url) as client:
        keys = client.keys()
        client.mset(dict.fromkeys(keys, client.get(keys[0])))


def test_fleet_notices_follower_that_answers_removed_keys(endpoint: Endpoint) -> None:
    with changes.opened(endpoint, TRACKING[0], 4) as fleet:
        fleet.prepare("invalidate", 5)
        with pytest.raises(CaseFailedError, match="still answers 5 keys that were removed"):
            fleet.check("invalidate", 5)
        fleet.writer.ask_first("invalidate", first=0, count=5)
        fleet.check("invalidate", 5)
        with pytest.raises(CaseFailedError, match="there was no invalidate-0 to remove"):
            fleet.writer.ask_first("invalidate", first=0, count=5)


def test_fleet_notices_wrong_value_of_a_follower(endpoint: Endpoint) -> None:
    with changes.opened(endpoint, TRACKING[0], 2) as fleet:
        fleet.writer.ask_first("load", first=0, count=12)
        fleet.check("load", 12)
        with valkey.Valkey.from_url(endpoint.url) as client:
            (wrong,) = client.keys("*load-3")
            (seen,) = client.keys("*load-4")
            assert client.copy(wrong, seen, replace=True)
        with pytest.raises(CaseFailedError, match="load-4 was answered 'the value of load-3"):
            _read_until_it_fails(fleet, 4)


def _read_until_it_fails(fleet: changes.Fleet, number: int) -> None:
    # Until the report of the change has arrived, the followers answer from memory.
    for _ in range(1000):
        fleet.followers.ask("read", kind="load", first=number, count=1, holders=2)


def test_fleet_members_read_every_answer_after_an_error(endpoint: Endpoint) -> None:
    with changes.opened(endpoint, TRACKING[0], 33) as fleet:  # In two processes.
        with pytest.raises(CaseFailedError, match="no_such"):
            fleet.followers.ask_each("no_such", [{}, {}])
        assert len(fleet.followers.ask("cpu")) == 2


def test_fleet_windows_have_their_shares_and_read_no_stored_entry_twice() -> None:
    drawn = windows(1, 3_000, 4)
    assert drawn == windows(1, 3_000, 4)
    assert drawn != windows(2, 3_000, 4)
    assert min(map(len, drawn)) > 3_000
    numbers = [number for window in drawn for number in window]
    levels = Counter(level_of(number) for number in numbers)
    shares = {level: count / len(numbers) for level, count in levels.items()}
    assert shares == pytest.approx({"l1": 0.8, "l2": 0.15, "loader": 0.05}, rel=0.1)
    once = [number for number in numbers if level_of(number) != "l1"]
    assert len(once) == len(set(once))
    assert {number for number in numbers if level_of(number) == "l2"} == set(range(HOT, 3_000))


def test_fleet_tracks_in_every_way_that_the_package_offers() -> None:
    assert len(TRACKING) > 1
    assert [CoherenceOptions(tracking=each).tracking for each in TRACKING] == list(TRACKING)  # type: ignore[arg-type]


def test_fleet_turns_begin_with_another_item_in_each_round() -> None:
    assert [turned("abc", number) for number in range(4)] == [[*"abc"], [*"bca"], [*"cab"], [*"abc"]]


def test_fleet_member_ends_during_a_request_when_its_input_ends(endpoint: Endpoint) -> None:
    process = Process("benchmarks.fleet.callers")
    process.send({"do": "open", "peer": "handmade", "endpoint": {"host": endpoint.host, "port": endpoint.port}})
    process.receive()
    process.send({"do": "store", "count": 1_000_000})
    assert process.stop() == 0


@pytest.mark.skipif(not PROC.exists(), reason="needs the table of processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_fleet_processes_end_with_the_command(number: signal.Signals, code: int, tmp_path: Path) -> None:
    options = ["--quick", "--parts", "followers", "--followers", "2", "--output", str(tmp_path / "run.json")]
    started = python_with_default_signals("-m", "benchmarks", "fleet", *options)
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(_members_of(process.pid)) == 2, "two processes of the fleet")
        family = _family_of(process.pid)
        assert any("valkey" in process_table()[member][1] for member in family)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == code
    assert not family.intersection(process_table())


def _family_of(parent: int) -> set[int]:
    return {child for child, (its_parent, _) in process_table().items() if its_parent == parent}


def _members_of(parent: int) -> list[int]:
    table = process_table()
    return [child for child in _family_of(parent) if child in table and MEMBERS in table[child][1]]


def test_fleet_page_has_a_mark_for_every_figure() -> None:
    assert set(re.findall(r"<!-- benchmark: ([a-z-]+) -->", pages.PAGE.read_text("utf-8"))) == set(pages.BLOCKS)


def test_fleet_plots_draw_every_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.fleet.plots import write_plots

    write_plots(_made_up(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["fleet-followers.svg", "fleet-throughput.svg"]
    drawn = (tmp_path / "fleet-followers.svg").read_text("utf-8")
    assert all(f'<!-- tracking="{each}"' in drawn for each in TRACKING)


def _made_up() -> Results:
    run = Results()
    cases: list[Case] = [changes.floor_case(count) for count in (1, 8)]
    cases += [changes.case_of(name, each, count) for name in changes.CHANGES for each in TRACKING for count in (1, 8)]
    cases += [throughput.case_of(size, 4, peer) for size in (1, 2) for peer in TINY.peers]
    for number, case in enumerate(cases, 1):
        seconds: list[Any] = [number * 1e-6]
        run.add({case.peer: Measured(seconds, seconds, 1, server=seconds)}, case, 0)
    return run
