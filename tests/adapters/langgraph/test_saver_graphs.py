"""The saver under real graphs: every scenario gives the results of LangGraph's own saver in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.adapters.installed import needs

needs("langgraph", "langchain_core")

from langgraph.checkpoint.memory import InMemorySaver

from tests.adapters.langgraph.graphs import Driver, chat, config, fan_out, human, outer, stops_for_approval
from tests.support import MakeCache
from tiercache import AgentCache
from tiercache.adapters.langgraph import TierCacheSaver

Scenario = Callable[[Any, bool], Awaitable[list[Any]]]


async def chat_memory(saver: Any, is_async: bool) -> list[Any]:
    """Three turns, each of which sees those before; a second thread sees none of them."""
    run = Driver(chat(saver), is_async=is_async)
    seen = [await run.invoke(human(f"turn {n}"), config()) for n in range(3)]
    seen.append(await run.invoke(human("other"), config("other")))
    return [*seen, await run.state(config()), await run.history(config())]


async def interrupts(saver: Any, is_async: bool) -> list[Any]:
    """A graph stops, is looked at, and goes on with an answer."""
    run = Driver(stops_for_approval(saver), is_async=is_async)
    stopped = await run.invoke({"path": [], "total": 1}, config())
    seen = await run.state(config())
    done = await run.resume("yes", config())
    return [stopped, seen, done, await run.state(config()), await run.history(config())]


async def subgraph(saver: Any, is_async: bool) -> list[Any]:
    """A graph inside of a graph stops; its state has a namespace of its own."""
    run = Driver(outer(saver), is_async=is_async)
    stopped = await run.invoke({"path": ["start"]}, config())
    snapshot = await run.snapshot(config(), subgraphs=True)
    inner = snapshot.tasks[0].state
    seen = (inner.values, inner.next, [each.value for each in inner.tasks[0].interrupts])
    done = await run.resume("no", config())
    return [stopped, seen, done, await run.history(config())]


async def time_travel(saver: Any, is_async: bool) -> list[Any]:
    """A thread runs again from an earlier checkpoint, and its history has both ways."""
    run = Driver(chat(saver), is_async=is_async)
    for n in range(3):
        await run.invoke(human(f"turn {n}"), config())
    earlier = [each for each in await run.snapshots(config()) if len(each.values["messages"]) == 3]
    again = await run.invoke(None, earlier[0].config)
    more = await run.invoke(human("later"), config())
    return [again, more, await run.state(earlier[0].config), await run.history(config())]


async def forks(saver: Any, is_async: bool) -> list[Any]:
    """Two forks of one checkpoint write the same channel at the same step, and keep their own values."""
    run = Driver(chat(saver), is_async=is_async)
    await run.invoke(human("first"), config())
    await run.invoke(human("second"), config())
    base = (await run.snapshots(config()))[3].config
    left = await run.update(base, human("left"))
    right = await run.update(base, human("right"))
    ran = [await run.invoke(None, each) for each in (left, right)]
    return [*ran, await run.state(left), await run.state(right), await run.history(config())]


async def copied_checkpoint(saver: Any, is_async: bool) -> list[Any]:
    """``__copy__`` puts a checkpoint under the parent of the one from which it is made."""
    run = Driver(chat(saver), is_async=is_async)
    await run.invoke(human("first"), config())
    copied = await run.update(config(), None, as_node="__copy__")
    again = await run.update(copied, None, as_node="__copy__")
    return [
        await run.state(copied),
        await run.state(again),
        await run.invoke(human("x"), config()),
        await run.history(config()),
    ]


async def updates(saver: Any, is_async: bool) -> list[Any]:
    """The state is changed from outside: at the end, as a node, and before the first step."""
    run = Driver(stops_for_approval(saver), is_async=is_async)
    await run.update(config("new"), {"path": ["outside"], "total": 7}, as_node="draft")
    fresh = await run.state(config("new"))
    await run.invoke({"path": [], "total": 1}, config())
    await run.update(config(), {"total": 100})
    await run.update(config(), {"path": ["by hand"]}, as_node="approve")
    done = await run.invoke(None, config())
    return [fresh, done, await run.history(config())]


async def fans_out(saver: Any, is_async: bool) -> list[Any]:
    """Five tasks of one step write one channel."""
    run = Driver(fan_out(saver), is_async=is_async)
    return [await run.invoke({"path": ["a"], "total": 0}, config()), await run.history(config())]


async def fails_and_goes_on(saver: Any, is_async: bool) -> list[Any]:
    """A node fails; the writes of its step are pending, and the next run goes on from there."""
    graph = stops_for_approval(saver)
    run = Driver(graph, is_async=is_async)
    await run.invoke({"path": [], "total": 1}, config())
    with pytest.raises(KeyError):
        await Driver(_breaking(saver), is_async=is_async).invoke({"path": ["x"]}, config("broken"))
    broken = await run.state(config("broken"))
    return [broken[0], broken[1], await run.resume("yes", config())]


def _breaking(saver: Any) -> Any:
    graph = stops_for_approval(saver)
    graph.nodes["draft"].bound.func = lambda state: {"total": state["absent"]}
    graph.nodes["draft"].bound.afunc = None
    return graph


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        chat_memory,
        interrupts,
        subgraph,
        time_travel,
        forks,
        copied_checkpoint,
        updates,
        fans_out,
        fails_and_goes_on,
    )
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("store", ["valkey", "memory"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_saver_gives_the_results_of_the_saver_in_memory(
    scenario: str, store: str, is_async: bool, make_cache: MakeCache
) -> None:
    expected = await SCENARIOS[scenario](InMemorySaver(), is_async)
    cache = AgentCache.in_memory() if store == "memory" else make_cache(name="test")
    try:
        assert await SCENARIOS[scenario](TierCacheSaver(cache), is_async) == expected
    finally:
        await cache.aclose()
