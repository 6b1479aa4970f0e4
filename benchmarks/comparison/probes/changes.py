"""Probes of invalidation, lifetimes and statistics."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.comparison.bench import Bench
from benchmarks.comparison.product import Answers, Question

_TAG = "handbook"
LIMIT = 5.0
"""Seconds after which the other process counts as not informed."""
_PAUSE = 0.02


def probe_of(kind: str) -> Callable[[Bench], Awaitable[str]]:
    """Return the probe of an invalidation: "entry", "tag", "model" or "all".

    The other process is informed at once if at most the first of its calls, which may cross the message, gets the older
    answer.
    """

    async def probe(bench: Bench) -> str:
        tag = _TAG if kind == "tag" else None
        async with bench.opened(tag=tag) as product:
            change = _change(product, kind, bench.question())
            if change is None:
                return "no"
            async with bench.other_process(tag=tag) as other:
                await product.ask(bench.question())
                older = await other.ask(bench.question())
                await change()
                changed = asked = time.monotonic()
                stale = 0
                while await other.ask(bench.question()) == older:
                    stale += 1
                    await asyncio.sleep(_PAUSE)
                    asked = time.monotonic()
                    if asked - changed > LIMIT:
                        return f"**not within {LIMIT:g} s**"
        return f"yes, after {asked - changed:.1f} s" if stale > 1 else "yes, at once"

    return probe


def _change(product: Answers, kind: str, asked: Question) -> Callable[[], Awaitable[Any]] | None:
    """Return the invalidation, or None if the product has none."""
    method, arguments = {
        "entry": (product.invalidate_entry, (asked,)),
        "tag": (product.invalidate_tag, (_TAG,)),
        "model": (product.invalidate_model, ("gpt-4o",)),
        "all": (product.clear, ()),
    }[kind]
    if method is None:
        return None
    return lambda: method(*arguments)


async def ttl(bench: Bench) -> str:
    """Make a call again while its entry lives, and after its lifetime of two seconds."""
    assert issubclass(bench.product, Answers)
    if not bench.product.has_ttl:
        return "no"
    async with bench.opened(ttl=2) as product:
        for _ in range(2):
            await product.ask(bench.question())
        if bench.model.asked != 1:
            return "no hit"
        await asyncio.sleep(2.7)
        await product.ask(bench.question())
    return "yes" if bench.model.asked == 2 else "**not kept**"


async def statistics(bench: Bench) -> str:
    """Make a call that misses and a call that hits, and read the counters."""
    async with bench.opened() as product:
        if product.statistics is None:
            return "no"
        for _ in range(2):
            await product.ask(bench.question())
        found: dict[str, int] = await product.statistics()
    return ", ".join(name for name, value in found.items() if value) or "no"
