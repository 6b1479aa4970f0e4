"""The command: ``python -m benchmarks`` measures everything, prints the tables, and writes JSON, Markdown and plots."""

import argparse
import datetime
import os
import signal
import sys
from functools import partial
from pathlib import Path

from benchmarks import baseline, pages
from benchmarks.data import SIZES
from benchmarks.driver import Driver, Plan
from benchmarks.goals import goals
from benchmarks.peers import PEERS, why_missing
from benchmarks.results import Results, machine, versions
from benchmarks.server import Counters, raise_file_limit, running_valkey
from benchmarks.tables import goal_table, markdown
from benchmarks.timing import Budget
from benchmarks.works import WORKS

_RESULTS = Path(__file__).parent / "results"
_FULL = Budget(values=3, min_seconds=0.03)
_QUICK = Budget(values=2, min_seconds=0.02)
_PACKAGES = (
    "tiercache-agents",
    "betterdb-agent-cache",
    "async-cache",
    "cachetools",
    "cashews",
    "aiocache",
    "coredis",
    "langchain-core",
    "langchain-community",
    "valkey",
    "redis",
    "uvloop",
)


def main() -> int:
    """Run the command and return its exit code.

    The code is 1 in three cases: a peer gave a wrong answer, ``--compare`` found a ratio that dropped, or ``--check``
    found a goal that is missed.
    """
    os.environ["BETTERDB_TELEMETRY"] = "false"
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that SIGTERM stops the server too
    try:
        results = _shown(args.show) if args.show else _measure(args)
    except KeyboardInterrupt:
        print(f"interrupted; the values measured so far are in {args.output}", file=sys.stderr)
        return 130
    print(markdown(results))
    if args.write_docs:
        pages.write_docs(results)
    if args.save_baseline:
        baseline.save(results, args.save_baseline)
    print(goal_table(results), file=sys.stderr)
    failed = bool(results.failed)
    failed |= args.check and any(not goal.is_met for goal in goals(results))
    if args.compare:
        compared = baseline.compare(baseline.load(args.compare), baseline.ratios(results))
        complete = not (args.show or _is_partial(args))
        print(compared.report(complete=complete), file=sys.stderr)
        failed = failed or not compared.passes(complete=complete)
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure tiercache beside its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer variants and rounds: in about three minutes")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), help="kinds of calls to measure (all)")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="caches to measure (all that are installed)")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="kinds of requests (all)")
    parser.add_argument("--rounds", type=int, help="rounds, each in new processes (3; with --quick 2)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop of all peers")
    parser.add_argument("--no-pin", action="store_true", help="pin no process to a core")
    parser.add_argument("--output", type=Path, help="JSON file; the Markdown goes beside it")
    parser.add_argument("--show", type=Path, nargs="+", metavar="JSON", help="measure nothing, show these files pooled")
    parser.add_argument("--write-docs", action="store_true", help="write tables and plots into the documentation")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="exit with 1 when a ratio dropped by over 25 %%")
    parser.add_argument("--save-baseline", type=Path, metavar="JSON", help="write the ratios to compare with")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    args = parser.parse_args()
    if args.output is None:
        args.output = _RESULTS / ("partial.json" if _is_partial(args) else "latest.json")
    return args


def _is_partial(args: argparse.Namespace) -> bool:
    return bool(args.quick or args.works or args.peers or args.sizes or args.loop != "asyncio" or args.no_pin)


def _measure(args: argparse.Namespace) -> Results:
    wanted = args.peers or list(PEERS)
    missing = {name: reason for name in wanted if (reason := why_missing(name))}
    plan = Plan(
        peers=[name for name in wanted if name not in missing],
        works=args.works or [name for name, work in WORKS.items() if work.quick or not args.quick],
        rounds=args.rounds or (2 if args.quick else 3),
        budget=_QUICK if args.quick else _FULL,
        quick=args.quick,
        sizes=args.sizes or [],
        loop=args.loop,
        pinned=not args.no_pin,
    )
    raise_file_limit()
    results = Results(machine(), missing=missing)
    with running_valkey() as (endpoint, server_pid):
        with Counters(endpoint) as counters:
            results.machine["versions"] = versions(counters.version(), _PACKAGES)
        results.machine["date"] = datetime.date.today().isoformat()
        results.machine["loop"] = plan.loop
        results.machine["pinned"] = "yes" if plan.pinned else "no"
        results.machine |= {"runs": "1", "stopped": "1"}
        save = partial(_save, results, args.output)
        try:
            Driver(plan, endpoint, server_pid, results).run(after_round=save)
            results.machine["stopped"] = "0"
        finally:
            save()
    return results


def _save(results: Results, path: Path) -> None:
    """Write all values measured so far, so that a stopped run keeps them."""
    results.machine["rounds"] = str(results.round_count)
    results.save(path)
    path.with_suffix(".md").write_text(markdown(results))


def _shown(paths: list[Path]) -> Results:
    try:
        return Results.pooled([Results.load(path) for path in paths])
    except (ValueError, OSError) as error:
        sys.exit(f"--show: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["fleet"]:
        from benchmarks.fleet.__main__ import main as fleet

        sys.exit(fleet(sys.argv[2:]))
    sys.exit(main())
