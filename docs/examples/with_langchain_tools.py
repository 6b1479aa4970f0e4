"""An agent of LangChain whose tool runs once for equal arguments, and whose model answers from the cache, too.

python -m pip install ".[langchain]" langchain-openai
"""

import asyncio
import os

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tiercache import AgentCache
from tiercache.adapters.langchain import TierCacheLLMCache, TierCacheToolMiddleware


@tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    print("The tool runs.")
    return f"It is sunny in {city}."


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        agent = create_agent(
            ChatOpenAI(model="gpt-4o-mini", cache=TierCacheLLMCache(cache, ttl="1d")),
            tools=[weather],
            middleware=[TierCacheToolMiddleware(cache, tools={"weather": "10m"})],
        )
        for _ in range(2):
            state = await agent.ainvoke({"messages": [("user", "How is the weather in Vienna?")]})
            print(state["messages"][-2].text, state["messages"][-1].text)


asyncio.run(main())
