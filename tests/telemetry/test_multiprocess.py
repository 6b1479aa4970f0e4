"""The multiprocess mode of prometheus_client: each scrape of each worker shows the numbers of all workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

# A worker process: a command a line on stdin, a line of JSON with its result on stdout.
WORKER: Final = """
import asyncio, json, os, sys
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from tiercache import AgentCache, TelemetryOptions

async def load():
    await asyncio.sleep(0)
    return "x"

async def main():
    cache = AgentCache.in_memory(name="agents")
    # A registry of its own, as an application may have: the files know no registries.
    other = AgentCache.in_memory(name="agents", telemetry=TelemetryOptions(registry=CollectorRegistry()))
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, *arguments = line.split()
        result = None
        if command == "use":
            for _ in range(int(arguments[0])):
                number += 1
                for used in (cache, other):
                    await used.tool.get_or_load("search", {"q": number}, load)
                await cache.llm.check({"model": "m", "messages": []})
        elif command == "scrape":
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
            result = generate_latest(registry).decode()
        elif command == "close":
            await cache.aclose()
            await other.aclose()
        elif command == "fork":
            if not (pid := os.fork()):
                try:
                    asyncio._set_running_loop(None)
                    async def child():
                        await cache.tool.get_or_load("search", {"q": -1}, load)
                        await cache.aclose()
                    asyncio.run(child())
                finally:
                    os._exit(0)
            result = os.waitpid(pid, 0)[1]
        print(json.dumps(result), flush=True)

asyncio.run(main())
"""


class Worker:
    """One worker process, whose metrics are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER)],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, command: str) -> Any:
        """Run a command of the worker; return its result."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def scrape(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return the samples of one scrape, by name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.do("scrape"))
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples ``name`` with ``labels``."""
        return sum(v for (n, of), v in self.scrape().items() if n == name and labels.items() <= dict(of).items())

    def end(self) -> None:
        """End the process as a server does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture
def new_worker(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Return a function that starts a worker."""
    with ExitStack() as stack:

        def new() -> Worker:
            worker = Worker(tmp_path)
            stack.callback(worker.end)
            return worker

        yield new


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


SEARCHES: Final = {"cache_name": "agents", "tier": "tool", "tool_name": "search", "result": "miss"}


def searches(worker: Worker) -> float:
    return worker.total("agent_cache_requests_total", **SEARCHES)


def test_each_worker_shows_the_numbers_of_all_workers(new_worker: Callable[[], Worker]) -> None:
    first, second = new_worker(), new_worker()
    first.do("use 3")
    second.do("use 5")
    # Two caches of each worker looked up each search.
    for worker in (first, second):
        until(lambda worker=worker: searches(worker) == 16)  # type: ignore[misc]
    timed = {"cache_name": "agents", "tier": "tool", "operation": "get_or_load"}
    assert first.scrape() == second.scrape()
    assert first.total("agent_cache_operation_duration_seconds_count", **timed) == 16
    assert first.total("agent_cache_operation_duration_seconds_bucket", **timed, le="+Inf") == 16
    assert first.total("agent_cache_operation_duration_seconds_sum", **timed) > 0
    assert first.total("agent_cache_loads_total", cache_name="agents", tier="tool") == 16
    assert first.total("agent_cache_l1_entries", cache_name="agents") == 16


def test_counters_never_fall_in_scrapes_of_changing_workers(new_worker: Callable[[], Worker]) -> None:
    seen: dict[Any, float] = {}

    def check(worker: Worker) -> None:
        for key, value in worker.scrape().items():
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert value >= seen.get(key, 0.0), key
                seen[key] = value
        assert seen.keys() <= worker.scrape().keys()

    first, second = new_worker(), new_worker()
    for turn in range(4):
        first.do(f"use {turn + 1}")
        second.do("use 2")
        check(first)
        check(second)
    first.end()
    third = new_worker()
    third.do("use 1")
    for worker in (second, third, second):
        check(worker)
    # Each worker has written its last numbers as it ended.
    until(lambda: searches(second) == 2 * (1 + 2 + 3 + 4 + 8 + 1))
    check(third)


def test_closed_cache_keeps_its_counts_and_has_no_entries(new_worker: Callable[[], Worker]) -> None:
    worker = new_worker()
    worker.do("use 2")
    until(lambda: worker.total("agent_cache_l1_entries") == 4)
    worker.do("close")
    until(lambda: worker.total("agent_cache_l1_entries") == 0)
    assert searches(worker) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_worker_counts_no_call_of_its_parent_again(new_worker: Callable[[], Worker]) -> None:
    worker = new_worker()
    worker.do("use 3")
    until(lambda: searches(worker) == 6)
    assert worker.do("fork") == 0
    until(lambda: searches(worker) == 7)
    worker.do("use 1")
    until(lambda: searches(worker) == 9)


def test_process_goes_on_with_the_counts_of_an_ended_process_of_the_same_id(
    tmp_path: Path, new_worker: Callable[[], Worker]
) -> None:
    ended = new_worker()
    ended.do("use 2")
    ended.end()
    # Process ids come round again, in a container at each start.
    worker = new_worker()
    for file in tmp_path.glob("*.db"):
        file.rename(str(file).replace(f"_{ended.process.pid}.db", f"_{worker.process.pid}.db"))
    worker.do("use 1")
    until(lambda: searches(worker) == 6)


def run(code: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


USE: Final = """
    import asyncio, os, threading
    from tiercache import AgentCache

    async def use(name):
        async with AgentCache.in_memory(name=name) as cache:
            await cache.tool.check("t", {})
            print([thread.name for thread in threading.enumerate() if thread.name.startswith("tiercache")])
"""


def test_process_has_no_thread_without_the_multiprocess_mode() -> None:
    assert run(USE + "    asyncio.run(use('a'))\n") == "[]\n"


def test_variable_set_too_late_causes_one_warning(tmp_path: Path) -> None:
    code = USE + f"    os.environ['PROMETHEUS_MULTIPROC_DIR'] = {str(tmp_path)!r}\n    asyncio.run(use('a'))\n"
    assert run(code).count("set after prometheus_client was imported") == 1


def test_missing_folder_causes_one_warning_and_the_cache_works(tmp_path: Path) -> None:
    output = run(USE + "    asyncio.run(use('a'))\n", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"))
    assert output.count("cannot write the metrics") == 1
    assert "['tiercache-metrics']" in output
