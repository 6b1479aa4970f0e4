"""Normalizers of binary parts: the text by which an image, a sound or a document of a request stands in the key.

``prepare_params`` of each provider calls a normalizer for each binary part. The names and the texts are those of
betterdb-agent-cache, except where its text is the same for different parts.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from inspect import isawaitable
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict
from urllib.parse import parse_qsl, urlencode, urlparse, urlunparse

from ..errors import UsageError
from ..text import check_text, shown

__all__ = [
    "Base64Source",
    "BinaryNormalizer",
    "BinaryRef",
    "BinarySource",
    "BytesSource",
    "FileIdSource",
    "NormalizerConfig",
    "UrlSource",
    "compose_normalizer",
    "default_normalizer",
    "fetch_and_hash",
    "hash_base64",
    "hash_bytes",
    "hash_url",
    "passthrough",
]


class Base64Source(TypedDict):
    """Base64 text, or a whole data URL."""

    type: Literal["base64"]
    data: str
    media_type: NotRequired[str]


class UrlSource(TypedDict):
    """A URL that the provider fetches."""

    type: Literal["url"]
    url: str


class FileIdSource(TypedDict):
    """A file that a provider keeps."""

    type: Literal["file_id"]
    file_id: str
    provider: str


class BytesSource(TypedDict):
    """Plain bytes."""

    type: Literal["bytes"]
    data: bytes


BinarySource: TypeAlias = Base64Source | UrlSource | FileIdSource | BytesSource
Kind: TypeAlias = Literal["image", "audio", "document"]


class BinaryRef(TypedDict):
    """A binary part of a request."""

    kind: Kind
    source: BinarySource
    context: NotRequired[dict[str, Any]]


Text: TypeAlias = str | Awaitable[str]
BinaryNormalizer: TypeAlias = Callable[[BinaryRef], Awaitable[str]]


class NormalizerConfig(TypedDict, total=False):
    """The functions of ``compose_normalizer``, plain or async; each returns the text of a part."""

    base64: Callable[[str], Text]
    url: Callable[[str], Text]
    file_id: Callable[[str, str], Text]
    bytes: Callable[[bytes], Text]
    by_kind: Mapping[Kind, Callable[[BinaryRef], Text]]


_SOURCES: Final = ("base64", "url", "file_id", "bytes")
_KINDS: Final = ("image", "audio", "document")
_DATA_URL: Final = "data:"
_BASE64: Final = ";base64,"
_WHITE_SPACE: Final = str.maketrans("", "", " \t\r\n")
_NO_FETCHER: Final = (
    "fetch_and_hash needs a function that fetches: fetch_and_hash(url, fetch), where fetch(url) returns the bytes, "
    "for example by httpx. In a normalizer: compose_normalizer({'url': lambda url: fetch_and_hash(url, fetch)})"
)


def compose_normalizer(cfg: NormalizerConfig | None = None) -> BinaryNormalizer:
    """Return a normalizer that calls the function of ``cfg`` for a part, or ``passthrough`` where there is none.

    ``by_kind`` is asked first, with the whole part. Then comes the function for the type of its source:
    ``base64(data)``, ``url(url)``, ``file_id(file_id, provider)`` or ``bytes(data)``.

    Raises:
        UsageError: ``cfg`` has an unknown name, or no function under a name. The normalizer raises it if a function
            returns no str.
    """
    functions, by_kind = _checked(cfg)

    async def normalize(ref: BinaryRef) -> str:
        source: Any = ref["source"]
        name = source["type"]
        if (of_kind := by_kind.get(ref["kind"])) is not None:
            return await _text_of(of_kind(ref), f"by_kind[{ref['kind']!r}]")
        function = functions.get(name)
        if function is None:
            return passthrough(ref)
        if name == "file_id":
            return await _text_of(function(source["file_id"], source["provider"]), name)
        return await _text_of(function(source["url" if name == "url" else "data"]), name)

    return normalize


def _checked(cfg: object) -> tuple[dict[str, Callable[..., Any]], dict[str, Callable[..., Any]]]:
    """Return the functions by source and by kind."""
    if cfg is None:
        return {}, {}
    if not isinstance(cfg, Mapping):
        raise UsageError(f"cfg must be a mapping, not {type(cfg).__name__}")
    by_kind = cfg.get("by_kind") or {}
    if not isinstance(by_kind, Mapping):
        raise UsageError(f"cfg['by_kind'] must be a mapping, not {type(by_kind).__name__}")
    functions = {name: function for name, function in cfg.items() if name != "by_kind" and function is not None}
    for each, known, place in ((functions, (*_SOURCES, "by_kind"), "cfg"), (by_kind, _KINDS, "cfg['by_kind']")):
        for name, function in each.items():
            if name not in known:
                raise UsageError(f"{place} has {shown(name)}; the names are {', '.join(known)}")
            if not callable(function):
                raise UsageError(f"{place}[{name!r}] must be a function, not {type(function).__name__}")
    return functions, dict(by_kind)


async def _text_of(result: object, name: str) -> str:
    text = await result if isawaitable(result) else result
    if not isinstance(text, str):
        raise UsageError(f"the function {name} of a normalizer must return a str, not {type(text).__name__}")
    return text


def passthrough(ref: BinaryRef) -> str:
    """Return the source of a part as it is, behind the name of its type; of bytes, the hash.

    Raises:
        UsageError: The type of the source is unknown.
    """
    source: Any = ref["source"]
    match source["type"]:
        case "base64":
            return f"base64:{source['data']}"
        case "url":
            return f"url:{source['url']}"
        case "file_id":
            return f"fileid:{source['provider']}:{source['file_id']}"
        case "bytes":
            return hash_bytes(source["data"])
    raise UsageError(f"the type of a source must be one of {', '.join(_SOURCES)}, not {shown(source['type'])}")


default_normalizer: BinaryNormalizer = compose_normalizer()


def hash_bytes(data: bytes) -> str:
    """Return ``sha256:`` and the hex digest of ``data``."""
    return f"sha256:{sha256(data).hexdigest()}"


def hash_base64(data: str) -> str:
    """Return ``sha256:`` and the hex digest of the bytes that ``data`` encodes.

    Args:
        data: Base64, with its padding or without, with white space or without; or a data URL with base64. If the data
            URL has parameters, such as a charset, they follow the digest.

    Raises:
        UsageError: ``data`` is anything else.
    """
    text, parameters = check_text(data, "data"), ""
    if text.startswith(_DATA_URL):
        prefix, marker, text = text.partition(_BASE64)
        if not marker:
            raise UsageError("the data URL has no base64; hash its text by a function of your own")
        _, semicolon, rest = prefix.partition(";")
        parameters = semicolon + rest
    text = text.translate(_WHITE_SPACE)
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    elif len(text) % 4:
        raise UsageError("data is not base64: its padding is wrong")
    try:
        decoded = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"data is not base64: {error}") from error
    return hash_bytes(decoded) + parameters


def hash_url(url_str: str) -> str:
    """Return ``url:`` and the URL with its scheme and host in lower case, and its query sorted.

    A URL that another URL could equal after that, although it may lead elsewhere, stays as it is: with a name in the
    query that has no ``=``, or several values out of order; with capitals in the user or password before the host;
    with bytes in the query that are not UTF-8; or with white space and the like, which parsers drop.

    Raises:
        UsageError: ``url_str`` is no str, or not Unicode.
    """
    url = check_text(url_str, "url_str")
    try:
        parsed = urlparse(url)
        scheme, rest = parsed.scheme, url[len(parsed.scheme) :]
        pairs = parse_qsl(parsed.query, keep_blank_values=True, strict_parsing=bool(parsed.query), errors="strict")
    except ValueError:
        return f"url:{url}"
    user = parsed.netloc.rpartition("@")[0]
    if user != user.lower() or urlunparse(parsed)[len(scheme) :] != rest or not _is_regular(pairs):
        return f"url:{url}"
    return "url:" + urlunparse(parsed._replace(netloc=parsed.netloc.lower(), query=urlencode(sorted(pairs))))


def _is_regular(pairs: list[tuple[str, str]]) -> bool:
    """Return whether sorting keeps the order of the values of each name."""
    return sorted(pairs) == sorted(pairs, key=lambda pair: pair[0])


async def fetch_and_hash(url: str, fetch: Callable[[str], bytes | Awaitable[bytes]] | None = None) -> str:
    """Return ``sha256:`` and the hex digest of the content behind ``url``.

    Args:
        fetch: A function, plain or async, that gets the URL and returns the content as bytes. It decides which URLs it
            fetches, and how many bytes; an error that it raises reaches the caller of ``prepare_params``.

    Raises:
        UsageError: ``fetch`` is missing, or returns no bytes.
    """
    if fetch is None:
        raise UsageError(_NO_FETCHER)
    fetched: Any = fetch(url)
    content = await fetched if isawaitable(fetched) else fetched
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UsageError(f"the fetcher must return bytes, not {type(content).__name__}")
    return hash_bytes(bytes(content))
