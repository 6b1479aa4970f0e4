"""The checker's command line: runs one seed after the other, and prints a line for each run and its violations."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

from ...errors import UsageError
from ...options import TrackingMode
from .faults import FAULTS, NEEDS_PROCESS
from .report import stories_of, summary_of, title_of
from .run import Outcome, RunSettings, run_once

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 with violations, 2 if a run failed."""
    options = _parser().parse_args(arguments)
    # Many runs make Valkey unavailable on purpose, so warnings about that are noise.
    logging.getLogger("tiercache").setLevel(logging.ERROR)
    outcomes: list[Outcome] = []
    try:
        for number, settings in enumerate(_settings(options), 1):
            try:
                outcome = asyncio.run(run_once(settings))
            # Any error that stops a run is printed, with the command that repeats the run.
            except Exception:
                traceback.print_exc()
                print(f"again: {settings.command}", file=sys.stderr)
                return 2
            outcomes.append(outcome)
            print(f"run {number}/{options.runs}  {title_of(outcome)}", flush=True)
            if outcome.violations:
                print(f"\n{stories_of(outcome, options.stories)}\n", flush=True)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{summary_of(outcomes)}")
        return 130
    print(f"\n{summary_of(outcomes)}")
    return int(any(outcome.violations for outcome in outcomes))


def _settings(options: argparse.Namespace) -> Iterator[RunSettings]:
    """Yield the settings of each run: the faults in turn, each run with its own seed."""
    names = list(FAULTS) if "all" in options.fault else options.fault
    base = RunSettings(
        seconds=options.seconds,
        replicas=options.replicas,
        processes=options.processes,
        tracking=options.tracking,
        max_staleness=options.max_staleness,
        writes=options.writes,
        freshness=options.freshness,
    )
    if "all" in options.fault and not (options.processes and options.replicas > 1):
        names = [name for name in names if name not in NEEDS_PROCESS]
    for number in range(options.runs):
        yield replace(base, fault=names[number % len(names)], seed=options.seed + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Check the coherence of several replicas under faults, on a real Valkey.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--fault", nargs="+", choices=("all", *FAULTS), default=["all"], help="the faults, in turn")
    parser.add_argument("--runs", type=int, default=len(FAULTS), help="number of runs")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of load in each run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run; each further run adds 1")
    parser.add_argument("--replicas", type=int, default=4, help="number of replicas")
    parser.add_argument("--processes", type=int, default=2, help="number of replicas that have their own process")
    parser.add_argument(
        "--tracking",
        choices=(*get_args(TrackingMode), "mixed"),
        default="auto",
        help="CoherenceOptions.tracking; with mixed, the replicas track differently",
    )
    parser.add_argument("--max-staleness", type=float, default=1.0, help="CoherenceOptions.max_staleness")
    parser.add_argument(
        "--writes",
        choices=("await", "behind", "both"),
        default="both",
        help="WriteOptions.mode; with both, of each about half",
    )
    parser.add_argument(
        "--freshness",
        choices=("on", "off", "turns"),
        default="turns",
        help="whether the caches serve stale values and remember errors; with turns, with odd seeds",
    )
    parser.add_argument(
        "--stories", type=int, default=5, help="number of violations in a run to print with their history"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
