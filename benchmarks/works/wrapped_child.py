"""One reader of a stream that several processes share: it makes the call whose number it reads on standard input."""

import asyncio
import json
import sys
from time import monotonic

from benchmarks import sdk
from benchmarks.peers import Endpoint, Setting, peer_class


async def _main(name: str, url: str, host: str, port: str) -> None:
    peer = peer_class(name)()
    await peer.open(Setting(Endpoint(host, int(port))))
    assert peer.wrap is not None
    client = peer.wrap(sdk.client_of(url))
    try:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            arguments = sdk.question(int(line), stream=True)
            raw = await client.chat.completions.with_raw_response.create(**arguments)
            # The clock of the system, which all processes share.
            moments = [monotonic() async for _ in raw.parse()]
            print(json.dumps({"source": raw.headers["x-tiercache-source"], "moments": moments}), flush=True)
    finally:
        await peer.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
