"""Scripts: the way in which the server answers one request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["Gate", "Place", "Script", "ToolCall"]

# A place in an answer. "head": before the status line. A number k: after k parts. "ending": before the events that
# follow the last part. "eof": after the terminal event. A whole answer has the places "head" and 0 alone.
Place: TypeAlias = int | Literal["head", "ending", "eof"]


class Gate:
    """Holds every answer of its script at one place until the test releases it.

    Args:
        before: The place; ``Gate(2)`` holds a stream after two parts.

    Attributes:
        held: Set when an answer waits at the gate.
    """

    def __init__(self, before: Place) -> None:
        self.before = before
        self.held = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """Let every answer pass, now and later."""
        self._released.set()

    @property
    def is_released(self) -> bool:
        """Whether answers pass."""
        return self._released.is_set()


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool that the model calls instead of an answer in text."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Script:
    """The way in which the server answers one request. Delays are in seconds.

    Attributes:
        parts: The texts of the parts. None makes ``part_count`` parts, the first of which names the number of the
            call: every call of the server has another text.
        part_count: The number of parts if ``parts`` is None.
        tool_calls: The model calls them and answers no text.
        finish: "stop", "length", "content_filter" or "refusal", in the words of each API; any other text is sent as it
            is. A refusal is a text of its own kind where the API has one. "failed" is a status of responses alone.
        status: The HTTP status. Any but 200 answers with an error object of the API.
        message: The message of that error, or of an error event.
        retry_after: The header ``retry-after`` of an error; None: the error has none.
        headers: Further headers; each replaces those of its name.
        delay_head: Before the status line.
        delay_first: Between the head and the first part.
        delay_part: Before each further part.
        delay_eof: Between the terminal event and the end of the body.
        gates: Each holds the answer at its place.
        error_after: The number of parts after which a stream sends an error event and ends; None: it sends none.
        dies_after: The number of parts after which the connection dies; None: it lives. A whole answer dies in the
            middle of its body.
        death: "reset" (RST) or "close" (FIN, in the middle of the body).
        omits_terminal: Whether a stream ends without its terminal event.
        gzip: Whether the body is compressed.
        chunk_bytes: The size of HTTP chunks; None: a chunk for each event.
    """

    parts: tuple[str, ...] | None = None
    part_count: int = 5
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    status: int = 200
    message: str = "The server answers with an error, as its script demands."
    retry_after: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    delay_head: float = 0.0
    delay_first: float = 0.0
    delay_part: float = 0.0
    delay_eof: float = 0.0
    gates: tuple[Gate, ...] = ()
    error_after: int | None = None
    dies_after: int | None = None
    death: Literal["reset", "close"] = "reset"
    omits_terminal: bool = False
    gzip: bool = False
    chunk_bytes: int | None = None

    @classmethod
    def of_size(cls, size_bytes: int, *, part_bytes: int = 65_536, **fields: Any) -> Script:
        """Return a script whose text has at least ``size_bytes`` ASCII characters, in parts of ``part_bytes``."""
        part = ("0123456789abcdef" * (part_bytes // 16 + 1))[:part_bytes]
        return cls(parts=(part,) * -(-size_bytes // part_bytes), **fields)

    def texts(self, number: int) -> Iterator[str]:
        """Yield the texts of the parts of call ``number``."""
        if self.parts is not None:
            yield from self.parts
            return
        yield f"Answer {number}:"
        for part in range(1, self.part_count):
            yield f" part {part}"

    def gates_at(self, place: Place) -> Iterator[Gate]:
        """Yield the gates that hold an answer at ``place``."""
        yield from (gate for gate in self.gates if gate.before == place)
