"""A conversation of Pydantic AI that is in Valkey: a later run, of any process, goes on where this one ends.

python -m pip install ".[openai,pydantic-ai]"
"""

import asyncio
import os

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tiercache import AgentCache
from tiercache.adapters.pydantic_ai import TierCacheConversationStore

QUESTIONS = ["Which river runs through Vienna?", "And which one runs through Rome?"]


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        agent = Agent(OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=AsyncOpenAI())))
        store = TierCacheConversationStore(cache, ttl="30d")

        conversation = await store.load("chat:1") or Conversation(conversation_id="chat:1")
        for question in QUESTIONS[len(conversation.messages) // 2 :]:
            result = await agent.run(question, conversation=conversation)
            await store.save(result)
            conversation = result.conversation

        for message in conversation.messages:
            print(message.parts[-1].content)


asyncio.run(main())
