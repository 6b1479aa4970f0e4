"""Agents of Pydantic AI on a wrapped client: ``run`` and ``run_stream``.

python -m pip install ".[openai]" "pydantic-ai-slim[openai]"
"""

import asyncio
import os

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tiercache import AgentCache

QUESTION = "Which river runs through Vienna?"


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        client = cache.wrap(AsyncOpenAI())
        agent = Agent(OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=client)))

        for _ in range(2):
            print((await agent.run(QUESTION)).output)

        for _ in range(2):
            async with agent.run_stream(QUESTION) as run:
                async for text in run.stream_text(delta=True):
                    print(text, end="", flush=True)
            print()


asyncio.run(main())
