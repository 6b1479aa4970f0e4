"""Two checkouts of tiercache side by side: client CPU time for one operation, old, new, and old against itself.

    python -m benchmarks.checkouts OLD NEW [--rounds 15] [--only NAME ...]

OLD and NEW are folders with a ``tiercache`` package. Each checkout has a process of its own, and the processes take
turns row by row, so that a slow phase of the machine meets all of them. The column "old/old" compares OLD with a second
process of OLD: its distance from 1 is the noise. The rows use the public API alone, because internals differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["ROWS", "check_work", "main"]

Step = Callable[[int], Awaitable[Any]]

_CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "user" if n % 2 else "assistant", "content": f"turn {n}: " + "word " * 60} for n in range(24)
    ],
    "temperature": 0.2,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": f"tool_{n}",
                "description": "Looks something up. " * 4,
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
                },
            },
        }
        for n in range(8)
    ],
}
_SHORT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "What is the capital of Bulgaria?"}],
}
_ARGS = {"city": "Sofia", "unit": "celsius"}


def _numbered(params: dict[str, Any], number: int) -> dict[str, Any]:
    return {**params, "messages": [{"role": "system", "content": str(number)}, *params["messages"]]}


async def _answer(*_: Any, **__: Any) -> str:
    return "The capital of Bulgaria is Sofia."


# A row returns the step to time. ``local`` has no Valkey, ``remote`` has one.


async def _llm_hit(local: Any, remote: Any, params: dict[str, Any]) -> Step:
    await remote.llm.get_or_load(params, _answer)
    return lambda n: remote.llm.check(params)


async def _llm_load_hit(local: Any, remote: Any) -> Step:
    await remote.llm.get_or_load(_SHORT, _answer)
    return lambda n: remote.llm.get_or_load(_SHORT, _answer)


async def _tool_hit(local: Any, remote: Any) -> Step:
    await remote.tool.get_or_load("get_weather", _ARGS, _answer)
    return lambda n: remote.tool.check("get_weather", _ARGS)


async def _tool_load_hit(local: Any, remote: Any) -> Step:
    await remote.tool.get_or_load("get_weather", _ARGS, _answer)
    return lambda n: remote.tool.get_or_load("get_weather", _ARGS, _answer)


async def _kv_hit(local: Any, remote: Any) -> Step:
    await remote.kv.set("key", "value")
    return lambda n: remote.kv.get("key")


async def _kv_load_hit(local: Any, remote: Any) -> Step:
    await remote.kv.set("key", "value")
    return lambda n: remote.kv.get_or_load("key", _answer)


async def _session_hit(local: Any, remote: Any) -> Step:
    await remote.session.set("thread", "field", "value")
    return lambda n: remote.session.get("thread", "field")


def _from_l2(tier: Any, step: Step) -> Step:
    async def run(n: int) -> None:
        tier.clear_l1()
        await step(n)

    return run


async def _llm_l2(local: Any, remote: Any) -> Step:
    await remote.llm.get_or_load(_SHORT, _answer)
    await remote.flush_writes()
    return _from_l2(remote, lambda n: remote.llm.check(_SHORT))


async def _kv_l2(local: Any, remote: Any) -> Step:
    await remote.kv.set("key", "value")
    return _from_l2(remote, lambda n: remote.kv.get("key"))


async def _kv_l2_many(local: Any, remote: Any) -> Step:
    keys = [f"many{n}" for n in range(100)]
    await remote.kv.set_many(dict.fromkeys(keys, "value"))
    return _from_l2(remote, lambda n: remote.kv.get_many(keys))


async def _llm_l2_100(local: Any, remote: Any) -> Step:
    requests = [_numbered(_SHORT, n) for n in range(100)]
    await asyncio.gather(*(remote.llm.get_or_load(params, _answer) for params in requests))
    await remote.flush_writes()
    return _from_l2(remote, lambda n: asyncio.gather(*(remote.llm.check(params) for params in requests)))


async def _llm_miss(local: Any, remote: Any) -> Step:
    return lambda n: remote.llm.get_or_load(_numbered(_SHORT, n), _answer)


async def _tool_miss(local: Any, remote: Any) -> Step:
    return lambda n: remote.tool.get_or_load("get_weather", {"city": str(n)}, _answer)


async def _kv_miss(local: Any, remote: Any) -> Step:
    return lambda n: remote.kv.get_or_load(f"miss{n}", _answer)


async def _kv_miss_100(local: Any, remote: Any) -> Step:
    return lambda n: asyncio.gather(*(remote.kv.get_or_load(f"miss{n}-{k}", _answer) for k in range(100)))


async def _identical_misses(local: Any, remote: Any) -> Step:
    return lambda n: asyncio.gather(*(remote.kv.get_or_load(f"same{n}", _answer) for _ in range(100)))


async def _llm_store(local: Any, remote: Any) -> Step:
    return lambda n: remote.llm.store(_numbered(_SHORT, n), "answer")


async def _kv_store(local: Any, remote: Any) -> Step:
    return lambda n: remote.kv.set(f"store{n}", "value")


async def _kv_store_100(local: Any, remote: Any) -> Step:
    return lambda n: asyncio.gather(*(remote.kv.set(f"store{n}-{k}", "value") for k in range(100)))


async def _kv_set_many(local: Any, remote: Any) -> Step:
    return lambda n: remote.kv.set_many({f"set{n}-{k}": "value" for k in range(100)})


async def _session_set(local: Any, remote: Any) -> Step:
    return lambda n: remote.session.set("thread", "field", str(n))


async def _kv_delete(local: Any, remote: Any) -> Step:
    return lambda n: remote.kv.delete("absent")


async def _local_hit(local: Any, remote: Any) -> Step:
    await local.kv.set("key", "value")
    return lambda n: local.kv.get("key")


async def _local_miss(local: Any, remote: Any) -> Step:
    return lambda n: local.kv.get_or_load(f"miss{n}", _answer)


async def _local_store(local: Any, remote: Any) -> Step:
    return lambda n: local.kv.set(f"store{n}", "value")


ROWS: dict[str, tuple[Callable[[Any, Any], Awaitable[Step]], int]] = {
    "L1 llm.check, short": (lambda local, remote: _llm_hit(local, remote, _SHORT), 20_000),
    "L1 llm.check, chat": (lambda local, remote: _llm_hit(local, remote, _CHAT), 6_000),
    "L1 llm.get_or_load": (_llm_load_hit, 20_000),
    "L1 tool.check": (_tool_hit, 20_000),
    "L1 tool.get_or_load": (_tool_load_hit, 20_000),
    "L1 kv.get": (_kv_hit, 20_000),
    "L1 kv.get_or_load": (_kv_load_hit, 20_000),
    "L1 session.get": (_session_hit, 10_000),
    "L1 kv.get, no Valkey": (_local_hit, 20_000),
    "L2 llm.check": (_llm_l2, 1_500),
    "L2 kv.get": (_kv_l2, 1_500),
    "L2 kv.get_many, 100": (_kv_l2_many, 100),
    "L2 llm.check, 100 callers": (_llm_l2_100, 60),
    "miss llm.get_or_load": (_llm_miss, 600),
    "miss tool.get_or_load": (_tool_miss, 600),
    "miss kv.get_or_load": (_kv_miss, 600),
    "miss kv.get_or_load, 100 keys": (_kv_miss_100, 20),
    "miss kv.get_or_load, 100 callers, one key": (_identical_misses, 60),
    "miss kv.get_or_load, no Valkey": (_local_miss, 3_000),
    "store llm.store": (_llm_store, 800),
    "store kv.set": (_kv_store, 800),
    "store kv.set, 100 at once": (_kv_store_100, 25),
    "store kv.set_many, 100": (_kv_set_many, 25),
    "store session.set": (_session_set, 800),
    "store kv.set, no Valkey": (_local_store, 5_000),
    "delete kv.delete": (_kv_delete, 800),
}


def check_work(name: str, cache: Any, count: int) -> None:
    """Raise AssertionError if the steps of a row were not answered as its name says."""
    tiers = cache.local_stats().tiers.values()
    counter = {"L1": "l1_hits", "L2": "l2_hits", "miss": "loads", "store": "stored_bytes"}.get(name.split()[0])
    assert counter is None or sum(getattr(tier, counter) for tier in tiers) >= count, f"{name}: too few {counter}"


async def _serve(url: str) -> None:
    """Measure the rows named on standard input, one at a time; print the CPU seconds of one step of each."""
    from tiercache import AgentCache, DiscoveryOptions, TelemetryOptions

    quiet: Any = {
        "telemetry": TelemetryOptions(metrics=False, tracing=False),
        "discovery": DiscoveryOptions(enabled=False),
    }
    for line in sys.stdin:
        prepare, count = ROWS[line.strip()]
        async with (
            AgentCache.in_memory(**quiet) as local,
            AgentCache.from_url(url, name=f"b{os.getpid()}", **quiet) as remote,
        ):
            step = await prepare(local, remote)
            for n in range(count // 10):
                await step(-1 - n)
            began = time.process_time()
            for n in range(count):
                await step(n)
            seconds = time.process_time() - began
            check_work(line.strip(), local if "no Valkey" in line else remote, count)
            print(seconds / count, flush=True)
            await remote.flush(include_session=True)


class _Worker:
    """A process that measures one checkout."""

    def __init__(self, checkout: str, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--serve", url],
            env={**os.environ, "PYTHONPATH": os.path.abspath(checkout)},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, row: str) -> float:
        """Return the CPU seconds of one step of ``row``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{row}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


def main(arguments: list[str]) -> None:
    """Print a line for each row: the CPU time of the old checkout, new/old and old/old."""
    parser = argparse.ArgumentParser(description="Compare two checkouts of tiercache by client CPU time.")
    parser.add_argument("old", help="folder with the older tiercache package")
    parser.add_argument("new", help="folder with the newer one")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="parts of row names")
    options = parser.parse_args(arguments)
    names = [name for name in ROWS if not options.only or any(part in name for part in options.only)]
    from tiercache.embedded import EmbeddedValkey

    server = EmbeddedValkey()
    server.start()
    checkouts = {"old": options.old, "new": options.new, "again": options.old}
    workers = {label: _Worker(checkout, server.url) for label, checkout in checkouts.items()}
    times: dict[str, dict[str, list[float]]] = {name: {label: [] for label in workers} for name in names}
    try:
        for number in range(options.rounds):
            labels = [*checkouts][number % 3 :] + [*checkouts][: number % 3]
            for name in names:
                for label in labels:
                    times[name][label].append(workers[label].measure(name))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.stop()
        server.stop()
    print(f"{'row':<44} {'old, µs':>9} {'new/old':>8} {'old/old':>8}   (medians of {options.rounds} rounds' ratios)")
    for name, by_label in times.items():
        old = by_label["old"]
        new, again = (
            statistics.median(a / b for a, b in zip(by_label[label], old, strict=True)) for label in ("new", "again")
        )
        print(f"{name:<44} {statistics.median(old) * 1e6:9.2f} {new:8.3f} {again:8.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(_serve(sys.argv[2]))
    else:
        main(sys.argv[1:])
