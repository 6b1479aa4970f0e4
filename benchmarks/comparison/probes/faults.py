"""Probes of faults of the store: it is killed or hangs during a call, or is down."""

import asyncio
from collections.abc import Callable

from benchmarks.comparison.bench import PATIENCE, Bench, calls
from benchmarks.comparison.product import Answers


async def killed_during(bench: Bench) -> str:
    """Kill the store while the model works on the answer."""
    return await _during(bench, bench.store.kill)


async def hung_during(bench: Bench) -> str:
    """Let the store hang while the model works on the answer."""
    return await _during(bench, bench.store.hang)


async def down(bench: Bench) -> str:
    """Kill the store, then make an identical call twice."""
    if not bench.product.uses_store:
        return "no store"
    async with bench.opened() as product:
        await product.ask(bench.question("The connection is open."))
        bench.store.kill()
        before = bench.model.asked
        first = await _outcome(bench, product)
        if first != "the answer":
            return f"**{first}**"
        second = await _outcome(bench, product)
        return f"the answer; {calls(bench.model.asked - before)} for two" if second == first else f"**{second}**"


async def _during(bench: Bench, harm: Callable[[], None]) -> str:
    if not bench.product.uses_store:
        return "no store"
    async with bench.opened() as product:
        await product.ask(bench.question("The connection is open."))
        bench.model.arrived.clear()
        bench.model.gate.clear()
        before = bench.model.asked
        call = asyncio.create_task(_outcome(bench, product))
        await asyncio.to_thread(bench.model.arrived.wait, PATIENCE)
        harm()
        bench.model.gate.set()
        outcome = await call
    if outcome != "the answer":
        return f"**{outcome}**"
    asked = bench.model.asked - before
    return outcome if asked == 1 else f"{outcome}, after {calls(asked)}"


async def _outcome(bench: Bench, product: Answers) -> str:
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            await product.ask(bench.question())
    except Exception as error:
        # Any error of a library is the result.
        return f"nothing in {PATIENCE:g} s" if limit.expired() else type(error).__name__
    return "the answer"
