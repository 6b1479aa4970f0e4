"""JSON of the wire contract: the text of ``json.dumps(value, separators=(",", ":"), ensure_ascii=False)``.

``json`` is the definition. orjson writes the same bytes ten times as fast for exact JSON (see ``exact_json``), which
most values are. ``json`` writes all others.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from ...errors import UsageError
from .defects import colliding_keys, defect_in
from .exact_json import MAX_DEPTH, is_all_text, is_exact_json

__all__ = ["canonical_json", "compact_json", "text_json"]

_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: object, name: str, *, is_exact: bool = False, given: object = None) -> bytes:
    """Return ``value`` as compact JSON with the keys of its dicts sorted by code point.

    The keys are sorted at every depth that is reached through dicts and lists, and not inside of tuples.

    Args:
        name: The name of the value in an error.
        is_exact: Whether the value is known to be exact JSON. Otherwise this function finds out.
        given: The value as the caller gave it, in which an error says the place; None: ``value``.

    Raises:
        UsageError: The value is not JSON: an unknown type, keys that cannot be sorted, keys that are one key in JSON, a
            lone surrogate, or nested deeper than ``MAX_DEPTH``. The message has the place of the defect.
    """
    try:
        if is_exact or is_exact_json(value):
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, RecursionError):
        pass  # An integer past 64 bits, a value that json refuses too, or hardly any call stack left.
    return _written_by_json(value, name, sort=True, given=given)


def compact_json(value: object, name: str, *, is_exact: bool = False) -> bytes:
    """Return ``value`` as compact JSON with the keys of its dicts in the caller's order.

    Arguments and errors as for ``canonical_json``.
    """
    try:
        if is_exact or is_exact_json(value):
            # A copy: the buffer of orjson keeps its first size, some kilobytes, even for a few bytes.
            return bytes(memoryview(orjson.dumps(value)))
    except (orjson.JSONEncodeError, RecursionError):
        pass
    return _written_by_json(value, name, sort=False)


def text_json(text: str, name: str) -> bytes:
    """Return ``compact_json`` of a str of exactly that type, without a copy: for a short use."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return _written_by_json(text, name, sort=False)


def _written_by_json(value: object, name: str, *, sort: bool, given: object = None) -> bytes:
    try:
        return _JSON.encode(_in_order(value, MAX_DEPTH, sort)).encode()
    except _TooDeepError as error:
        raise UsageError(f"{name} is nested deeper than {MAX_DEPTH} levels, or contains itself") from error
    except RecursionError as error:
        raise UsageError(f"{name} is nested too deeply for the call stack it was passed from") from error
    # A UnicodeEncodeError, for a lone surrogate, is a ValueError.
    except (TypeError, ValueError) as error:
        defect = defect_in(value if given is None else given, name, sort=sort) or defect_in(value, name, sort=sort)
        raise UsageError(defect or f"{name} is not JSON: {error}") from error


class _TooDeepError(Exception):
    """A value is nested deeper than ``MAX_DEPTH``."""


def _in_order(value: object, depth: int, sort: bool) -> Any:
    """Return a copy of ``value`` for ``json`` to write, with the keys of its dicts sorted if ``sort`` is true.

    The contents of a tuple are never sorted.
    """
    if isinstance(value, dict | list | tuple) and depth == 0:
        raise _TooDeepError
    if isinstance(value, dict):
        # Keys of mixed types do not compare: a TypeError here is the contract's refusal.
        items = sorted(value.items()) if sort else value.items()
        ordered: dict[Any, Any] = {}
        if not is_all_text(value) and colliding_keys(value) is not None:
            raise ValueError("two keys of a dict are one key in JSON")
        for key, item in items:
            ordered[key] = _in_order(item, depth - 1, sort)
        return ordered
    if isinstance(value, list | tuple):
        elements: list[Any] = []
        inner_sort = sort and isinstance(value, list)
        for item in value:
            elements.append(_in_order(item, depth - 1, inner_sort))
        return elements
    return value
