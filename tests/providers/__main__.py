"""``python -m tests.providers [port]``: run the server until Ctrl+C, and print each request that it has answered."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time

from tests.providers.script import Script
from tests.providers.server import ProviderServer


def main(arguments: list[str]) -> None:
    """Run the server, with the pace of a model."""
    script = Script(part_count=12, delay_first=0.3, delay_part=0.05)
    with ProviderServer(script, port=int(arguments[0]) if arguments else 8123) as server:
        print(f"export OPENAI_BASE_URL={server.openai_url} OPENAI_API_KEY=none")
        print(f"export ANTHROPIC_BASE_URL={server.url} ANTHROPIC_API_KEY=none")
        print(f"export GOOGLE_GEMINI_BASE_URL={server.url} GEMINI_API_KEY=none", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            for number in itertools.count():
                while len(server.requests) <= number or server.requests[number].outcome == "open":
                    time.sleep(0.05)
                print(server.requests[number], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
