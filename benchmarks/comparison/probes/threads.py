"""Probes of checkpoint savers: a chat graph of LangGraph on each of them."""

import asyncio
import contextlib
import random
import string
from collections.abc import AsyncIterator, Callable
from typing import Any

from valkey import Valkey

from benchmarks.comparison.bench import PATIENCE, Bench, reason_of
from benchmarks.comparison.pickles import pickled_by
from benchmarks.comparison.product import Threads

TURNS = 40
_BYTES_OF_MESSAGE = 500
_THREAD = {"configurable": {"thread_id": "thread-1"}}


async def plain_store(bench: Bench) -> str:
    """Run one turn on a Valkey without modules."""
    if not bench.product.uses_store:
        return "no store"
    try:
        async with _graph(bench) as graph:
            await _turn(graph)
    except Exception as error:
        # Any error of a library is the result.
        return f"**no**: {reason_of(error)}"
    return "yes"


async def plain_calls(bench: Bench) -> str:
    """Run one turn by `invoke`, in a thread."""
    product = _product(bench)
    try:
        await asyncio.to_thread(lambda: _compiled(product.plain_saver(bench.setting())).invoke(_input(), _THREAD))
    except Exception as error:
        if isinstance(error, NotImplementedError) or "async-only" in str(error):
            return "no"
        raise
    finally:
        await _closed(product)
    return "yes"


async def messages(bench: Bench) -> str:
    """Run 40 turns and count the messages that a new saver finds; in memory, the same saver."""
    async with _graph(bench) as graph:
        await _turns(graph)
        if not bench.product.uses_store:
            return await _found(graph)
    async with _graph(bench) as graph:
        return await _found(graph)


async def history(bench: Bench) -> str:
    """Run 40 turns and count the checkpoints that the history lists: three of each turn."""
    async with _graph(bench) as graph:
        await _turns(graph)
        states = [state async for state in graph.aget_state_history(_THREAD)]
    return f"{len(states)} of {3 * TURNS}"


async def memory(bench: Bench) -> str:
    """Measure the memory of 40 turns of 1 kB in the store, as a multiple of their text."""
    if not bench.product.uses_store:
        return "no store"
    async with _graph(bench) as graph:
        await _turns(graph)
    with Valkey.from_url(bench.store.url) as client:
        keys: Any = client.keys()
        used = sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)
    return f"{used / (TURNS * 2 * _BYTES_OF_MESSAGE):.1f}x, {len(keys)} keys"


async def killed(bench: Bench) -> str:
    """Kill the store between two turns."""
    return await _after(bench, bench.store.kill)


async def hung(bench: Bench) -> str:
    """Let the store hang between two turns."""
    return await _after(bench, bench.store.hang)


async def ttl(bench: Bench) -> str:
    """Look for a thread after its lifetime of two seconds."""
    if not _product(bench).has_ttl:
        return "no"
    async with _graph(bench, ttl=2) as graph:
        await _turn(graph)
        if not (await graph.aget_state(_THREAD)).values:
            return "**lost at once**"
        await asyncio.sleep(3.0)
        left = (await graph.aget_state(_THREAD)).values
    return "**not kept**" if left else "yes"


async def pickled(bench: Bench) -> str:
    """Look whether a turn or a read uses pickle."""
    with pickled_by() as modules:
        async with _graph(bench) as graph:
            await _turn(graph)
            await graph.aget_state(_THREAD)
    return "**yes**" if modules else "no"


def _product(bench: Bench) -> Threads:
    product = bench.product()
    assert isinstance(product, Threads)
    return product


@contextlib.asynccontextmanager
async def _graph(bench: Bench, *, ttl: int | None = None) -> AsyncIterator[Any]:
    product = _product(bench)
    try:
        yield _compiled(await product.saver(bench.setting(ttl=ttl)))
    finally:
        await _closed(product)


async def _closed(product: Threads) -> None:
    # A library whose store is gone may fail to close.
    with contextlib.suppress(Exception):
        await asyncio.wait_for(product.close(), PATIENCE)


def _compiled(saver: Any) -> Any:
    """Return a graph of one node that answers with random words."""
    from langgraph.graph import END, START, MessagesState, StateGraph

    words = random.Random(7)

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [{"role": "assistant", "content": _text(words)}]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver)


def _input(words: random.Random | None = None) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": _text(words or random.Random(11))}]}


def _text(words: random.Random) -> str:
    """Return words of random letters, of a fixed number of bytes."""
    text = " ".join("".join(words.choices(string.ascii_lowercase, k=words.randint(2, 9))) for _ in range(200))
    return text[:_BYTES_OF_MESSAGE]


async def _turn(graph: Any, words: random.Random | None = None) -> None:
    await graph.ainvoke(_input(words), _THREAD)


async def _turns(graph: Any) -> None:
    words = random.Random(13)
    for _ in range(TURNS):
        await _turn(graph, words)


async def _found(graph: Any) -> str:
    state = await graph.aget_state(_THREAD)
    found = len(state.values.get("messages", ()))
    return f"{found} of {2 * TURNS}" if found == 2 * TURNS else f"**{found} of {2 * TURNS}**"


async def _after(bench: Bench, harm: Callable[[], None]) -> str:
    if not bench.product.uses_store:
        return "no store"
    async with _graph(bench) as graph:
        await _turn(graph)
        harm()
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                await _turn(graph)
        except Exception as error:
            # Any error of a library is the result.
            return f"**nothing in {PATIENCE:g} s**" if limit.expired() else type(error).__name__
    return "**goes on without its state**"
