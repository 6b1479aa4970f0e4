"""Probes of the answers: which parts of an answer a hit still has, and which answers are not stored."""

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.comparison.bench import Bench
from benchmarks.comparison.product import Question, Reply

_TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}

ASPECTS: dict[str, tuple[str, dict[str, Any], Callable[[Reply], Any]]] = {
    "tools": ("tools", {"tools": [_TOOL]}, lambda reply: reply.tools),
    "usage": ("text", {}, lambda reply: reply.usage),
    "several": ("several", {"n": 2}, lambda reply: reply.texts),
    "refusal": ("refusal", {}, lambda reply: reply.refusal),
    "finish": ("text", {}, lambda reply: reply.finish),
    "cut": ("cut", {"max_tokens": 5}, lambda reply: reply.finish),
}
"""For each row the kind of the answer, the parameters of the call, and the part that must survive."""


def probe_of(name: str) -> Callable[[Bench], Awaitable[str]]:
    """Return the probe of a row."""
    kind, changes, part = ASPECTS[name]

    async def probe(bench: Bench) -> str:
        bench.model.kind = kind
        asked: Question = bench.question(**changes)
        async with bench.opened() as product:
            first, second = await product.ask(asked), await product.ask(asked)
        if not part(first):
            return "**not in the answer**, cached or not"
        if bench.model.asked > 1:
            return "not stored"
        if name == "cut":
            return "**stored**"
        return "kept" if part(first) == part(second) else "**lost**"

    return probe
