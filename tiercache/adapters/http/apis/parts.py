"""Parts of JSON from elsewhere, of whichever type they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from .api import Event

__all__ = [
    "counted",
    "is_asked",
    "is_given",
    "joined_texts",
    "json_events",
    "kind_in",
    "mapping",
    "mappings",
    "searches_web",
    "text",
    "tools_in",
]

_NOTHING: Final[dict[str, Any]] = {}
# A token count above it is no count.
_MAX_COUNT: Final = 2**53
# Models that search the web by themselves: OpenAI's, OpenRouter's with this ending, Perplexity's and Groq's.
_SEARCHES_WEB: Final = re.compile(r"search-preview|search-api|:online$|(?:^|/)(?:sonar|compound)(?:[-:]|$)")
_KIND: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z_.]+)"')


def mapping(value: object) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object, or else an empty dict."""
    return value if isinstance(value, dict) else _NOTHING


def mappings(value: object) -> list[dict[str, Any]] | None:
    """Return ``value`` if it is a JSON array of objects alone, or else None."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return None
    return value


def text(value: object) -> str:
    """Return ``value`` if it is a str, or else an empty str."""
    return value if isinstance(value, str) else ""


def searches_web(model: object) -> bool:
    """Return whether the model of this name searches the web by itself, so that its answer is one of the moment."""
    return bool(_SEARCHES_WEB.search(text(model)))


def is_given(value: object) -> bool:
    """Return whether a parameter is set: not null, false, zero or empty."""
    return bool(value)


def is_asked(value: object) -> bool:
    """Return whether a parameter asks for something: an empty object does, because it asks for the defaults."""
    return bool(value) or isinstance(value, dict)


def joined_texts(parts: object, kind: str) -> str:
    """Return the joined ``text`` of the parts of one type in a list of content parts."""
    return "".join(text(part.get("text")) for part in mappings(parts) or () if part.get("type") == kind)


def counted(usage: object, **names: tuple[str, ...]) -> dict[str, int] | None:
    """Return token counts, or None if there are none.

    Args:
        usage: The counts of the provider.
        names: For ``input`` and ``output``, the fields of ``usage`` whose sum counts.
    """
    found: dict[str, int] = {}
    for ours, fields in names.items():
        counts = [mapping(usage).get(field) for field in fields]
        numbers = [count for count in counts if type(count) is int and 0 <= count < _MAX_COUNT]
        if numbers:
            found[ours] = sum(numbers)
    return found or None


def json_events(events: Iterable[Event]) -> list[dict[str, Any]] | None:
    """Return the JSON objects of a stream, or None if one of its events is anything else."""
    found: list[dict[str, Any]] = []
    for event in events:
        try:
            data = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(data, dict) or event.name == "error":
            return None
        found.append(data)
    return found


def kind_in(field: bytes, value: bytes) -> bytes | None:
    """Return the type of an event that a line of it shows: its ``event`` line, or data that begins with a type."""
    if field == b"event":
        return value.strip()
    match = _KIND.match(value) if field == b"data" else None
    return None if match is None else match[1]


def tools_in(*lists: object) -> Iterable[Mapping[str, Any] | None]:
    """Yield each tool of several lists; None for a tool that is no object, and for a list that is none."""
    for each in lists:
        if isinstance(each, list):
            yield from (tool if isinstance(tool, dict) else None for tool in each)
        elif each is not None:
            yield None
