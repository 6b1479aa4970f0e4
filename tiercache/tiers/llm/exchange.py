"""An exchange: the answer that a wrapped client got over HTTP. An llm entry with one more field, ``http``.

    {...,"http":{"status":200,"headers":[[name,value],...],"body":text}}
    {...,"http":{"status":200,"headers":[[name,value],...],"body":base64,"base64":true}}
    {...,"http":{"status":200,"headers":[[name,value],...],"zstd":base64[,"text":base64]}}

``...`` are the fields that ``tiers/llm/entry.py`` lists. A client gets ``body``; ``response`` is the text of the
answer, for people and for ``llm.check``. A body that is not UTF-8 has the second form.

The third form is compressed: ``zstd`` is a zstd frame of the body, and ``response`` is cut to its first 200 characters.
If that leaves characters out, ``text`` is a frame of the whole text, for which the body is the dictionary (a raw
prefix), because a body contains its text. Only these parts are compressed: the entry stays JSON, in which software that
knows no exchanges finds the model.

Readers accept further fields. Other software can write these bytes, so readers believe neither a status other than 200
nor a header that ``is_plain_header`` refuses.
"""

from __future__ import annotations

import binascii
import re
import sys
from typing import Final

import msgspec

from ...engine.entries.rules import UndecodableError
from ...errors import UsageError
from ..keys.canonical_json import compact_json, text_json
from ..values.compression import Compression
from .entry import LlmEntry

__all__ = ["Exchange", "Http", "compressed_exchange", "encode_exchange", "is_plain_header", "read_exchange"]

# Exchanges of more bytes are compressed unless the tier has a threshold of its own: a stream repeats the same fields in
# each of its events, so that a tenth of the bytes is left.
_COMPRESS_ABOVE: Final = 1024
# Characters of ``response`` in a compressed exchange.
_SHOWN_CHARACTERS: Final = 200
# Fewer bytes are no dictionary for zstd.
_SHORTEST_PREFIX: Final = 8

_MOST_HEADERS: Final = 64
_LONGEST_NAME: Final = 128
_LONGEST_VALUE: Final = 8192
# RFC 9110, 5.1 and 5.6.2: a token. 5.5: a value has no CR, LF, NUL and no other control character. Only ASCII: HTTP
# libraries refuse to send other characters, or guess their encoding.
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
# Headers of one connection (RFC 9110, 7.6.1), of the encoding of the body, which is stored decoded, and cookies.
_REFUSED_NAMES: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-encoding", "content-length", "set-cookie"),
    }
)


class Exchange(LlmEntry, frozen=True, gc=False, kw_only=True):
    """A decoded exchange, immutable: an llm entry that has the answer as the client received it, too.

    Attributes:
        status: The status of the answer; readers believe 200 alone.
        headers: The headers that were kept, as names and values.
        body: The body, not compressed. Of a stream: all of its bytes.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def size_bytes(self) -> int:
        """The memory that the exchange takes."""
        size = super().size_bytes + sys.getsizeof(self.body) + sys.getsizeof(self.headers)
        for header in self.headers:
            size += sys.getsizeof(header) + sys.getsizeof(header[0]) + sys.getsizeof(header[1])
        return size


def is_plain_header(name: str, value: str) -> bool:
    """Return whether an exchange may have a header: a token and visible ASCII, of bounded length.

    Headers of a single connection, headers about the bytes on the wire, and cookies are refused by name.
    """
    return (
        len(name) <= _LONGEST_NAME
        and len(value) <= _LONGEST_VALUE
        and _NAME.fullmatch(name) is not None
        and _VALUE.fullmatch(value) is not None
        and name.lower() not in _REFUSED_NAMES
    )


def encode_exchange(
    answer: LlmEntry, data: bytes, *, status: int, headers: tuple[tuple[str, str], ...], body: bytes
) -> tuple[Exchange, bytes]:
    """Return an exchange and its bytes, not compressed.

    Args:
        answer: The entry of the answer's text, as ``encode`` returns it.
        data: The bytes of ``answer``, as ``encode`` returns them.
        status: The status of the answer, 200.
        headers: The headers to keep.
        body: The body, without its content encoding.

    Raises:
        UsageError: The status is not 200, or an exchange may not have one of the headers.
    """
    defect = _defect_in(status, headers)
    if defect is not None:
        raise UsageError(f"the exchange cannot be stored: {defect}")
    try:
        body_json, is_base64 = text_json(body.decode(), "body"), b""
    except UnicodeDecodeError:
        body_json, is_base64 = b'"%b"' % binascii.b2a_base64(body, newline=False), b',"base64":true'
    headers_json = compact_json([list(header) for header in headers], "headers")
    http = b'{"status":%d,"headers":%b,"body":%b%b}' % (status, headers_json, body_json, is_base64)
    return _exchange(answer, answer.response, (status, headers), body), b'%b,"http":%b}' % (data[:-1], http)


def _exchange(answer: LlmEntry, response: str, head: tuple[int, tuple[tuple[str, str], ...]], body: bytes) -> Exchange:
    return Exchange(
        response,
        answer.model,
        answer.stored_at_ms,
        answer.cost,
        answer.tokens,
        answer.content_blocks,
        status=head[0],
        headers=head[1],
        body=body,
    )


def _defect_in(status: int, headers: tuple[tuple[str, str], ...]) -> str | None:
    """Return the reason why no reader believes an exchange with this status and these headers, or None."""
    if status != 200:
        return f"its status is {status}, and not 200"
    if len(headers) > _MOST_HEADERS:
        return f"it has {len(headers)} headers, and at most {_MOST_HEADERS} are kept"
    for name, value in headers:
        if not is_plain_header(name, value):
            # Not the value, which may be secret, and not the name, which may be of any length.
            return "it has a header that is not plain ASCII, is too long, or is of one connection alone"
    return None


class Http(msgspec.Struct):
    """The field ``http`` of an exchange, under its names in Valkey."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str | None = None
    base64: bool = False
    zstd: bytes | None = None
    text: bytes | None = None


def read_exchange(answer: LlmEntry, http: Http, compression: Compression) -> Exchange:
    """Return the exchange of an entry that was read.

    Args:
        answer: The entry without ``http``.

    Raises:
        UnreadableHereError: The body has too many bytes, or is compressed and the library is not installed.
        UndecodableError: The body is not UTF-8 or not base64, a frame is damaged, or a header is not believed.
    """
    defect = _defect_in(http.status, http.headers)
    if defect is not None:
        raise UndecodableError(defect)
    response = answer.response
    try:
        if http.zstd is None:
            body = _body(http)
        else:
            body = compression.content(http.zstd)
            if http.text is not None:
                response = compression.content(http.text, prefix=body).decode()
    except UndecodableError:
        raise
    # A text that is not base64, is not UTF-8, or has a lone surrogate.
    except ValueError as error:
        raise UndecodableError(str(error)) from error
    return _exchange(answer, response, (http.status, http.headers), body)


def _body(http: Http) -> bytes:
    if http.body is None:
        raise UndecodableError("the exchange has no body")
    return binascii.a2b_base64(http.body, strict_mode=True) if http.base64 else http.body.encode()


class _Parts(msgspec.Struct):
    response: str
    http: msgspec.Raw = msgspec.Raw(b"null")


# The last bytes of every exchange, plain or with base64, and of few other entries: most end in a digit and braces.
_ENDS: Final = (b'"}}', b',"base64":true}}')
_PARTS: Final = msgspec.json.Decoder(_Parts)
_HTTP: Final = msgspec.json.Decoder(Http | None)


def compressed_exchange(data: bytes, compression: Compression) -> bytes | None:
    """Return the bytes to write for an exchange, compressed if it is large and compression makes it smaller.

    Args:
        data: The bytes of any llm entry, as ``encode`` or ``encode_exchange`` return them.

    Returns:
        None if the entry is no exchange, or is not large.
    """
    if not compression.is_large(data, default=_COMPRESS_ABOVE) or not data.endswith(_ENDS):
        return None
    try:
        parts = _PARTS.decode(data)
    # Token counts or blocks that only ``json`` reads: NaN, infinities, or nested too deeply.
    except (msgspec.DecodeError, RecursionError):
        return None
    http_json = bytes(parts.http)
    http = _HTTP.decode(http_json)
    if http is None:
        return None  # A part of the answer has a field of this name.
    body = _body(http)
    if len(body) < _SHORTEST_PREFIX:
        return data
    shown = parts.response[:_SHOWN_CHARACTERS]
    text = b""
    if len(shown) < len(parts.response):
        frame = compression.frame(parts.response.encode(), prefix=body)
        text = b',"text":"%b"' % binascii.b2a_base64(frame, newline=False)
    between = data[len(text_json(parts.response, "response")) + len(b'{"response":') : -len(http_json) - 1]
    packed = b'{"response":%b%b{"status":%d,"headers":%b,"zstd":"%b"%b}}' % (
        text_json(shown, "response"),
        between,
        http.status,
        compact_json([list(header) for header in http.headers], "headers"),
        binascii.b2a_base64(compression.frame(body), newline=False),
        text,
    )
    return packed if len(packed) < len(data) else data
