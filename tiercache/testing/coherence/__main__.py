"""The checker's command line: runs with one seed after the other, a line for each, and the story of what went wrong."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...errors import UsageError
from .faults import FAULTS, NEEDS_PROCESS
from .report import stories_of, summary_of, title_of
from .run import Outcome, RunSettings, run_once

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 with violations, 2 where a run could not be done."""
    options = _parser().parse_args(arguments)
    # That Valkey is away is what many runs are about.
    logging.getLogger("tiercache").setLevel(logging.ERROR)
    outcomes: list[Outcome] = []
    try:
        for number, settings in enumerate(_settings(options), 1):
            try:
                outcome = asyncio.run(run_once(settings))
            # Whatever keeps a run from its end is shown, and how to see it again.
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
    """Return the settings of each run: fault after fault, each run with a seed of its own."""
    names = list(FAULTS) if "all" in options.fault else options.fault
    base = RunSettings(
        seconds=options.seconds,
        replicas=options.replicas,
        processes=options.processes,
        tracking=options.tracking,
        max_staleness=options.max_staleness,
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
    parser.add_argument("--fault", nargs="+", choices=("all", *FAULTS), default=["all"], help="in turn")
    parser.add_argument("--runs", type=int, default=len(FAULTS), help="how many runs in all")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each run")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--replicas", type=int, default=4, help="caches")
    parser.add_argument("--processes", type=int, default=2, help="how many of them have a process of their own")
    parser.add_argument("--tracking", choices=("auto", "on", "off"), default="auto", help="CoherenceOptions.tracking")
    parser.add_argument("--max-staleness", type=float, default=1.0, help="CoherenceOptions.max_staleness")
    parser.add_argument("--stories", type=int, default=5, help="how many violations of a run are told at length")
    return parser


if __name__ == "__main__":
    sys.exit(main())
