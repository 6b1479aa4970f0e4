"""The command line of the soak: runs it, prints its faults and problems, and then the report."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from .checks import check_end
from .faults import FAULTS
from .report import report_of
from .run import SoakSettings, run_soak

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 with violations, 2 if the soak failed, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f}  {line}", flush=True)

    try:
        settings = SoakSettings(
            seconds=options.minutes * 60,
            processes=options.processes,
            seed=options.seed,
            ttl=options.ttl,
            settle=options.settle,
            faults=tuple(options.fault),
        )
        outcome = asyncio.run(run_soak(settings, say=say))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; every process and every server has ended")
        return 130
    # Any error that stops the soak is printed.
    except Exception:
        traceback.print_exc()
        return 2
    outcome.problems += check_end(outcome)
    report = report_of(outcome)
    print(f"\n{report}", end="", flush=True)
    if options.report is not None:
        Path(options.report).write_text(report, "utf-8")
    return int(bool(outcome.problems))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Run processes under a mixed load and random faults, on a real Valkey, and check every answer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="minutes of load")
    parser.add_argument("--processes", type=int, default=8, help="number of processes")
    parser.add_argument("--seed", type=int, default=1, help="decides the operations and the faults")
    parser.add_argument("--ttl", type=float, default=20.0, help="the longest lifetime of an entry, in seconds")
    parser.add_argument(
        "--settle", type=float, default=240.0, help="seconds until Valkey must have few keys; 0: do not check"
    )
    parser.add_argument("--fault", nargs="+", choices=tuple(FAULTS), default=list(FAULTS), help="the faults, at random")
    parser.add_argument("--report", help="a file for the report, as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
