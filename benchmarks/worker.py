"""The process that measures one peer: it reads cases from standard input, one JSON object per line, and answers each.

The driver starts it. For each case the process opens the peer, checks it, measures it and closes it. Between two cases
the process waits and costs nothing.
"""

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.peers import Endpoint, peer_class
from benchmarks.server import Counters, pin, raise_file_limit
from benchmarks.timing import Budget, Measured
from benchmarks.works import WORKS, Bench, Variant


def main() -> None:
    """Answer cases until standard input ends."""
    name, loop_name = sys.argv[1], sys.argv[2]
    # Output that a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    raise_file_limit()
    loop_name = peer_class(name).loop or loop_name
    for line in sys.stdin:
        try:
            answer = _measure(name, json.loads(line), _loop_factory(loop_name))
        except Exception as error:
            # Any error of a peer or its library fails this case, and the driver reports which case that was.
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _measure(name: str, request: dict[str, Any], loop_factory: Callable[[], Any] | None) -> dict[str, Any]:
    endpoint = Endpoint(**request["endpoint"])
    pin(0, request["cores"])
    with Counters(endpoint) as counters, asyncio.Runner(loop_factory=loop_factory) as runner:
        bench = Bench(endpoint, counters, Budget(**request["budget"]), request["loops"], name)
        found = runner.run(_run(name, request["work"], request["variant"], bench))
    return {"measured": {peer: asdict(measured) for peer, measured in found.items()}}


async def _run(name: str, work_name: str, variant_name: str, bench: Bench) -> dict[str, Measured]:
    work = WORKS[work_name]
    variant: Variant = next(each for each in work.variants() if each.name == variant_name)
    peer = peer_class(name)()
    await peer.open(work.setting(bench.endpoint, variant))
    try:
        measured = await work.run(peer, variant, bench)
    finally:
        await peer.close()
    return measured if isinstance(measured, dict) else {name: measured}


def _loop_factory(name: str) -> Callable[[], Any] | None:
    if name != "uvloop":
        return None
    import uvloop

    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
