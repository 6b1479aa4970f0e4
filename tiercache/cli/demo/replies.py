"""The replies that the agents get, and how they are checked: the same for streamed and for whole answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .answers import Answer, ToolCall
from .tally import Outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to one agent.

    Attributes:
        text: Empty for a tool call.
        tokens: ``input`` and ``output``.
        first_part: Seconds until the first part of a stream, or None for a whole answer.
        took: Seconds until the whole answer.
        cost: In dollars, or None if the model has no price.
        degraded: Whether Valkey was unavailable for this request, as far as the client can see.
    """

    outcome: Outcome
    text: str
    tool_calls: Sequence[ToolCall]
    tokens: Mapping[str, Any]
    first_part: float | None
    took: float
    cost: float | None
    degraded: bool = False


class Asking(Protocol):
    """A way to ask the model through the cache."""

    async def open(self) -> None:
        """Prepare the first request, so that the agents do not wait for imports."""
        ...

    async def ask(self, params: dict[str, Any]) -> Reply:
        """Return the reply to ``params``, the parameters of a chat completion."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


def is_right(reply: Reply, expected: Answer) -> bool:
    """Return whether ``reply`` is the ``expected`` answer: text, tool call and tokens."""
    call = expected.tool_call
    return (
        reply.text == (expected.text or "")
        and list(reply.tool_calls) == ([] if call is None else [call])
        and dict(reply.tokens) == {"input": expected.prompt_tokens, "output": expected.completion_tokens}
    )


def outcome_of(source: str | None, age: float | None, took: float) -> Outcome:
    """Return the outcome of a call that took ``took`` seconds, and that no other caller of its process answered.

    ``"waited"`` if it waited for the load of another process, else the source of the answer.
    """
    if source == "l2" and age is not None and age < took:
        # The answer was made during the call: at the beginning of the call Valkey did not have it.
        return "waited"
    match source:
        case "l1" | "l2" | "loader":
            return source
        case _:
            raise ValueError(f"cannot count an answer from {source!r}: the demo expects l1, l2 or loader")


def tool_call(id_: str, name: str, arguments: str | dict[str, Any]) -> ToolCall:
    """Return a tool call whose arguments are a JSON text or its value."""
    return ToolCall(id_, name, json.loads(arguments) if isinstance(arguments, str) else arguments)
