"""LiteLLM on a wrapped client: ``acompletion``, whole and streamed.

python -m pip install ".[openai]" litellm
"""

import asyncio
import os

import litellm
from openai import AsyncOpenAI

from tiercache import AgentCache

MESSAGES = [{"role": "user", "content": "Which river runs through Vienna?"}]


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        client = cache.wrap(AsyncOpenAI())

        for _ in range(2):
            answer = await litellm.acompletion(model="gpt-4o-mini", messages=MESSAGES, client=client)
            print(answer.choices[0].message.content)

        for _ in range(2):
            stream = await litellm.acompletion(model="gpt-4o-mini", messages=MESSAGES, client=client, stream=True)
            async for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()


asyncio.run(main())
