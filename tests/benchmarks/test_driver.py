"""The driver of the benchmarks: a run continues after a failed case, and keeps its measurements when it is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from benchmarks.driver import CaseFailedError, Driver, Plan, Worker
from benchmarks.peers import Endpoint
from benchmarks.results import Case, Results
from benchmarks.server import Counters, running_valkey
from benchmarks.timing import Budget

QUICKEST = Budget(values=1, min_seconds=0.0)
L1 = Case("l1-hit", "short-1", "handmade")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Endpoint, int]]:
    with running_valkey() as server:
        yield server


def _plan(rounds: int = 1) -> Plan:
    return Plan(["handmade", "floor"], ["l1-hit"], rounds, QUICKEST, quick=True, sizes=["short"])


class _Dying(Worker):
    """A worker whose process ends at the first case."""

    def measure(self, asked: dict[str, Any]) -> Any:
        if (asked["work"], asked["variant"]) == (L1.work, L1.variant) and "handmade" in self._command:
            self._process.kill()
            self._process.wait()
        return super().measure(asked)


def test_driver_fails_only_the_case_whose_process_ended(
    server: tuple[Endpoint, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.driver.Worker", _Dying)
    results = Results()
    Driver(_plan(rounds=2), *server, results).run()
    assert list(results.failed) == [L1.name]
    assert "has ended" in results.failed[L1.name]
    assert results.peers("l1-hit", "short-1") == ["floor"]
    assert results.peers("l1-hit", "short-100") == ["handmade", "floor"]
    assert results.round_count == 2


def test_driver_worker_continues_after_case_that_raised(server: tuple[Endpoint, int]) -> None:
    worker = Worker("handmade", "asyncio")
    endpoint = {"host": server[0].host, "port": server[0].port}
    budget = {"values": 1, "min_seconds": 0.0}
    asked = {"work": "l1-hit", "variant": "short-1", "loops": 1, "budget": budget, "endpoint": endpoint, "cores": []}
    try:
        with pytest.raises(CaseFailedError, match="StopIteration"):
            worker.measure(asked | {"variant": "no such"})
        with Counters(server[0]) as counters:
            counters.reset()
        assert worker.measure(asked)["handmade"].wall
    finally:
        worker.stop()


def test_driver_calls_back_after_each_round(server: tuple[Endpoint, int]) -> None:
    results, counts = Results(), []
    Driver(_plan(rounds=2), *server, results).run(after_round=lambda: counts.append(results.round_count))
    assert counts == [1, 2]


def test_driver_keeps_finished_rounds_when_run_is_stopped(tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    options = ["--quick", "--works", "l1-hit", "--sizes", "short", "--peers", "floor", "--rounds", "100000"]
    command = [sys.executable, "-m", "benchmarks", *options, "--output", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:  # The first round has been written to the file.
            if line.startswith("round 2 of"):
                assert Results.load(output).round_count == 1
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
    assert process.returncode == 143
    results = Results.load(output)
    assert results.peers("l1-hit", "short-1") == ["floor"]
    assert "1 stopped before the end" in output.with_suffix(".md").read_text()


def test_counters_reset_keeps_only_unrelated_keys(server: tuple[Endpoint, int]) -> None:
    endpoint = server[0]
    with Counters(endpoint) as counters, valkey.Valkey.from_url(endpoint.url) as client:
        counters.reset(1_000)
        client.set("bench:a", "1")
        client.set("unrelated:0", "kept")
        counters.reset(1_000)
        assert counters.keys() == 1_000
        assert client.get("bench:a") is None
        assert client.get("unrelated:0") == b"kept"
        client.set("unknown", "1")
        counters.reset(1_000)
        assert counters.keys() == 1_000
        counters.reset()
        assert counters.keys() == 0
