"""The command: ``python -m benchmarks`` measures everything, prints the tables, writes JSON, Markdown and the
plot.
"""

import argparse
import signal
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import pyperf
from valkey import Valkey

from benchmarks.peers import PEERS, Endpoint
from benchmarks.plan import Plan, cases
from benchmarks.report import Figures, goals, markdown
from benchmarks.requests import SIZES
from benchmarks.rounds import RoundFailedError, run_rounds, write
from benchmarks.server import cores, raise_file_limit, running_valkey

_RESULTS = Path(__file__).parent / "results"
_PLOT = Path(__file__).parent.parent / "docs" / "assets" / "benchmark.svg"
_PINNED = "With one caller, worker and Valkey share one core."
_FULL = ["--values", "3", "--warmups", "1", "--min-time", "0.1"]
_FAST = ["--values", "2", "--warmups", "1", "--min-time", "0.05"]
_PACKAGES = ("tiercache", "betterdb-agent-cache", "async-cache", "cashews", "aiocache", "valkey", "redis")


def main() -> int:
    """Run the command; returns the exit code, 1 for a wrong answer of a peer or, with ``--check``, a goal
    missed.
    """
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped on this one too
    try:
        suite = pyperf.BenchmarkSuite.load(str(args.show)) if args.show else _measure(args)
    except RoundFailedError as error:
        print(f"the run was ended: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    figures = Figures(suite)
    text = markdown(figures)
    print(text)
    if not args.show:
        args.output.with_suffix(".md").write_text(text)
    if args.plot:
        _plot(figures, args.plot)
    reached = [_say_goal(*goal) for goal in goals(figures)]
    return int(args.check and not all(reached))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure tiercache beside its peers.")
    parser.add_argument("--fast", action="store_true", help="the short request only, two rounds: a minute")
    parser.add_argument("--rounds", type=int, help="rounds, each with new worker processes (4; with --fast 2)")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="kinds of requests (all; with --fast short)")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="caches to measure")
    parser.add_argument("--same-request", action="store_true", help="pass one params object in every call")
    parser.add_argument("--no-pin", action="store_true", help="leave the workers and Valkey to the scheduler")
    parser.add_argument("--output", type=Path, help="JSON file; the Markdown goes beside it")
    parser.add_argument("--plot", type=Path, help=f"SVG file (a full run: {_PLOT.parent.name}/{_PLOT.name})")
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing, show this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    args = parser.parse_args()
    partial = args.fast or args.show or args.sizes or args.same_request or args.no_pin or args.peers != list(PEERS)
    if args.plot is None and not partial:
        args.plot = _PLOT
    if args.output is None:
        args.output = _RESULTS / ("partial.json" if partial else "latest.json")
    return args


def _measure(args: argparse.Namespace) -> pyperf.BenchmarkSuite:
    sizes = [SIZES[name] for name in args.sizes or (["short"] if args.fast else SIZES)]
    pinned = [] if args.no_pin else cores()
    raise_file_limit()
    with tempfile.TemporaryDirectory() as folder, running_valkey() as (endpoint, server_pid):
        plan = Plan(
            host=endpoint.host,
            port=endpoint.port,
            server_pid=server_pid,
            names=[case.name for case in cases(sizes, args.peers)],
            cores=pinned,
            notes=str(Path(folder) / "notes"),
            same_request=args.same_request,
        )
        options = _FAST if args.fast else _FULL
        suite = run_rounds(plan, args.rounds or (2 if args.fast else 4), options, Path(folder))
        asked = "the same params object" if args.same_request else "newly built params"
        described = {
            "versions": _versions(endpoint),
            "cores": _PINNED if pinned else "Nothing was pinned to a core.",
            "requests": f"Every call has {asked}.",
        }
    for bench in suite:
        bench.update_metadata(described)
    write(suite, args.output)
    return suite


def _versions(endpoint: Endpoint) -> str:
    with Valkey.from_url(endpoint.url) as client:
        server = cast("dict[str, Any]", client.info("server"))
    return ", ".join([f"Valkey {server['valkey_version']}", *map(_version, _PACKAGES)])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _plot(figures: Figures, path: Path) -> None:
    try:
        from benchmarks.plot import write_plot
    except ImportError as error:
        print(f"no plot: {error}; python -m pip install matplotlib", file=sys.stderr)
    else:
        write_plot(figures, path)


def _say_goal(reached: bool, words: str) -> bool:
    print(f"{'reached' if reached else 'MISSED '}  {words}", file=sys.stderr)
    return reached


if __name__ == "__main__":
    sys.exit(main())
