"""Answers of models in DSPy's cache: whether they are complete, their text, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..extras import missing_extra
from ..http.answer import Answer
from ..http.apis.api import UNREADABLE
from ..http.apis.chat import Chat
from ..http.apis.parts import counted, mapping, mappings, text
from ..http.apis.responses import Responses
from .values import fields_of

try:
    from pydantic import BaseModel
except ImportError as error:
    raise missing_extra("dspy", error) from error

__all__ = ["answer_of"]

_FORMAT: Final = "_dspy_format"
_GOOD: Final = frozenset({"stop", "tool_call"})


def answer_of(value: Any) -> Answer:
    """Return the answer in a value of the cache. A value that is no answer of a model is not complete."""
    if isinstance(value, BaseModel):
        fields = fields_of(value)
        if "output" in fields:
            return Responses().read(fields)
        answer = Chat().read(fields)
        choices = mappings(fields.get("choices")) or [{}]
        return answer if answer.text else replace(answer, text=text(choices[0].get("text")))
    if isinstance(value, Mapping) and _FORMAT in value:
        return _recorded(value)
    return UNREADABLE


def _recorded(record: Mapping[str, Any]) -> Answer:
    """Return the answer in a record that DSPy makes of the responses of its own clients."""
    responses = mappings(record.get("responses"))
    outputs = record.get("outputs")
    if not responses or not isinstance(outputs, list):
        return UNREADABLE
    first = outputs[0] if outputs else ""
    finish = tuple(text(response.get("finish_reason")) for response in responses)
    is_refused = any(
        part.get("type") == "refusal"
        for response in responses
        for part in mappings(mapping(response.get("message")).get("parts")) or ()
    )
    return Answer(
        text(mapping(first).get("text") if isinstance(first, Mapping) else first),
        text(record.get("response_model")),
        counted(record.get("usage"), input=("prompt_tokens",), output=("completion_tokens",)),
        finish,
        all(each in _GOOD for each in finish) and not is_refused,
    )
