"""Runs the rounds one after another and merges them into one pyperf suite.

Every round visits every case once, so a disturbance of a minute touches all peers alike; each round starts
with another peer, so that none is always the first. The first round calibrates, the later ones take its loop
counts.
"""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyperf

from benchmarks.plan import Case, Plan

_PRIVATE = frozenset({"hostname", "python_executable", "python_cflags", "boot_time", "uptime"})


class RoundFailedError(Exception):
    """A round ended early; its output says why."""


def run_rounds(plan: Plan, count: int, options: list[str], folder: Path) -> pyperf.BenchmarkSuite:
    """Measure ``count`` rounds with the pyperf ``options`` and return all runs in one suite."""
    merged: dict[str, pyperf.Benchmark] = {}
    for number in range(count):
        turned = dataclasses.replace(plan, names=_turned(plan.names, number))
        for bench in _run(turned, f"round {number + 1} of {count}", options, folder / f"round-{number}.json"):
            name = bench.get_name()
            if name in merged:
                merged[name].add_runs(bench)
            else:
                merged[name] = bench
        loops = {name: int(bench.get_loops()) for name, bench in merged.items()}
        plan = dataclasses.replace(plan, loops=loops)
    for name, calls in _loader_calls(Path(plan.notes)).items():
        merged[name].update_metadata({"loader_calls": calls})
    return pyperf.BenchmarkSuite([merged[name] for name in plan.names])


def write(suite: pyperf.BenchmarkSuite, path: Path) -> None:
    """Write the suite as JSON, without what identifies the machine's owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suite.dump(str(path), replace=True)
    data = json.loads(path.read_text())
    benches = data["benchmarks"]
    for holder in (data, *benches, *(run for bench in benches for run in bench["runs"])):
        for key in _PRIVATE & holder.get("metadata", {}).keys():
            del holder["metadata"][key]
    path.write_text(json.dumps(data, separators=(",", ":"), sort_keys=True) + "\n")


def _turned(names: list[str], number: int) -> list[str]:
    """The same cases with the peers of each work moved on by ``number`` places."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        case = Case.named(name)
        groups.setdefault((case.size, case.work.value), []).append(name)
    return [name for group in groups.values() for name in group[number % len(group) :] + group[: number % len(group)]]


def _run(plan: Plan, title: str, options: list[str], output: Path) -> pyperf.BenchmarkSuite:
    command = [sys.executable, "-m", "benchmarks.suite", "-o", str(output), *options]
    silent, heard = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, env=plan.environ(), text=True, stdout=silent, stderr=heard) as process:
        try:
            said = _show_progress(process, title)
        except BaseException:
            process.send_signal(signal.SIGINT)  # pyperf ends its worker on this one
            raise
    if process.returncode:
        raise RoundFailedError("\n".join(said[-20:]))
    return pyperf.BenchmarkSuite.load(str(output))


def _show_progress(process: "subprocess.Popen[str]", title: str) -> list[str]:
    """Show the case under way on one line, on a terminal; returns the lines."""
    said = []
    assert process.stderr is not None
    if not sys.stderr.isatty():
        print(title, file=sys.stderr, flush=True)
    for line in process.stderr:
        said.append(line.rstrip())
        if sys.stderr.isatty():
            print(f"\r\033[K{title}: {said[-1][:100]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return said


def _loader_calls(notes: Path) -> dict[str, int]:
    """The highest count of loader calls in one stampede, by case."""
    calls: dict[str, int] = {}
    for line in notes.read_text().splitlines() if notes.exists() else ():
        note = json.loads(line)
        calls[note["name"]] = max(note["loader_calls"], calls.get(note["name"], 0))
    return calls
