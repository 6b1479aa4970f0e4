"""The SDK of Gemini on a wrapped HTTP client: ``generate_content``, whole and streamed.

python -m pip install ".[google]"
"""

import asyncio
import os

import httpx2
from google import genai
from google.genai.types import HttpOptions

from tiercache import AgentCache

QUESTION = "Which river runs through Vienna?"


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        http_client = cache.wrap(httpx2.AsyncClient(timeout=60))
        client = genai.Client(http_options=HttpOptions(httpx_async_client=http_client))

        for _ in range(2):
            answer = await client.aio.models.generate_content(model="gemini-3.8-flash", contents=QUESTION)
            print(answer.text)

        for _ in range(2):
            stream = await client.aio.models.generate_content_stream(model="gemini-3.8-flash", contents=QUESTION)
            async for part in stream:
                print(part.text or "", end="", flush=True)
            print()


asyncio.run(main())
