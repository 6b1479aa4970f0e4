"""An agent of OpenAI Agents whose tool runs once for equal arguments, and whose model answers from the cache, too.

python -m pip install ".[openai,openai-agents]"
"""

import asyncio
import os

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI

from tiercache import AgentCache
from tiercache.adapters.openai_agents import cache_tools


@function_tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    print("The tool runs.")
    return f"It is sunny in {city}."


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        model = OpenAIChatCompletionsModel("gpt-4o-mini", cache.wrap(AsyncOpenAI()))
        agent = Agent(name="Guide", model=model, tools=cache_tools(cache, [weather], ttl="10m"))
        for _ in range(2):
            print((await Runner.run(agent, "How is the weather in Vienna?")).final_output)


asyncio.run(main())
