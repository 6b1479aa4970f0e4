"""The body of a request, read as JSON so strictly that no two readers can differ about it.

A provider must read the same question from two bodies that share a key. Where readers of JSON differ, this module
refuses the body, and the request bypasses the cache:

1. a name that an object has twice: some readers keep the first value, some the last, some refuse;
2. NaN, infinities, and numbers that overflow a double, which only some readers accept;
3. bytes that are not UTF-8, a byte order mark, UTF-16, and a body that is compressed;
4. a body that is no object, or nested deeper than Python can read.

A number in an unusual form, such as ``1E5``, ``-0`` or ``0.10``, is read, but its form gets lost: to some readers, and
to a model that sees the text, ``0.10`` is not ``0.1``. ``Body.is_exact`` is False then, and the raw bytes join the key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Body", "UnreadableBodyError", "read_body"]

_PLAIN_CODINGS: Final = ("", "identity")
_UTF8: Final = ("utf-8", "utf8", "us-ascii", "ascii")


class UnreadableBodyError(Exception):
    """A body that readers of JSON may read differently, or not at all. The message is the reason of the bypass."""


class Body(NamedTuple):
    """The body of a request.

    Attributes:
        value: The JSON object.
        is_exact: Whether ``value`` tells apart all that the bytes tell apart, except white space, escapes in texts, and
            the order of the object's own fields.
    """

    value: dict[str, Any]
    is_exact: bool


def read_body(raw: bytes, headers: Mapping[str, str]) -> Body:
    """Return the body of a request.

    Args:
        raw: The bytes as they are sent.
        headers: The headers of the request, under names in lower case.

    Raises:
        UnreadableBodyError: Readers may differ about the body.
    """
    if headers.get("content-encoding", "").strip().lower() not in _PLAIN_CODINGS:
        raise UnreadableBodyError("the body is compressed")
    charset = headers.get("content-type", "").lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    if charset and charset not in _UTF8:
        raise UnreadableBodyError("the body is not UTF-8")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UnreadableBodyError("the body is not UTF-8") from error
    numbers = _Numbers()
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=numbers.read_float,
            parse_int=numbers.read_int,
        )
    except RecursionError as error:
        raise UnreadableBodyError("the body is nested too deeply") from error
    except ValueError as error:
        raise UnreadableBodyError("the body is not JSON") from error
    if not isinstance(value, dict):
        raise UnreadableBodyError("the body is no JSON object")
    return Body(value, not numbers.lose_form)


class _Numbers:
    """Reads numbers, and notices those whose form gets lost."""

    def __init__(self) -> None:
        self.lose_form = False

    def read_float(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise UnreadableBodyError("the body has a number that JSON cannot hold")
        if repr(value) != text:
            self.lose_form = True
        return value

    def read_int(self, text: str) -> int:
        if text == "-0":
            self.lose_form = True
        # Python refuses thousands of digits, by a ValueError.
        return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UnreadableBodyError("the body has a name twice in one object")
    return value


def _refuse_constant(text: str) -> None:
    raise UnreadableBodyError("the body has a number that JSON cannot hold")
