"""The answers of a chat model of LangChain, in a cache that several processes share.

python -m pip install ".[langchain]" langchain-openai
"""

import asyncio
import os

from langchain_openai import ChatOpenAI

from tiercache import AgentCache
from tiercache.adapters.langchain import TierCacheLLMCache

QUESTION = "Which river runs through Vienna?"


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        model = ChatOpenAI(model="gpt-4o-mini", cache=TierCacheLLMCache(cache, ttl="1d"))

        for _ in range(2):
            message = await model.ainvoke(QUESTION)
            print(message.text, message.usage_metadata["output_tokens"])


asyncio.run(main())
