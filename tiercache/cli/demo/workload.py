"""What the agents ask: several hundred distinct requests, and the order in which they come.

Every distinct request is assembled from the bundled texts without chance, so the catalog is the same everywhere. Only
the order of the requests is drawn, from a seed: each worker process draws the same one and takes its share.

The popularity of the requests follows Zipf's law with its classic exponent, 1: the request of rank k is asked in
proportion to 1/k. Traces of web proxies have exponents of 0.64 to 0.83 (Breslau et al., "Web Caching and Zipf-like
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
PAUSE = 0.02  # seconds an agent works between two requests
HOT_COUNT = 12  # the opening burst asks only for the most popular requests


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """One distinct request, kept as JSON bytes so that every use gets objects of its own, as from a real agent."""

    kind: str
    body: bytes

    def params(self) -> Params:
        """Return the chat-completions parameters, built anew."""
        return decode_params(self.body)


decode_params = msgspec.json.Decoder(dict[str, Any]).decode


def build_catalog() -> list[AgentRequest]:
    """Return all distinct requests, always in the same order."""
    kinds: dict[str, Callable[[], Iterator[Params]]] = {
        "triage": _triage,
        "code": _code,
        "retrieval": _retrieval,
        "chat": _chats,
        "tools": _planning,
    }
    return [AgentRequest(kind, msgspec.json.encode(params)) for kind, make in kinds.items() for params in make()]


def build_trace(catalog_size: int, request_count: int, seed: int, burst: int = 0) -> list[int]:
    """Return ``request_count`` indices into the catalog, in the order in which they are asked.

    Args:
        catalog_size: Number of distinct requests to draw from.
        request_count: Length of the trace.
        seed: The same seed gives the same trace.
        burst: So many first requests, at most a quarter of all, ask only for the ``HOT_COUNT`` most popular: the
            moment when all agents start on the same batch. Worker w of n takes ``trace[w::n]``, so the burst reaches
            all of them at once.
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
    if model.startswith("o3"):  # reasoning models refuse a temperature
        options.pop("temperature", None)
        options["reasoning_effort"] = "medium"
    return {"model": model, "messages": messages, **options}


def _triage() -> Iterator[Params]:
    """Short prompts: each ticket sorted, searched for facts, and answered."""
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
    """Questions with retrieved passages; the later ones carry the conversation so far."""
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
    """Long conversations, asked again as they grow: 9 to 20 turns of user and assistant, several KB."""
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
    """Agents with tools: the goal alone, then with one, two and three tool calls and their results."""
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
                # The last stage has what it needs: tool_choice asks for words in place of another call.
                choice = "none" if stage == len(results) else "auto"
                yield _params(model, messages, tools=tools, tool_choice=choice, temperature=0)
