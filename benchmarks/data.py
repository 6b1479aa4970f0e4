"""The requests and answers that every peer caches, and the key for caches that make no key of their own.

The benchmark builds a new request for every call, as an agent program does: new dicts and lists, the user's words as
new strings. Requests share only the texts that the program holds: system prompt, tool definitions, documents and
earlier turns of a conversation. So a peer gains nothing by remembering an *object*, unless a real program would share
that object too. The size ``context`` is a long text that the program holds, and a question about that text.
``conversation`` is equally long, in some seventy parts. ``parsed`` is the same conversation as a JSON parser returns
it: its requests share no object.
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
    """Return a new str equal to ``text``, which no earlier request holds."""
    return "".join([text[:1], text[1:]])


def _short(number: int) -> Params:
    question = f"What is the capital of country {number}?"
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0}


def _chat(number: int) -> Params:
    turns = [{"role": role, "content": _new(text) * count} for role, text, count in _TURNS]
    turns[-1]["content"] += f" My booking is number {number}."
    messages = [{"role": "system", "content": _SYSTEM}, *turns]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 500, "tools": _TOOLS}


_DOCUMENTS = [
    f"Document {number}. " + "The travel policy says, and the venue confirms it. " * 40 for number in range(20)
]
_BOOK = _SYSTEM + "".join([*_DOCUMENTS, *_DOCUMENTS, *_DOCUMENTS[:8]])
# Sizes that are measured with one caller only.
PARTED = ("conversation", "parsed")
_EARLIER = [
    {"role": ("user", "assistant")[number % 2], "content": text * 20} for number, (_, text, _) in enumerate(_TURNS * 6)
]


def _context(number: int) -> Params:
    question = f"And what does that mean for booking {number}?"
    return {
        "model": MODEL,
        "messages": [{"role": "system", "content": _BOOK}, {"role": "user", "content": question}],
        "temperature": 0,
    }


def _conversation(number: int) -> Params:
    documents = [{"type": "text", "text": text} for text in _DOCUMENTS]
    earlier = [dict(turn) for turn in _EARLIER]
    question = f"And what does that mean for booking {number}?"
    messages = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": documents},
        *earlier,
        {"role": "user", "content": question},
    ]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 500, "tools": _TOOLS}


def _parsed(number: int) -> Params:
    params: Params = json.loads(json.dumps(_conversation(number)))
    return params


def message(length: int, number: int, *, held: str = "") -> Params:
    """Return a request with one message of ``length`` characters: ``held``, or a new string if ``held`` is empty."""
    text = held or _new(("x" * length)[: length - 12] + f"{number:012}")
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}


@dataclass(frozen=True)
class Answer:
    """An answer of the model: its text, and the tokens that it cost."""

    text: str
    tokens: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the dict that caches without an entry format of their own store."""
        return {"response": self.text, "tokens": self.tokens}

    def as_json(self) -> str:
        return json.dumps(self.as_dict())

    @classmethod
    def of_dict(cls, value: dict[str, Any]) -> "Answer":
        return cls(value["response"], value["tokens"])


@dataclass(frozen=True)
class Size:
    """One kind of request: ``build`` makes request ``number``, and `reply` makes the answer to that request."""

    name: str
    title: str
    build: Callable[[int], Params]
    text: str
    tokens: tuple[int, int]

    def reply(self, number: int) -> Answer:
        return Answer(f"{self.text} ({number})", {"input": self.tokens[0], "output": self.tokens[1]})


_LONG_TEXT = "On Tuesday 24 degrees and dry; cancelling is free until Monday 18:00. " * 8

SIZES = {
    size.name: size
    for size in (
        Size("short", "short request", _short, "The capital is Sofia.", (14, 9)),
        Size("chat", "8 KB chat with tools", _chat, _LONG_TEXT, (1950, 160)),
        Size("context", "100 KB context", _context, _LONG_TEXT, (25_000, 160)),
        Size("conversation", "100 KB of 50 messages, documents and tools", _conversation, _LONG_TEXT, (25_000, 160)),
        Size("parsed", "the same, newly parsed", _parsed, _LONG_TEXT, (25_000, 160)),
    )
}

TOOL = "get_weather"


def tool_args(number: int) -> dict[str, Any]:
    """Return the arguments of call ``number`` of `TOOL`."""
    return {"city": f"City {number}", "days": 3, "units": "metric"}


def tool_text(number: int) -> str:
    """Return the result of call ``number`` of `TOOL`."""
    return f'{{"celsius": 24, "sky": "clear", "station": {number}}}'


async def answered(text: str) -> str:
    """Return the answer to a text: the function that caches with decorators decorate."""
    return f"the answer to {text}"


def request_key(params: object) -> str:
    """Return the key that people write by hand: sha256 of JSON with sorted keys."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
