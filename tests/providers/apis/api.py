"""An API: how the answer to a request looks on the wire."""

from __future__ import annotations

import json
import secrets
import string
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.providers.script import Script, ToolCall

__all__ = ["Api", "Reply", "RequestError", "as_json", "data_event", "halves", "named_event", "token"]

_LETTERS = string.ascii_letters + string.digits


class RequestError(Exception):
    """The request is malformed: the API answers with status 400 and this message."""


def token(prefix: str, length: int) -> str:
    """Return a new id: ``prefix`` and random letters."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


def as_json(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def halves(text: str) -> tuple[str, str]:
    """Return two parts of ``text``, as a stream sends the arguments of a tool call."""
    half = len(text) // 2
    return text[:half], text[half:]


def data_event(value: Any) -> bytes:
    """Return a server-sent event without a name."""
    return b"data: " + as_json(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    """Return a server-sent event whose name is the type of ``value``."""
    return b"event: " + value["type"].encode() + b"\n" + data_event(value)


@dataclass(frozen=True)
class Reply:
    """The answer to one request, before an API gives it a form.

    Attributes:
        number: The number of the call at its server, from 1.
        script: The script of the answer.
        params: The body of the request.
        model: The model of the request.
        created: Seconds since the epoch.
    """

    number: int
    script: Script
    params: Mapping[str, Any]
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def texts(self) -> Iterator[str]:
        """Yield the texts of the parts."""
        return self.script.texts(self.number)

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts())

    @cached_property
    def input_tokens(self) -> int:
        """The tokens of the request, roughly."""
        return max(1, len(as_json(self.params)) // 4)

    @cached_property
    def output_tokens(self) -> int:
        """The tokens of the answer: one for each part, three for each tool call."""
        return 3 * len(self.tool_calls) or sum(1 for _ in self.texts())

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model calls."""
        return self.script.tool_calls

    @property
    def is_refusal(self) -> bool:
        """Whether the model refuses to answer."""
        return self.script.finish == "refusal"

    def finish(self, words: Mapping[str, str], tool_word: str | None = None) -> str:
        """Return the finish reason in the ``words`` of an API.

        Args:
            tool_word: The reason of an answer that calls tools; None: the API has none.
        """
        if self.tool_calls and tool_word is not None and self.script.finish == "stop":
            return tool_word
        return words.get(self.script.finish, self.script.finish)


class Api(ABC):
    """How the answer to a request looks on the wire."""

    stream_type = "text/event-stream; charset=utf-8"

    @abstractmethod
    def whole(self, reply: Reply) -> dict[str, Any]:
        """Return the body of a whole answer."""

    def stream(self, reply: Reply) -> Iterator[list[bytes]]:
        """Yield lists of events: one list for each part, and one for the ending, whose last event is the terminal one.

        The first list includes the events before the text.

        Raises:
            RequestError: The API has no streams.
        """
        raise RequestError("this API has no streams")

    @abstractmethod
    def error(self, status: int, message: str) -> dict[str, Any]:
        """Return the body of an answer with an error status."""

    def error_event(self, message: str) -> bytes:
        """Return the event that reports an error in the middle of a stream."""
        return data_event(self.error(500, message))

    @abstractmethod
    def headers(self, reply: Reply | None) -> list[tuple[str, str]]:
        """Return the headers of an answer; ``reply`` is None for an error."""

    def wants_stream(self, path: str, params: Mapping[str, Any]) -> bool:
        """Return whether the request asks for a stream."""
        return params.get("stream") is True

    def model_of(self, path: str, params: Mapping[str, Any]) -> str:
        """Return the model that the request names.

        Raises:
            RequestError: The request names none.
        """
        model = params.get("model")
        if not isinstance(model, str) or not model:
            raise RequestError("you must provide a model parameter")
        return model
