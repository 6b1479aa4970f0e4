"""An agent of Pydantic AI whose tool runs once for equal arguments, and whose model answers from the cache, too.

python -m pip install ".[openai,pydantic-ai]"
"""

import asyncio
import os

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tiercache import AgentCache
from tiercache.adapters.pydantic_ai import TierCacheTools


def weather(city: str) -> str:
    """Return the weather in a city."""
    print("The tool runs.")
    return f"It is sunny in {city}."


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        model = OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=cache.wrap(AsyncOpenAI())))
        agent = Agent(model, tools=[weather], capabilities=[TierCacheTools(cache, tools={"weather": "10m"})])
        for _ in range(2):
            print((await agent.run("How is the weather in Vienna?")).output)


asyncio.run(main())
