"""Gemini, of Google AI and of Vertex AI: whole answers and streams.

A stream is either events (``alt=sse`` in the query), one response in each, or one JSON array of responses, which counts
as a whole answer. No last event ends the stream: it is whole when each candidate has a finish reason and the body ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from ..answer import Answer
from ..target import Target
from .api import UNREADABLE, Api, Ending, Event
from .parts import counted, is_asked, is_given, json_events, mapping, mappings, text, tools_in

__all__ = ["Gemini"]

_STREAM: Final = ":streamGenerateContent"
# Google accepts both spellings of each name.
_STATE: Final = (("cachedContent", "cached_content"), ("outputConfig", "output_config"), ("store", "store"))
_CONFIG: Final = ("generationConfig", "generation_config")
_MODALITIES: Final = ("responseModalities", "response_modalities")
# The caller runs these tools. All others run at the provider.
_OWN_TOOLS: Final = frozenset({"functionDeclarations", "function_declarations", "computerUse", "computer_use"})
_FINISH: Final = "finishReason"
_ERROR: Final = re.compile(rb'\s*\[?\s*\{\s*"error"\s*:(?!\s*null)')
_FIELDS: Final = frozenset({b"data", b"event", b"id", b"retry"})


class Gemini(Api):
    """``POST .../models/{model}:generateContent``, and ``:streamGenerateContent``."""

    name: ClassVar[str] = "gemini"
    suffix: ClassVar[str] = ":generateContent"
    asked_by: ClassVar[tuple[str, ...]] = ("contents",)
    left_out: ClassVar[frozenset[str]] = frozenset({"labels"})
    marker: ClassVar[bytes | None] = b'"finishReason"'

    def takes(self, path: str) -> bool:
        return path.endswith((self.suffix, _STREAM))

    def model_of(self, body: Mapping[str, Any], target: Target) -> str:
        return target.segment_before(":")

    def is_stream(self, body: Mapping[str, Any], target: Target) -> bool:
        if not target.path.endswith(_STREAM):
            return False
        return any(name in ("alt", "$alt") and value.lower() == "sse" for name, value in target.query)

    def state_in(self, body: Mapping[str, Any]) -> str | None:
        for names in _STATE:
            if any(is_asked(body.get(name)) for name in names):
                return names[0]
        for config in (body.get(name) for name in _CONFIG):
            # Google accepts the names of a modality in either case.
            if any("AUDIO" in str(mapping(config).get(name)).upper() for name in _MODALITIES):
                return "audio"
        tools = body.get("tools")
        # Google accepts a single object where it expects a list.
        for tool in tools_in([tools] if isinstance(tools, dict) else tools):
            if tool is None or not _OWN_TOOLS.issuperset(tool):
                return "a tool of the provider"
        return None

    def ending(self, field: bytes, value: bytes) -> Ending | None:
        if field == b"data":
            return Ending.ERROR if _ERROR.match(value) else None
        # An error may follow a stream as plain JSON, without the form of an event.
        return None if field in _FIELDS else Ending.ERROR

    def read(self, data: object) -> Answer:
        responses = mappings(data if isinstance(data, list) else [data])
        return UNREADABLE if responses is None else _answer(responses)

    def read_events(self, events: Iterable[Event]) -> Answer:
        responses = json_events(events)
        return UNREADABLE if responses is None else _answer(responses)


@dataclass(slots=True)
class _Candidate:
    """A candidate, or the parts of it that have been read."""

    finish: str = ""
    texts: list[str] = field(default_factory=list)

    def add(self, candidate: Mapping[str, Any]) -> None:
        self.finish = text(candidate.get(_FINISH)) or self.finish
        for part in mappings(mapping(candidate.get("content")).get("parts")) or ():
            if not is_given(part.get("thought")):
                self.texts.append(text(part.get("text")))


def _answer(responses: list[dict[str, Any]]) -> Answer:
    model, usage, read = "", None, dict[int, _Candidate]()
    is_blocked = False
    for response in responses:
        candidates = mappings(response.get("candidates") or [])
        if candidates is None or is_given(response.get("error")):
            return UNREADABLE
        model = text(response.get("modelVersion")) or model
        usage = response.get("usageMetadata") or usage
        is_blocked = is_blocked or is_given(mapping(response.get("promptFeedback")).get("blockReason"))
        for number, candidate in enumerate(candidates):
            index = candidate.get("index", number)
            if type(index) is not int:
                return UNREADABLE
            read.setdefault(index, _Candidate()).add(candidate)
    ordered = [read[index] for index in sorted(read)]
    return Answer(
        "".join(ordered[0].texts) if ordered else "",
        model,
        # Thoughts are counted apart, and billed as output.
        counted(usage, input=("promptTokenCount",), output=("candidatesTokenCount", "thoughtsTokenCount")),
        tuple(candidate.finish for candidate in ordered),
        bool(ordered) and not is_blocked and all(candidate.finish == "STOP" for candidate in ordered),
    )
