"""Short soaks: a working cache passes, and a cache that breaks its promises does not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.child_processes import PROC, process_table, python_with_default_signals
from tiercache import UsageError
from tiercache.testing.soak import SoakSettings, run_soak
from tiercache.testing.soak.__main__ import main
from tiercache.testing.soak.checks import check_end
from tiercache.testing.soak.faults import FAULTS
from tiercache.testing.soak.report import report_of

FAULTS_OF_TEST = ("cut", "garbage", "latency", "restart", "kill_clients", "out_of_memory")


async def test_soak_finds_no_violation() -> None:
    settings = SoakSettings(
        seconds=8.0, processes=3, seed=3, ttl=4.0, longest_fault=0.8, settle=0, max_staleness=1.0, faults=FAULTS_OF_TEST
    )
    outcome = await run_soak(settings)
    outcome.problems += check_end(outcome)
    assert not outcome.problems, report_of(outcome)
    assert len(outcome.faults) > 1
    assert sum(ended.checked for ended in outcome.ended) > 500
    assert all(len(rests) > 1 for rests in outcome.rests)


async def test_soak_finds_every_promise_that_a_cache_breaks() -> None:
    settings = SoakSettings(
        seconds=6.0, processes=2, ttl=60.0, longest_fault=0.3, settle=0, max_staleness=0.5, faults=("latency",)
    )
    outcome = await run_soak(settings, worker="tests.testing.soak.broken_worker")
    outcome.problems += check_end(outcome)
    found = {problem.kind: problem.text for problem in outcome.problems}
    assert set(found) >= {"key", "own", "error", "uncaught", "stderr", "close"}, report_of(outcome)
    assert "has a value of the key kv." in found["key"]
    assert "KeyError: 'lost'" in found["error"]
    assert "no caller catches this" in found["uncaught"]
    assert "lost" in found["stderr"]
    report = report_of(outcome)
    assert f"**{len(outcome.problems)} violations**" in report
    assert "KeyError: 'lost'" in report


def test_soak_prints_its_report_and_writes_it_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "soak.md"
    arguments = ["--minutes", "0.02", "--processes", "1", "--settle", "0", "--fault", "latency", "--report", str(file)]
    assert main(arguments) == 0
    report = file.read_text("utf-8")
    assert capsys.readouterr().out.endswith(report)
    assert report.startswith("## ")
    assert "python -m tiercache.testing.soak --minutes 0.02 --processes 1 --seed 1 --fault latency" in report
    assert "**no violation**" in report


def test_soak_refuses_impossible_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="processes must be at least 1, not 0"):
        SoakSettings(processes=0)
    with pytest.raises(UsageError, match="seconds must be above 0, not -1"):
        SoakSettings(seconds=-1)
    with pytest.raises(UsageError, match="faults must be some of cut, "):
        SoakSettings(faults=("rain",))
    assert main(["--processes", "0"]) == 2
    assert "processes must be at least 1" in capsys.readouterr().err


def test_every_fault_has_a_description() -> None:
    assert all(fault.__doc__ for fault in FAULTS.values())


@pytest.mark.skipif(not PROC.joinpath("self", "stat").exists(), reason="the test finds processes through /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_soak_leaves_nothing_running_after_a_signal(number: signal.Signals) -> None:
    # A short path, because the folder will contain a Unix socket.
    with TemporaryDirectory(prefix="tc") as folder:
        process = subprocess.Popen(
            python_with_default_signals("-m", "tiercache.testing.soak", "--minutes", "5", "--processes", "2"),
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()  # The first fault: every process and every server runs.
            family = _descendants(process.pid)
            assert sum("soak.worker" in line for _, line in family.values()) == 2
            process.send_signal(number)
            process.wait(timeout=30)
        finally:
            process.kill()
            process.communicate()
        give_up_at = time.monotonic() + 15
        while left := [line for pid, line in process_table().items() if family.get(pid) == line]:
            assert time.monotonic() < give_up_at, left
            time.sleep(0.05)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert not list(Path(folder).iterdir())


def _descendants(root: int) -> dict[int, tuple[int, str]]:
    """Return parent and command line of the descendants of ``root`` by id."""
    table = process_table()
    family: dict[int, tuple[int, str]] = {}
    while more := {
        pid: line for pid, line in table.items() if (line[0] == root or line[0] in family) and pid not in family
    }:
        family |= more
    return family
