"""The workload: several hundred distinct requests, and the order in which the agents send them.

The catalog of distinct requests is built from the bundled texts without randomness, so it is the same everywhere. Only
the order of the requests is random, and comes from a seed: every worker process draws this order and takes its share.

The popularity of the requests follows Zipf's law with its classic exponent, 1: the frequency of the request of rank k
is proportional to 1/k. Traces of web proxies have exponents of 0.64 to 0.83 (Breslau et al., "Web Caching and Zipf-like
Distributions", INFOCOM 1999).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from .bundled import bundled

Params = dict[str, Any]

ZIPF_EXPONENT = 1.0
PAUSE = 0.02  # seconds between two requests of an agent
HOT_COUNT = 12  # the opening burst has only the most popular requests


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """One distinct request, kept as JSON bytes: every use decodes new objects, as a real agent would make."""

    kind: str
    body: bytes

    def params(self) -> Params:
        """Return the chat-completions parameters as a new object."""
        return decode_params(self.body)


decode_params = msgspec.json.Decoder(dict[str, Any]).decode


def build_catalog() -> list[AgentRequest]:
    """Return all distinct requests in a fixed order."""
    kinds: dict[str, Callable[[], Iterator[Params]]] = {
        "triage": _triage,
        "code": _code,
        "retrieval": _retrieval,
        "chat": _chats,
        "tools": _planning,
    }
    return [AgentRequest(kind, msgspec.json.encode(params)) for kind, make in kinds.items() for params in make()]


def build_trace(catalog_size: int, request_count: int, seed: int, burst: int = 0) -> list[int]:
    """Return the order of the requests: ``request_count`` indices into the catalog.

    Args:
        catalog_size: The number of distinct requests.
        request_count: The length of the trace.
        seed: The same seed gives the same trace.
        burst: The length of an opening burst, at most a quarter of the trace. The burst has only the ``HOT_COUNT`` most
            popular requests, as when all agents start on the same batch. Worker w of n takes ``trace[w::n]``, so the
            burst reaches all workers at once.
    """
    rng = random.Random(seed)
    ranked = list(range(catalog_size))
    rng.shuffle(ranked)
    weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, catalog_size + 1)))
    burst = min(burst, request_count // 4)
    opening = rng.choices(ranked[:HOT_COUNT], k=burst)
    return opening + rng.choices(ranked, cum_weights=weights, k=request_count - burst)


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _params(model: str, messages: list[dict[str, Any]], **options: Any) -> Params:
    if model.startswith("o3"):  # reasoning models refuse the parameter temperature
        options.pop("temperature", None)
        options["reasoning_effort"] = "medium"
    return {"model": model, "messages": messages, **options}


def _triage() -> Iterator[Params]:
    """Short prompts: for each ticket a classification, an extraction of facts, and an answer."""
    data = bundled("triage")
    for task in data["tasks"]:
        for number, (subject, body) in enumerate(data["tickets"]):
            prompt = task["prompt"].format(subject=subject, body=body)
            model = task["models"][number % len(task["models"])]
            yield _params(model, [_message("system", task["system"]), _message("user", prompt)], **task["params"])


def _code() -> Iterator[Params]:
    """Short prompts and single pieces of code."""
    data = bundled("code")
    models = data["models"]
    system = _message("system", data["system"])
    snippets = [
        task.format(lang=snippet["lang"], code="\n".join(snippet["lines"]))
        for snippet in data["snippets"]
        for task in data["tasks"]
    ]
    for number, prompt in enumerate(snippets):
        yield _params(models[number % len(models)], [system, _message("user", prompt)], temperature=0)
    for number, question in enumerate(data["questions"]):
        for step in range(2):
            model = models[(number + step) % len(models)]
            yield _params(model, [system, _message("user", question)], temperature=0)


def _retrieval() -> Iterator[Params]:
    """Questions with retrieved passages; later questions include the conversation before them."""
    data = bundled("retrieval")
    for number, document in enumerate(data["documents"]):
        numbered = [f"[{place}] {text}" for place, text in enumerate(document["passages"], start=1)]
        passages = f"# {document['title']}\n\n" + "\n\n".join(numbered)
        questions = document["questions"]
        for first in range(len(questions)):
            for depth in range(3):
                messages = [_message("system", data["system"])]
                for place in range(depth):
                    messages.append(_message("user", questions[(first + place + 1) % len(questions)]))
                    messages.append(_message("assistant", document["passages"][place] + f" [{place + 1}]"))
                messages.append(_message("user", f"{passages}\n\nQuestion: {questions[first]}"))
                model = data["models"][(number + depth) % len(data["models"])]
                yield _params(model, messages, temperature=0, top_p=0.9, max_tokens=400)


def _chats() -> Iterator[Params]:
    """Long conversations, sent again as they grow: 9 to 20 turns of user and assistant, several KB."""
    data, documents = bundled("chats"), bundled("retrieval")["documents"]
    for topic_number, topic in enumerate(data["topics"]):
        known = [documents[(topic_number + step) % len(documents)] for step in range(2)]
        knowledge = "\n\n".join(f"# {document['title']}\n" + "\n".join(document["passages"]) for document in known)
        system = f"{topic['system']}\n\nWhat you may rely on:\n\n{knowledge}"
        for opening_number, opening in enumerate(topic["openings"]):
            for variant in range(3):
                place = topic_number + 2 * opening_number + 3 * variant
                first = opening.format(
                    service=data["services"][place % len(data["services"])],
                    region=data["regions"][place % len(data["regions"])],
                    time=data["times"][(place + variant) % len(data["times"])],
                )
                model = data["models"][place % len(data["models"])]
                for length in range(4, len(topic["exchanges"]) + 1):
                    messages = [_message("system", system), _message("user", first)]
                    for assistant, user in topic["exchanges"][:length]:
                        messages += [_message("assistant", assistant), _message("user", user)]
                    if length == len(topic["exchanges"]):
                        messages[-1]["content"] += "\n\n" + topic["closing"]
                    yield _params(model, messages, temperature=0.3, seed=7)


def _planning() -> Iterator[Params]:
    """Agents with tools: first the goal alone, then the goal with one, two and three tool calls and their results."""
    data = bundled("planning")
    for set_number, toolset in enumerate(data["toolsets"]):
        tools, results = toolset["tools"], toolset["results"]
        for goal_number, goal in enumerate(toolset["goals"]):
            model = data["models"][(set_number + goal_number) % len(data["models"])]
            for stage in range(len(results) + 1):
                messages = [_message("system", data["system"]), _message("user", goal)]
                for step in range(stage):
                    call_id = f"call_{set_number}{goal_number}{step}"
                    function = {"name": tools[step]["function"]["name"], "arguments": "{}"}
                    call = {"id": call_id, "type": "function", "function": function}
                    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
                    messages.append({"role": "tool", "tool_call_id": call_id, "content": results[step]})
                # The last stage has all results: tool_choice asks for text and forbids another tool call.
                choice = "none" if stage == len(results) else "auto"
                yield _params(model, messages, tools=tools, tool_choice=choice, temperature=0)
