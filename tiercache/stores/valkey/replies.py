"""The parser of replies, in C. Errors become exceptions of valkey-py, and some of them end the connection."""

from __future__ import annotations

from functools import partial
from typing import Final

from libvalkey import Reader
from valkey._parsers.base import BaseParser
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import InvalidResponse

__all__ = ["INCOMPLETE", "reply_reader"]

# The parser returns this while the next reply is incomplete.
INCOMPLETE: Final = object()


def reply_reader(refusals: list[ValkeyConnectionError]) -> Reader:
    """Return a parser.

    Args:
        refusals: The parser adds the replies here that end a connection, such as LOADING or NOAUTH: the server will
            answer no command.
    """
    return Reader(protocolError=InvalidResponse, replyError=partial(_error, refusals), notEnoughData=INCOMPLETE)


def _error(refusals: list[ValkeyConnectionError], text: str) -> Exception:
    error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    if isinstance(error, ValkeyConnectionError):
        refusals.append(error)
    return error
