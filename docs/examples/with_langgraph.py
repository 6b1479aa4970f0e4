"""A graph of LangGraph whose threads and whose model's answers are in one cache: ``ainvoke`` and ``astream``.

python -m pip install ".[langgraph]" ".[openai]" langchain-openai
"""

import asyncio
import os
from uuid import uuid4

import httpx2
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from tiercache import AgentCache
from tiercache.adapters.langgraph import TierCacheSaver

QUESTION = {"messages": [("user", "Which river runs through Vienna?")]}


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        model = ChatOpenAI(model="gpt-4o-mini", http_async_client=cache.wrap(httpx2.AsyncClient(timeout=60)))

        async def answer(state: MessagesState) -> MessagesState:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer")
        graph = graph.compile(checkpointer=TierCacheSaver(cache))

        for thread in ({"configurable": {"thread_id": str(uuid4())}} for _ in range(2)):
            await graph.ainvoke(QUESTION, thread)
            print((await graph.aget_state(thread)).values["messages"][-1].text)

        for thread in ({"configurable": {"thread_id": str(uuid4())}} for _ in range(2)):
            async for chunk, _ in graph.astream(QUESTION, thread, stream_mode="messages"):
                print(chunk.text, end="", flush=True)
            print()


asyncio.run(main())
