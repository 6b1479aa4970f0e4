"""The command ``python -m benchmarks fleet``: measures fleets, prints the tables, writes JSON, Markdown and plots."""

import argparse
import datetime
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.driver import show_progress
from benchmarks.fleet import changes, pages, throughput
from benchmarks.fleet.plan import FULL, PARTS, PEERS, QUICK, Plan
from benchmarks.fleet.tables import markdown
from benchmarks.peers import Endpoint, why_missing
from benchmarks.results import Results, machine, versions
from benchmarks.server import Counters, raise_file_limit, running_valkey

_RESULTS = Path(__file__).parents[1] / "results"
_PACKAGES = ("tiercache-agents", "betterdb-agent-cache", "valkey")


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code, which is 1 if a cache gave a wrong answer."""
    os.environ["BETTERDB_TELEMETRY"] = "false"
    args = _arguments(arguments)
    # So that SIGTERM ends the server and the processes of the fleet too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results()
    try:
        if args.show:
            results = Results.pooled([Results.load(path) for path in args.show])
        else:
            measure(_plan(args), results, args.output)
    except KeyboardInterrupt:
        print(f"interrupted; the rounds measured so far are in {args.output}", file=sys.stderr)
        return 130
    except ValueError as error:
        sys.exit(f"--show: {error}")
    print(markdown(results))
    if args.write_docs:
        pages.write_docs(results)
    return int(bool(results.failed))


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fleet",
        description="Measure fleets: their throughput beside other caches, and the cost of a change by its followers.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer fleets, calls and rounds: in about two minutes")
    parser.add_argument("--followers", nargs="+", type=_count, metavar="N", help="numbers of caches that follow")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="parts to measure (both)")
    parser.add_argument("--rounds", type=_count, help=f"rounds, each in new processes ({FULL.rounds})")
    parser.add_argument("--output", type=Path, help="JSON file; the Markdown goes beside it")
    parser.add_argument("--show", type=Path, nargs="+", metavar="JSON", help="measure nothing, show these files pooled")
    parser.add_argument("--write-docs", action="store_true", help="write tables and plots into docs/fleet.md")
    args = parser.parse_args(arguments)
    if args.output is None:
        is_partial = args.quick or args.followers or args.parts
        args.output = _RESULTS / ("fleet-partial.json" if is_partial else "fleet.json")
    return args


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(f"{count} is below 1")
    return count


def _plan(args: argparse.Namespace) -> Plan:
    plan = QUICK if args.quick else FULL
    given = {"rounds": args.rounds, "followers": args.followers, "parts": args.parts}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def measure(plan: Plan, results: Results, output: Path) -> None:
    """Measure the plan against a private Valkey, and write the results after each round."""
    results.missing = {name: reason for name in PEERS if (reason := why_missing(name))}
    plan = replace(plan, peers=tuple(name for name in plan.peers if name not in results.missing))
    raise_file_limit()
    with running_valkey() as (endpoint, _), Counters(endpoint) as counters:
        results.machine |= machine() | {
            "versions": versions(counters.version(), _PACKAGES),
            "date": datetime.date.today().isoformat(),
            "loop": "asyncio",
            "pinned": "no",
            "runs": "1",
            "stopped": "1",
        }
        try:
            for number in range(plan.rounds):
                if not sys.stderr.isatty():
                    print(f"round {number + 1} of {plan.rounds}", file=sys.stderr, flush=True)
                _round(plan, endpoint, counters, results, number)
                _save(results, output)
            results.machine["stopped"] = "0"
        finally:
            show_progress("")
            _save(results, output)


def _round(plan: Plan, endpoint: Endpoint, counters: Counters, results: Results, number: int) -> None:
    if "throughput" in plan.parts:
        throughput.measure(plan, endpoint, counters, results, number)
    if "followers" in plan.parts:
        changes.measure(plan, endpoint, counters, results, number)


def _save(results: Results, path: Path) -> None:
    results.machine["rounds"] = str(results.round_count)
    results.save(path)
    if results.rounds:
        path.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
