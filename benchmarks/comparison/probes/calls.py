"""Probes of repeated and simultaneous calls."""

import asyncio

from benchmarks.comparison.bench import Bench, calls, reason_of
from benchmarks.comparison.pickles import pickled_by
from benchmarks.comparison.product import Answers
from benchmarks.peers.protocol import Endpoint
from benchmarks.server import Counters

CALLERS = 10
PROCESSES = 4
CALLERS_OF_PROCESS = 5
_MESSAGES = 12
_LATENCY = 1.0
"""Seconds of a call of the model while others join, so that no caller is late."""


async def repeat(bench: Bench) -> str:
    """Make an identical call twice."""
    async with bench.opened() as product:
        first, second = await product.ask(bench.question()), await product.ask(bench.question())
    return calls(bench.model.asked) if first.texts == second.texts or bench.model.asked > 1 else "**another answer**"


async def repeat_long(bench: Bench) -> str:
    """Make an identical call twice in a conversation of twelve messages."""
    asked = bench.question()
    for number in range(_MESSAGES - 1):
        asked["messages"].append({"role": ("assistant", "user")[number % 2], "content": f"Message {number}."})
    async with bench.opened() as product:
        for _ in range(2):
            await product.ask(asked)
    return calls(bench.model.asked)


async def repeat_plain(bench: Bench) -> str:
    """Make an identical call twice without ``await``, in a thread."""
    async with bench.opened() as product:
        if product.ask_plain is None:
            return "no sync calls"
        for _ in range(2):
            await asyncio.to_thread(product.ask_plain, bench.question())
    return calls(bench.model.asked)


async def stream(bench: Bench) -> str:
    """Read an identical stream twice."""
    async with bench.opened() as product:
        if product.stream is None:
            return "no streams"
        first, second = await product.stream(bench.question()), await product.stream(bench.question())
    if bench.model.asked > 1:
        return calls(bench.model.asked)
    return "1 call, equal events" if first == second else "1 call, other events"


async def together(bench: Bench) -> str:
    """Let ten callers of one process make an identical call at once."""
    bench.model.latency = _LATENCY
    async with bench.opened() as product:
        await asyncio.gather(*(product.ask(bench.question()) for _ in range(CALLERS)))
    return calls(bench.model.asked)


async def together_processes(bench: Bench) -> str:
    """Let five callers in each of four processes make an identical call at once."""
    bench.model.latency = 2 * _LATENCY
    async with (
        bench.other_process() as first,
        bench.other_process() as second,
        bench.other_process() as third,
        bench.other_process() as fourth,
    ):
        others = [first, second, third, fourth]
        assert len(others) == PROCESSES
        for other in others:
            other.order(bench.question(), CALLERS_OF_PROCESS)
        for other in others:
            await other.answer()
    return calls(bench.model.asked)


async def memory_level(bench: Bench) -> str:
    """Count the reads in the store during a hit; none means that process memory answered."""
    if not bench.product.uses_store:
        return "yes, and nothing else"
    assert issubclass(bench.product, Answers)
    if bench.product.needs_modules:
        return await _memory_without_store(bench)
    host, _, port = bench.store.url.removeprefix("redis://").removesuffix("/0").partition(":")
    with Counters(Endpoint(host, int(port))) as counters:
        async with bench.opened() as product:
            await product.ask(bench.question())
            await product.ask(bench.question())  # A library may learn only from its first hit.
            before = counters.reads()
            await product.ask(bench.question())
            reads = counters.reads() - before
    if bench.model.asked > 1:
        return "no hit"
    return "no" if reads else "yes"


async def _memory_without_store(bench: Bench) -> str:
    """Make a call that has hit before after the store was killed: the emulation counts no commands."""
    async with bench.opened() as product:
        await product.ask(bench.question())
        await product.ask(bench.question())
        bench.store.kill()
        try:
            await product.ask(bench.question())
        except Exception:
            # Any error of a library shows that it asked the store.
            return "no"
    return "yes" if bench.model.asked == 1 else "no"


async def plain_store(bench: Bench) -> str:
    """Make a call on a Valkey without modules."""
    if not bench.product.uses_store:
        return "no store"
    try:
        async with bench.opened() as product:
            await product.ask(bench.question())
            await product.ask(bench.question())
    except Exception as error:
        # Any error of a library is the result.
        return f"**no**: {reason_of(error)}"
    return "yes" if bench.model.asked == 1 else "**no hit**"


async def pickled(bench: Bench) -> str:
    """Look whether a call, a hit or the end of the product uses pickle."""
    with pickled_by() as modules:
        async with bench.opened() as product:
            await product.ask(bench.question())
            await product.ask(bench.question())
    return "**yes**" if modules else "no"
