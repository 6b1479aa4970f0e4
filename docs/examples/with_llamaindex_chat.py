"""A chat of LlamaIndex that a later run, in any process, continues with its whole history.

python -m pip install ".[llamaindex]" llama-index-llms-openai
"""

import asyncio
import os

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.llms.openai import OpenAI

from tiercache import AgentCache
from tiercache.adapters.llamaindex import TierCacheChatStore


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        store = TierCacheChatStore(cache, ttl="30d")
        memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="user-42", token_limit=4000)
        if not await store.aget_messages("user-42"):
            engine = SimpleChatEngine.from_defaults(llm=OpenAI(model="gpt-4o-mini"), memory=memory)
            await engine.achat("Which river runs through Vienna?")
        for message in await store.aget_messages("user-42"):
            print(f"{message.role.value}: {message.content}")


asyncio.run(main())
