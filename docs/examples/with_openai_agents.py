"""The OpenAI Agents SDK on a wrapped client: ``run`` and ``run_streamed``.

python -m pip install ".[openai]" openai-agents
"""

import asyncio
import os

from agents import Agent, OpenAIResponsesModel, Runner
from openai import AsyncOpenAI

from tiercache import AgentCache

QUESTION = "Which river runs through Vienna?"


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        client = cache.wrap(AsyncOpenAI())
        agent = Agent(name="Guide", model=OpenAIResponsesModel("gpt-4o-mini", client))

        for _ in range(2):
            print((await Runner.run(agent, QUESTION)).final_output)

        for _ in range(2):
            run = Runner.run_streamed(agent, QUESTION)
            async for event in run.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    print(event.data.delta, end="", flush=True)
            print()


asyncio.run(main())
