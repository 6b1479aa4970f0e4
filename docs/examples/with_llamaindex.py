"""A model of LlamaIndex on a wrapped HTTP client: ``acomplete`` and ``astream_complete``.

python -m pip install ".[compress]" llama-index-llms-openai
"""

import asyncio
import os

import httpx
from llama_index.llms.openai import OpenAI

from tiercache import AgentCache

QUESTION = "Which river runs through Vienna?"


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        model = OpenAI(model="gpt-4o-mini", async_http_client=cache.wrap(httpx.AsyncClient(timeout=60)))

        for _ in range(2):
            print((await model.acomplete(QUESTION)).text)

        for _ in range(2):
            async for part in await model.astream_complete(QUESTION):
                print(part.delta, end="", flush=True)
            print()


asyncio.run(main())
