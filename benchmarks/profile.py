"""The command ``python -m benchmarks.profile l1|l2|store``: where the CPU time of a call goes, measured by py-spy.

py-spy samples the stack of another process from outside, two hundred times a second. A profiler that counts calls makes
functions with many calls look more expensive; py-spy does not. Each sample counts for the function that runs; C code
counts for the Python function that calls it.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.data import SIZES
from benchmarks.peers import PEERS, Endpoint, Setting, peer_class
from benchmarks.server import running_valkey

_SECONDS = 6
_RATE = 200
_WORKS = {"l1": "l1", "l2": "l2", "store": "both"}
_SHOWN = 20
_BATCH = 100


def main() -> int:
    """Run the command and return the exit code of py-spy."""
    args = _arguments()
    if args.endpoint:
        asyncio.run(_work(args, Endpoint(args.endpoint[0], int(args.endpoint[1]))))
        return 0
    with running_valkey() as (endpoint, _), tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "stacks"
        own = [sys.executable, "-m", "benchmarks.profile", *sys.argv[1:], "--endpoint", endpoint.host]
        spy = [_py_spy(), "record", "--format", "raw", "--rate", str(_RATE), "--output", str(output), "--"]
        code = subprocess.call([*spy, *own, str(endpoint.port)], stdout=sys.stderr)
        if code == 0:
            _report([line for line in output.read_text().splitlines() if _is_work(line)])
        return code


def _py_spy() -> str:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("py-spy", path=beside) or sys.exit("py-spy is needed: python -m pip install py-spy")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=list(_WORKS), help="an L1 hit, an L2 hit, or a store")
    parser.add_argument("--peer", choices=list(PEERS), default="tiercache", help="the cache to profile (tiercache)")
    parser.add_argument("--size", choices=list(SIZES), default="short", help="kind of request (short)")
    parser.add_argument("--callers", type=int, default=1, help="tasks that call at once (1)")
    parser.add_argument("--endpoint", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


async def _work(args: argparse.Namespace, endpoint: Endpoint) -> None:
    peer, size = peer_class(args.peer)(), SIZES[args.size]
    await peer.open(Setting(endpoint, _WORKS[args.work]))
    requests = [size.build(number) for number in range(_BATCH)]
    replies = [size.reply(number) for number in range(_BATCH)]
    for params, reply in zip(requests, replies, strict=True):
        await peer.store(params, reply)
    calls, started, cpu = 0, perf_counter(), process_time()

    async def caller(first: int) -> None:
        nonlocal calls
        call: Callable[[int], Awaitable[object]] = lambda number: peer.check(requests[number])  # noqa: E731
        if args.work == "store":
            call = lambda number: peer.store(requests[number], replies[number])  # noqa: E731
        while perf_counter() < started + _SECONDS:
            for turn in range(_BATCH):
                await call((first + turn) % _BATCH)
                calls += 1

    await asyncio.gather(*map(caller, range(args.callers)))
    spent = process_time() - cpu
    await peer.close()
    print(f"{calls:,} calls, {spent / calls * 1e6:.3g} µs of CPU time each, {_SECONDS / calls * 1e6:.3g} µs in all")


def _is_work(stack: str) -> bool:
    """Return whether ``stack`` is of the running event loop and not of an import."""
    return "run_forever" in stack and "importlib" not in stack


def _report(stacks: list[str]) -> None:
    """Print the shares of packages and of functions in all samples."""
    packages: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for stack in stacks:
        frames, _, count = stack.rpartition(" ")
        leaf = frames.split(";")[-1]
        name, _, place = leaf.rpartition(" (")
        file = place.rpartition(":")[0]
        functions[f"{name} ({file})"] += int(count)
        packages[_package(file)] += int(count)
    total = packages.total()
    for title, shares in (("by package", packages), ("by function", functions)):
        print(f"\n{title}, {total:,} samples")
        for shown, samples in shares.most_common(_SHOWN):
            print(f"{samples / total:7.1%}  {shown}")


def _package(file: str) -> str:
    parts = Path(file).with_suffix("").parts if file else ("interpreter",)
    return "/".join(parts[:2]) if parts[0] == "tiercache" else parts[0]


if __name__ == "__main__":
    sys.exit(main())
