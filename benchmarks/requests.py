"""The requests and answers that every peer caches, and the key that caches without one of their own are
given.

A request is built anew for every call, as an agent program builds it: new dicts and lists, the user's words
as new strings, and the model name and the texts fixed in the program (system prompt, tool definitions)
shared. Nothing that a peer could remember about an *object* therefore helps it, unless a real program would
share that object as well.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Params = dict[str, Any]

MODEL = "gpt-4o"
TTL = 3600
NAME = "bench"

_SYSTEM = (
    "You are the travel agent of a mid-size company. Answer in the language of the user, keep to its travel "
    "policy, never book without an explicit yes, and name the price in euro with every proposal. "
) * 9
_TURNS = (
    ("user", "I have to be in Sofia on Tuesday morning and back in Bremen on Thursday night. ", 4),
    (
        "assistant",
        "There are two connections that keep to the policy; the earlier one leaves Bremen at 06:10. ",
        5,
    ),
    ("user", "The earlier one, please, and a quiet hotel within walking distance of the venue. ", 5),
    (
        "assistant",
        "Three hotels fit. The first is eight minutes away on foot and costs 118 euro a night. ",
        6,
    ),
    ("user", "What is the weather going to be like, and can I still cancel on Monday? ", 3),
)
_TOOL_NAMES = (
    "search_flights",
    "search_hotels",
    "get_weather",
    "book_flight",
    "book_hotel",
    "cancel_booking",
)
_FIELDS = ("origin", "destination", "start_date", "end_date", "max_price_eur")


def _tool(name: str) -> dict[str, Any]:
    properties = {
        field: {"type": "string", "description": f"The {field} of the trip, as the user gave it"} for field in _FIELDS
    }
    parameters = {"type": "object", "properties": properties, "required": list(_FIELDS[:2])}
    description = f"Calls the {name} service of the travel provider and returns its answer as JSON"
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


_TOOLS = [_tool(name) for name in _TOOL_NAMES]


def _new(text: str) -> str:
    """A str equal to ``text`` that no earlier request holds."""
    return "".join([text[:1], text[1:]])


def _short(number: int | None) -> Params:
    country = "Bulgaria" if number is None else f"country {number}"
    question = f"What is the capital of {country}?"
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0}


def _chat(number: int | None) -> Params:
    turns = [{"role": role, "content": _new(text) * count} for role, text, count in _TURNS]
    if number is not None:
        turns[-1]["content"] += f" My booking is number {number}."
    messages = [{"role": "system", "content": _SYSTEM}, *turns]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 500, "tools": _TOOLS}


@dataclass(frozen=True)
class Answer:
    """What the model returned: the text and the tokens it cost."""

    text: str
    tokens: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The form in which caches without an entry format of their own hold an answer."""
        return {"response": self.text, "tokens": self.tokens}

    @classmethod
    def of_dict(cls, value: dict[str, Any]) -> "Answer":
        return cls(value["response"], value["tokens"])


@dataclass(frozen=True)
class Size:
    """One kind of request. ``build(None)`` is the repeated one, ``build(n)`` one never asked before."""

    name: str
    title: str
    build: Callable[[int | None], Params]
    answer: Answer


_SHORT_ANSWER = Answer("The capital of Bulgaria is Sofia.", {"input": 14, "output": 9})
_CHAT_ANSWER = Answer(
    "On Tuesday 24 degrees and dry; cancelling is free until Monday 18:00. " * 8,
    {"input": 1950, "output": 160},
)

SIZES = {
    size.name: size
    for size in (
        Size("short", "short request (one user message)", _short, _SHORT_ANSWER),
        Size("chat", "8 KB chat with tools", _chat, _CHAT_ANSWER),
    )
}


def request_key(params: Params) -> str:
    """The key people write by hand: sha256 of canonical JSON, so that the order of keys does not matter."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
