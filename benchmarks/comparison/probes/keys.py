"""Probes of the key: pairs of calls that differ in one thing that can change the answer."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.comparison.bench import Bench
from benchmarks.comparison.model import Model
from benchmarks.comparison.product import Question

_ROUNDS = 5
"""Pairs of each kind. A product may decide by chance; one shared answer is enough for a verdict."""
_NUMBER = "<number>"


def _image(data: str) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": f"Describe picture {_NUMBER}."},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    return {"messages": [{"role": "user", "content": parts}]}


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    return {"tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}]}


def _system(text: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "system", "content": text}, {"role": "user", "content": f"Where is order {_NUMBER}?"}]
    }


DIFFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0.0}, {"temperature": 0.7}),
    "tools": (_tool("search"), _tool("find")),
    "response_format": ({}, {"response_format": {"type": "json_object"}}),
    "system": (_system("Answer in English."), _system("Answer in German.")),
    "seed": ({"seed": 1}, {"seed": 2}),
    "extra_body": ({"extra_body": {"top_k": 1}}, {"extra_body": {"top_k": 40}}),
    "reasoning_effort": (
        {"model": "o3", "reasoning_effort": "low"},
        {"model": "o3", "reasoning_effort": "high"},
    ),
    "image": (_image("QQ=="), _image("Qg==")),
    "api_base": ({}, {}),
}
"""The parameters of the two calls, by the name of the difference; ``api_base`` asks two servers."""


def probe_of(name: str) -> Callable[[Bench], Awaitable[str]]:
    """Return the probe of a difference."""
    first, second = DIFFERENCES[name]

    async def probe(bench: Bench) -> str:
        other = Model() if name == "api_base" else None
        shared = 0
        try:
            async with bench.opened() as product:
                for number in range(_ROUNDS):
                    await product.ask(_asked(bench, number, first))
                    before = _total(bench.model, other)
                    await product.ask(_asked(bench, number, second), base=other.url if other else None)
                    shared += _total(bench.model, other) == before
        finally:
            if other is not None:
                other.close()
        return "**1 answer**" if shared else "2 answers"

    return probe


def _asked(bench: Bench, number: int, changes: dict[str, Any]) -> Question:
    """Return a question of its own for each number."""
    asked = bench.question(f"Where is order {_NUMBER}?") | changes
    made: Question = json.loads(json.dumps(asked).replace(_NUMBER, f"{number} of {bench.mark}"))
    return made


def _total(*models: Model | None) -> int:
    return sum(model.asked for model in models if model is not None)
