"""Streams of events (``text/event-stream``): where they end, while they arrive, and their events, once they are whole.

The rules are those of the HTML standard, section 9.2.6: a line ends in CR LF, LF or CR; a line without a colon is a
field without a value; one space after the colon is no part of the value; a line that begins with a colon is a comment.
Unlike a browser, both readers here take a last event that no blank line follows: a stream may end right after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .api import Api, Ending, Event

__all__ = ["Scanner", "events"]

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_MARK: Final = b"\xef\xbb\xbf"
# The bytes of a line that show whether it ends the stream.
_HEAD_BYTES: Final = 128


class Scanner:
    """Finds the end of a stream in its chunks, however the chunks split it.

    The scanner keeps the first bytes of the current line alone, so that an endless line takes no memory.

    Attributes:
        is_over: Whether the stream has ended: no later byte changes the answer. A stream ends with the blank line after
            its last event, or in ``end``. After an error only ``end`` ends it: readers must get all that follows.
        is_failed: Whether the stream has an error, so that it holds no answer.
    """

    def __init__(self, api: Api) -> None:
        self.is_over = False
        self.is_failed = False
        self._api = api
        self._head = bytearray()
        self._is_first_line = True
        self._ends_in_cr = False
        self._is_last_event = False
        # For an API whose streams have no last event: the end of the last chunk, which may hold half of the marker.
        self._tail = b""
        self._has_marker = False

    def feed(self, chunk: bytes) -> None:
        """Scan the next bytes of the stream. Bytes after its end change nothing."""
        if self.is_over or not chunk:
            return
        self._look_for_marker(chunk)
        # The line feed of a CR LF that two chunks share.
        position = 1 if self._ends_in_cr and chunk.startswith(b"\n") else 0
        self._ends_in_cr = chunk.endswith(b"\r")
        for match in _LINE_END.finditer(chunk, position):
            self._add(chunk, position, match.start())
            if self._end_line():
                return
            position = match.end()
        self._add(chunk, position, len(chunk))

    def end(self) -> None:
        """Scan the end of the stream: no further bytes come."""
        # A last line without an end, and the blank line that ends its event.
        for _ in range(2):
            self._end_line()
        self.is_over = self.is_over or self.is_failed or self._has_marker

    def _add(self, chunk: bytes, start: int, end: int) -> None:
        if (room := _HEAD_BYTES - len(self._head)) > 0:
            self._head += chunk[start : min(end, start + room)]

    def _end_line(self) -> bool:
        """Scan the current line, which is whole, and return whether the stream is over."""
        line = bytes(self._head)
        self._head.clear()
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_MARK)
        if not line:
            self.is_over = self._is_last_event
        elif not line.startswith(b":"):
            ending = self._api.ending(*_field(line))
            self._is_last_event = self._is_last_event or ending is Ending.LAST
            self.is_failed = self.is_failed or ending is Ending.ERROR
        return self.is_over

    def _look_for_marker(self, chunk: bytes) -> None:
        marker = self._api.marker
        if marker is None or self._has_marker:
            return
        # Half of the marker may be in the last chunk.
        edge = self._tail + chunk[: len(marker)]
        self._has_marker = marker in chunk or marker in edge
        self._tail = chunk[1 - len(marker) :] if len(chunk) >= len(marker) else edge[1 - len(marker) :]


def events(body: bytes) -> Iterator[Event]:
    """Yield the events of a whole stream. An event without data, such as a comment, is none."""
    name, data = b"", list[bytes]()
    for line in _lines(body):
        if line:
            field, value = _field(line)
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            continue
        if data:
            yield Event(name.decode(errors="replace"), b"\n".join(data))
        name, data = b"", []
    if data:
        yield Event(name.decode(errors="replace"), b"\n".join(data))


def _lines(body: bytes) -> Iterator[bytes]:
    position = len(_MARK) if body.startswith(_MARK) else 0
    for match in _LINE_END.finditer(body, position):
        yield body[position : match.start()]
        position = match.end()
    yield body[position:]


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name and the value of a line; the name of a comment is empty."""
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")
