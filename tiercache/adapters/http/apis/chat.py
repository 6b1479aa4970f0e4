"""Chat completions: of OpenAI, of Azure, and of the many servers that speak the same API."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from ..answer import Answer
from .api import UNREADABLE, Api, Ending, Event
from .parts import (
    counted,
    is_asked,
    is_given,
    joined_texts,
    json_events,
    mapping,
    mappings,
    searches_web,
    text,
    tools_in,
)

__all__ = ["Chat"]

# Each of them adds state at the provider, or knowledge of the moment, to the question. The first two are OpenAI's, the
# next two Azure's, the last three are of xAI, of OpenRouter and of Alibaba Cloud.
_STATE: Final = (
    *("store", "web_search_options", "data_sources", "dataSources", "search_parameters", "plugins", "enable_search"),
)
# The caller runs these tools. A tool of any other type runs at the provider.
_OWN_TOOLS: Final = frozenset({"function", "custom"})
_GOOD: Final = frozenset({"stop", "tool_calls", "function_call"})
_DONE: Final = b"[DONE]"
_ERROR: Final = re.compile(rb'\s*\{\s*"error"\s*:(?!\s*null)')


class Chat(Api):
    """``POST .../chat/completions``."""

    name: ClassVar[str] = "chat"
    suffix: ClassVar[str] = "/chat/completions"
    asked_by: ClassVar[tuple[str, ...]] = ("messages",)
    left_out: ClassVar[frozenset[str]] = frozenset(
        {"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata"}
    )

    def state_in(self, body: Mapping[str, Any]) -> str | None:
        for name in _STATE:
            if is_asked(body.get(name)):
                return name
        modalities = body.get("modalities")
        if isinstance(modalities, list) and "audio" in modalities:
            return "audio"
        if searches_web(body.get("model")):
            return "the model searches the web"
        for tool in tools_in(body.get("tools")):
            # Some servers take a function without a type.
            kind = None if tool is None else tool.get("type", "function")
            if not isinstance(kind, str) or kind not in _OWN_TOOLS:
                return "a tool of the provider"
        return None

    def ending(self, field: bytes, value: bytes) -> Ending | None:
        if field == b"data":
            if value.startswith(_DONE):
                return Ending.LAST
            return Ending.ERROR if _ERROR.match(value) else None
        return Ending.ERROR if field == b"event" and value == b"error" else None

    def read(self, data: object) -> Answer:
        body = mapping(data)
        choices = mappings(body.get("choices"))
        if not choices or is_given(body.get("error")):
            return UNREADABLE
        read: dict[int, _Choice] = {}
        for number, choice in enumerate(choices):
            read[number] = each = _Choice()
            each.add(choice, "message")
        return _answer(text(body.get("model")), body.get("usage"), read)

    def read_events(self, events: Iterable[Event]) -> Answer:
        events = list(events)
        ends = [number for number, event in enumerate(events) if event.data.startswith(_DONE)]
        chunks = json_events(events[: ends[0]]) if ends else None
        if not chunks:
            return UNREADABLE
        model, usage, read = "", None, dict[int, _Choice]()
        for chunk in chunks:
            choices = mappings(chunk.get("choices") or [])
            if choices is None or is_given(chunk.get("error")):
                return UNREADABLE
            model = text(chunk.get("model")) or model
            usage = chunk.get("usage") or usage
            for choice in choices:
                index = choice.get("index", 0)
                if type(index) is not int:
                    return UNREADABLE
                read.setdefault(index, _Choice()).add(choice, "delta")
        return _answer(model, usage, read)


@dataclass(slots=True)
class _Choice:
    """A choice, or the parts of it that have been read."""

    finish: str = ""
    texts: list[str] = field(default_factory=list)
    is_refused: bool = False

    def add(self, choice: Mapping[str, Any], name: str) -> None:
        message = mapping(choice.get(name))
        content = message.get("content")
        self.texts.append(content if isinstance(content, str) else joined_texts(content, "text"))
        self.is_refused = self.is_refused or is_given(message.get("refusal"))
        self.finish = text(choice.get("finish_reason")) or self.finish


def _answer(model: str, usage: object, choices: Mapping[int, _Choice]) -> Answer:
    ordered = [choices[index] for index in sorted(choices)]
    return Answer(
        "".join(ordered[0].texts) if ordered else "",
        model,
        counted(usage, input=("prompt_tokens",), output=("completion_tokens",)),
        tuple(choice.finish for choice in ordered),
        bool(ordered) and all(choice.finish in _GOOD and not choice.is_refused for choice in ordered),
    )
