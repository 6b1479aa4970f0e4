"""A conversation of OpenAI Agents that is in Valkey: a later run, of any process, goes on where this one ends.

python -m pip install ".[openai,openai-agents]"
"""

import asyncio
import os

from agents import Agent, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI

from tiercache import AgentCache
from tiercache.adapters.openai_agents import TierCacheSession

QUESTIONS = ["Which river runs through Vienna?", "And which one runs through Rome?"]


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        agent = Agent(name="Guide", model=OpenAIChatCompletionsModel("gpt-4o-mini", AsyncOpenAI()))
        session = TierCacheSession("chat:1", cache, ttl="7d")

        for question in QUESTIONS[len(await session.get_items()) // 2 :]:
            await Runner.run(agent, question, session=session)

        for item in await session.get_items():
            print(item["role"], item["content"])


asyncio.run(main())
