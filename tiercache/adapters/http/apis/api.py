"""The knowledge about one model API: the question in a request, the answer in a response, the end of a stream.

Every function here accepts any JSON, since providers add fields and gateways change them. A request that an API does
not understand counts whole, or bypasses the cache. An answer that an API does not understand is not complete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, NamedTuple

import orjson

from ..answer import Answer
from ..target import Target

__all__ = ["ASKS_NO_MODEL", "UNREADABLE", "Api", "Ending", "Event", "Question"]

# The reason why a request of another service bypasses the cache.
ASKS_NO_MODEL: Final = "the request asks no model"

UNREADABLE = Answer("", "", None, (), False)


class Ending(Enum):
    """The end of a stream, as a line of it shows: a line of its last event, or of an error."""

    LAST = "last"
    ERROR = "error"


class Event(NamedTuple):
    """One event of a stream.

    Attributes:
        name: The value of its ``event`` line, or an empty str.
        data: Its ``data`` lines, joined by line feeds.
    """

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """The question that a request asks.

    Attributes:
        hashed: The part of the request that belongs in the key. Empty if the request bypasses the cache.
        model: The model that the request names, or an empty str.
        is_stream: Whether the request asks for a stream of events.
        bypass: Why the request bypasses the cache, or None.
    """

    hashed: dict[str, Any]
    model: str
    is_stream: bool
    bypass: str | None


class Api(ABC):
    """One endpoint of a model API.

    Attributes:
        name: Its name in the documentation.
        suffix: The end of the path of its requests.
        left_out: The parameters that cannot change the answer. ``docs/request-keys.md`` has the reasons.
        asked_by: The parameters of which a request that asks a model has one.
        marker: Bytes that a stream without a last event must contain to be whole, or None if a last event ends it.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    left_out: ClassVar[frozenset[str]] = frozenset()
    marker: ClassVar[bytes | None] = None
    asked_by: ClassVar[tuple[str, ...]]

    def takes(self, path: str) -> bool:
        """Return whether a POST to ``path`` is a request of this API."""
        return path.endswith(self.suffix)

    def question(self, body: Mapping[str, Any], target: Target, *, stateful: bool) -> Question:
        """Return the question of a request.

        Args:
            stateful: Whether to cache answers that depend on state at the provider, too.
        """
        model, is_stream = self.model_of(body, target), self.is_stream(body, target)
        reason = None if self.asks(body) else ASKS_NO_MODEL
        if reason is None and not stateful:
            reason = self.state_in(body)
        hashed = {} if reason is not None else self.reduced(body)
        return Question(hashed, model, is_stream, reason)

    def asks(self, body: Mapping[str, Any]) -> bool:
        """Return whether a request asks a model: other services have paths with the same end."""
        return any(name in body for name in self.asked_by)

    def model_of(self, body: Mapping[str, Any], target: Target) -> str:
        """Return the model that a request names: in its body, or as a deployment of Azure in its path."""
        model = body.get("model")
        return model if isinstance(model, str) and model else target.segment_after("deployments")

    def is_stream(self, body: Mapping[str, Any], target: Target) -> bool:
        """Return whether a request asks for a stream of events."""
        return body.get("stream") is True

    def reduced(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``body`` without the parameters that cannot change the answer."""
        return {name: value for name, value in body.items() if name not in self.left_out}

    @abstractmethod
    def state_in(self, body: Mapping[str, Any]) -> str | None:
        """Return why the answer depends on more than the request, or None if it does not."""

    def ending(self, field: bytes, value: bytes) -> Ending | None:
        """Return how a line of a stream shows its end, or None for any other line.

        Args:
            field: The name of the line's field.
            value: The first bytes of its value.
        """
        return None

    def read_whole(self, body: bytes) -> Answer:
        """Return the answer in the body of a response that is no stream of events. Raises nothing."""
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            return UNREADABLE
        return self.read(data)

    @abstractmethod
    def read(self, data: object) -> Answer:
        """Return the answer in the parsed body of a whole response. Raises nothing."""

    def read_events(self, events: Iterable[Event]) -> Answer:
        """Return the answer in the events of a stream. Raises nothing."""
        return UNREADABLE
