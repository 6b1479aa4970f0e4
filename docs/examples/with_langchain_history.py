"""A chat of LangChain whose messages are in Valkey: a later run, of any process, goes on where this one ends.

python -m pip install ".[langchain]" langchain-openai
"""

import asyncio
import os

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from tiercache import AgentCache
from tiercache.adapters.langchain import TierCacheChatMessageHistory

QUESTIONS = ["Which river runs through Vienna?", "And which one runs through Rome?"]


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        model = ChatOpenAI(model="gpt-4o-mini")
        history = TierCacheChatMessageHistory(cache, "chat:1")

        known = await history.aget_messages()
        for question in QUESTIONS[len(known) // 2 :]:
            asked = HumanMessage(question)
            answer = await model.ainvoke([*await history.aget_messages(), asked])
            await history.aadd_messages([asked, answer])

        for message in await history.aget_messages():
            print(f"{message.type}: {message.text}")


asyncio.run(main())
