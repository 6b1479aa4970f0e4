"""A graph whose node is cached: a second run, in this or another process, does not call the model.

python -m pip install ".[langgraph]" langchain-openai
"""

import asyncio
import os
from typing import TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy

from tiercache import AgentCache
from tiercache.adapters.langgraph import TierCacheNodeCache, node_key


class State(TypedDict):
    question: str
    answer: str


async def answer(state: State) -> dict[str, str]:
    message = await ChatOpenAI(model="gpt-4o-mini").ainvoke(state["question"])
    return {"answer": message.text}


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        builder = StateGraph(State)
        builder.add_node("answer", answer, cache_policy=CachePolicy(ttl=3600, key_func=node_key))
        builder.add_edge(START, "answer")
        builder.add_edge("answer", END)
        graph = builder.compile(cache=TierCacheNodeCache(cache))

        for _ in range(2):
            print((await graph.ainvoke({"question": "Which river runs through Vienna?"}))["answer"])


asyncio.run(main())
