"""The cache under the coherence checker: a fixed number of runs with fixed seeds. The command line does more runs."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.child_processes import PROC, process_table, python_with_default_signals
from tests.seams import replace_public
from tiercache import UsageError
from tiercache.options import TrackingMode
from tiercache.testing.coherence import FAULTS, RunSettings, run_once
from tiercache.testing.coherence.__main__ import main
from tiercache.testing.coherence.history import FOREIGN
from tiercache.testing.coherence.report import stories_of
from tiercache.testing.coherence.settings import TRACKINGS
from tiercache.tiers.kv.tier import KvTier

# Each fault once, and some faults of the network and of the server twice or three times.
RUNS = [(fault, seed) for seed, fault in enumerate(FAULTS, 1)] + [
    ("latency", 101),
    ("bus_kill", 102),
    ("bus_kill", 103),
    ("bus_stall", 104),
    ("command_kill", 105),
    ("restart_empty", 106),
    ("restart_persisted", 107),
    ("latency", 108),
]


@pytest.fixture(autouse=True)
def _restored_log_level() -> Iterator[None]:
    """Restore the level of the logger, which the checker's command line raises for its whole process."""
    logger = logging.getLogger("tiercache")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.parametrize(("fault", "seed"), RUNS)
async def test_checker_finds_no_violation(fault: str, seed: int) -> None:
    outcome = await run_once(RunSettings(fault=fault, seed=seed, seconds=1.5, replicas=4, processes=1))
    assert len(outcome.history.reads) > 100
    assert outcome.history.change_count > outcome.history.unanswered_count
    assert not outcome.violations, stories_of(outcome, 3)


async def test_checker_reads_stale_values_and_remembered_errors() -> None:
    settings = RunSettings(seed=203, seconds=1.5, replicas=3, processes=0, freshness="on")
    outcome = await run_once(settings)
    assert not outcome.violations, stories_of(outcome, 3)
    sources = Counter(read.source for read in outcome.history.reads)
    assert sources["stale"], sources
    assert sources["failed"], sources


async def test_checker_finds_no_violation_without_tracking() -> None:
    settings = RunSettings(fault="bus_kill", seed=201, seconds=1.5, replicas=4, processes=1, tracking="off")
    outcome = await run_once(settings)
    assert not outcome.violations, stories_of(outcome, 3)


@pytest.mark.parametrize(("fault", "seed"), [("none", 204), ("join", 205), ("writer_kill", 206), ("small_table", 208)])
async def test_checker_finds_no_violation_among_replicas_that_track_differently(fault: str, seed: int) -> None:
    settings = RunSettings(fault=fault, seed=seed, seconds=2, replicas=4, processes=1, tracking="mixed")
    outcome = await run_once(settings)
    assert not outcome.violations, stories_of(outcome, 3)
    kinds = {joined.tracking for joined in outcome.history.joined}
    assert kinds == set(TRACKINGS)
    assert (len(outcome.history.joined) > 4) == (fault == "join")


@pytest.mark.parametrize("tracking", TRACKINGS)
async def test_checker_lets_other_software_change_keys(tracking: TrackingMode) -> None:
    outcome = await run_once(RunSettings(seed=210, seconds=1.5, replicas=3, processes=0, tracking=tracking))
    assert not outcome.violations, stories_of(outcome, 3)
    changes = [change for changes in outcome.history.changes.values() for change in changes]
    methods = {change.method for change in changes if change.replica == FOREIGN}
    assert methods == {"SET", "DEL"}
    # Of other changes of these keys too, and in every tier.
    others = {change.key.partition(".")[0] for change in changes if ".foreign." in change.key}
    assert others == {"tool", "kv", "llm", "session"}


def test_checker_prints_the_violations_of_a_broken_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def get(tier: KvTier, key: str, default: object = None) -> int:
        return 0

    # A replica that has changed a key looks it up immediately, so this defect shows even on a slow machine.
    replace_public(monkeypatch, KvTier, "get", get)
    arguments = ["--fault", "none", "--seconds", "0.5", "--processes", "0", "--max-staleness", "0.3", "--seed", "7"]
    assert main([*arguments, "--runs", "1", "--stories", "50"]) == 1
    shown = capsys.readouterr().out
    assert "run 1/1  seed 7" in shown
    assert "own: kv." in shown
    assert "read version 0 by kv.get from an unknown source" in shown
    assert re.search(r"r\d kv\.(invalidate|store|clear|delete_many) of \d+, acknowledged at", shown)
    assert "again: python -m tiercache.testing.coherence --fault none --seed 7 --runs 1 --seconds 0.5" in shown


def test_checker_runs_the_faults_in_turn_with_successive_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seconds", "0.1", "--replicas", "1", "--processes", "0", "--max-staleness", "0.3"]
    assert main(["--fault", "none", "latency", "--runs", "3", "--seed", "5", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:5] for line in lines if line.startswith("run ")] == [
        ["seed", "5", "none"],
        ["seed", "6", "latency"],
        ["seed", "7", "none"],
    ]


def test_checker_refuses_impossible_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="fault must be one of"):
        RunSettings(fault="rain")
    with pytest.raises(UsageError, match="2 replicas cannot have 3 processes"):
        RunSettings(replicas=2, processes=3)
    with pytest.raises(UsageError, match="process_stop needs two replicas"):
        RunSettings(fault="process_stop", processes=0)
    assert main(["--replicas", "1", "--processes", "2"]) == 2
    assert "1 replicas cannot have 2 processes" in capsys.readouterr().err


@pytest.mark.skipif(not PROC.joinpath("self", "stat").exists(), reason="the test finds processes through /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_checker_leaves_nothing_running_after_a_signal(number: signal.Signals) -> None:
    arguments = ["--fault", "restart_persisted", "--seconds", "30"]
    # A short path, because the folder will contain a Unix socket.
    with TemporaryDirectory(prefix="tc") as folder:
        process = subprocess.Popen(
            python_with_default_signals("-m", "tiercache.testing.coherence", *arguments),
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            # Two workers, two servers, and the shells that watch the servers.
            family = _children(process.pid, at_least=6)
            process.send_signal(number)
            process.wait(timeout=20)
        finally:
            process.kill()
            process.wait()
        give_up_at = time.monotonic() + 10
        while left := [line for pid, line in process_table().items() if family.get(pid) == line]:
            assert time.monotonic() < give_up_at, left
            time.sleep(0.05)
        if number == signal.SIGINT:
            assert not list(Path(folder).iterdir())


def _children(root: int, at_least: int) -> dict[int, tuple[int, str]]:
    """Wait until both workers and ``at_least`` descendants of ``root`` run; return parent and command line by id."""
    give_up_at = time.monotonic() + 20
    while True:
        table = process_table()
        family: dict[int, tuple[int, str]] = {}
        while more := {
            pid: line for pid, line in table.items() if (line[0] == root or line[0] in family) and pid not in family
        }:
            family |= more
        if sum("coherence.worker" in line for _, line in family.values()) == 2 and len(family) >= at_least:
            return family
        assert time.monotonic() < give_up_at, family
        time.sleep(0.1)
