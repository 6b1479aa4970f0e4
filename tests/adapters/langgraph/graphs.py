"""Graphs for tests of the saver, and a driver that runs them by LangGraph's async or plain methods."""

from __future__ import annotations

import operator
import random
import string
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt

__all__ = ["Driver", "chat", "config", "fan_out", "outer", "random_text", "stops_for_approval"]


def config(thread: str = "thread", **more: Any) -> Any:
    """Return a config that names a thread."""
    return {"configurable": {"thread_id": thread, **more}}


def random_text(size: int, seed: int = 5) -> str:
    """Return words of random letters, which compress as little as any text."""
    rng = random.Random(seed)
    text = ""
    while len(text) < size:
        text += "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))) + " "
    return text[:size]


class Chat(TypedDict):
    messages: Annotated[list[Any], add_messages]


def chat(saver: Any, *, answer_size: int = 10) -> Any:
    """Return a chat graph: a model that answers with the count of messages and random text."""

    def model(state: Chat) -> Any:
        count = len(state["messages"])
        return {"messages": [AIMessage(f"{count} {random_text(answer_size, count)}", id=f"ai-{count}")]}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile(checkpointer=saver)


def human(text: str) -> Any:
    """Return the input of one turn of a chat."""
    return {"messages": [HumanMessage(text, id=f"human-{text[:20]}")]}


class Steps(TypedDict):
    path: Annotated[list[str], operator.add]
    total: int


def stops_for_approval(saver: Any) -> Any:
    """Return a graph that stops in its second node until it is resumed with an answer."""

    def draft(state: Steps) -> Any:
        return {"path": ["draft"], "total": state.get("total", 0) + 1}

    def approve(state: Steps) -> Any:
        answer = interrupt({"total": state["total"]})
        return {"path": [f"approve {answer}"]}

    def publish(state: Steps) -> Any:
        return {"path": ["publish"], "total": state["total"] + 10}

    builder = StateGraph(Steps)
    for name, node in (("draft", draft), ("approve", approve), ("publish", publish)):
        builder.add_node(name, node)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "approve")
    builder.add_edge("approve", "publish")
    builder.add_edge("publish", END)
    return builder.compile(checkpointer=saver)


def outer(saver: Any) -> Any:
    """Return a graph whose middle node is a graph, which stops for approval itself."""
    builder = StateGraph(Steps)
    builder.add_node("before", lambda state: {"path": ["before"], "total": 5})
    builder.add_node("inner", stops_for_approval(None))
    builder.add_node("after", lambda state: {"path": ["after"]})
    builder.add_edge(START, "before")
    builder.add_edge("before", "inner")
    builder.add_edge("inner", "after")
    builder.add_edge("after", END)
    return builder.compile(checkpointer=saver)


def fan_out(saver: Any) -> Any:
    """Return a graph that runs one node for each of some items in the same step."""
    builder = StateGraph(Steps)
    builder.add_node("work", lambda item: {"path": [f"work {item['total']}"]})
    builder.add_node("end", lambda state: {"total": len(state["path"])})
    builder.add_conditional_edges(START, lambda state: [Send("work", {"total": n}) for n in range(5)], ["work"])
    builder.add_edge("work", "end")
    builder.add_edge("end", END)
    return builder.compile(checkpointer=saver)


class Driver:
    """Runs a graph by its async methods, or by its plain methods on the thread of the event loop.

    Every method returns only data that two runs have in common: random ids and times are left out.
    """

    def __init__(self, graph: Any, *, is_async: bool) -> None:
        self.graph = graph
        self.is_async = is_async

    async def invoke(self, value: Any, config: Any, **more: Any) -> Any:
        result = (
            await self.graph.ainvoke(value, config, **more)
            if self.is_async
            else self.graph.invoke(value, config, **more)
        )
        return {name: _plain(each) for name, each in result.items() if name != "__interrupt__"}

    async def resume(self, answer: Any, config: Any) -> Any:
        return await self.invoke(Command(resume=answer), config)

    async def snapshot(self, config: Any, **more: Any) -> Any:
        graph = self.graph
        return await graph.aget_state(config, **more) if self.is_async else graph.get_state(config, **more)

    async def state(self, config: Any, **more: Any) -> Any:
        return _shown(await self.snapshot(config, **more))

    async def snapshots(self, config: Any) -> list[Any]:
        if self.is_async:
            return [each async for each in self.graph.aget_state_history(config)]
        return list(self.graph.get_state_history(config))

    async def history(self, config: Any) -> list[Any]:
        return [_shown(each) for each in await self.snapshots(config)]

    async def update(self, config: Any, values: Any, **more: Any) -> Any:
        if self.is_async:
            return await self.graph.aupdate_state(config, values, **more)
        return self.graph.update_state(config, values, **more)


def _plain(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [(each.type, each.id, each.content) if hasattr(each, "content") else each for each in value]


def _shown(snapshot: Any) -> Any:
    return (
        {name: _plain(value) for name, value in snapshot.values.items()},
        snapshot.next,
        {name: value for name, value in (snapshot.metadata or {}).items() if name in ("source", "step")},
        snapshot.parent_config is None,
        [(task.name, task.path, [each.value for each in task.interrupts], task.result) for task in snapshot.tasks],
    )
