"""A graph that remembers its user across threads, runs and processes, in plain code.

python -m pip install ".[langgraph]"
"""

import os
from typing import TypedDict

from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph

from tiercache import AgentCache
from tiercache.adapters.langgraph import TierCacheStore


class State(TypedDict):
    visits: int


def visit(state: State) -> State:
    store = get_store()
    known = store.get(("users", "ada"), "visits")
    visits = 1 if known is None else known.value["count"] + 1
    store.put(("users", "ada"), "visits", {"count": visits})
    return {"visits": visits}


builder = StateGraph(State)
builder.add_node("visit", visit)
builder.add_edge(START, "visit")
builder.add_edge("visit", END)

cache = AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379"))
with cache.sync:
    graph = builder.compile(store=TierCacheStore(cache))
    print(f"visit {graph.invoke({})['visits']}")
