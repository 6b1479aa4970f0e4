"""A chat model of LangChain on a wrapped HTTP client: ``ainvoke`` and ``astream``.

For ``invoke`` and ``stream``, pass ``http_client=cache.wrap(httpx2.Client(timeout=60))`` too.

python -m pip install ".[openai]" langchain-openai
"""

import asyncio
import os

import httpx2
from langchain_openai import ChatOpenAI

from tiercache import AgentCache

QUESTION = "Which river runs through Vienna?"


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        http_client = cache.wrap(httpx2.AsyncClient(timeout=60))
        model = ChatOpenAI(model="gpt-4o-mini", http_async_client=http_client)

        for _ in range(2):
            print((await model.ainvoke(QUESTION)).text)

        for _ in range(2):
            async for chunk in model.astream(QUESTION):
                print(chunk.text, end="", flush=True)
            print()


asyncio.run(main())
