"""One process of a stampede: it opens its cache, and starts a stampede for each number on standard input."""

import asyncio
import json
import sys

from benchmarks.peers import Endpoint, Setting, peer_class
from benchmarks.works.stampede import CALLERS, PROCESSES, stampede


async def _main(name: str, host: str, port: str) -> None:
    peer = peer_class(name)()
    await peer.open(Setting(Endpoint(host, int(port))))
    try:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            clock, calls = await stampede(peer, int(line), CALLERS // PROCESSES)
            print(json.dumps({"cpu": clock.cpu, "calls": calls}), flush=True)
    finally:
        await peer.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
