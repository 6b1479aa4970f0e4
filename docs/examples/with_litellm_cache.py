"""LiteLLM's own calls with a cache: a whole answer, a stream and embeddings. A second run sends no request.

python -m pip install ".[litellm]"
"""

import asyncio
import os

import litellm

from tiercache import AgentCache
from tiercache.adapters.litellm import TierCacheLiteLLM

REQUEST = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Which river runs through Vienna?"}]}


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        litellm.cache = TierCacheLiteLLM(cache, ttl="1d")
        for _ in range(2):
            answer = await litellm.acompletion(**REQUEST)
            print(answer.choices[0].message.content)
            await asyncio.sleep(0.1)  # LiteLLM stores an answer in a task of its own.
        for _ in range(2):
            async for chunk in await litellm.acompletion(**REQUEST, stream=True):
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()
            await asyncio.sleep(0.1)
        for _ in range(2):
            embeddings = await litellm.aembedding(model="text-embedding-3-small", input=["Vienna", "Danube"])
            print(len(embeddings.data))
            await asyncio.sleep(0.1)


asyncio.run(main())
