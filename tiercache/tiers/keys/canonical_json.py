"""JSON as the wire contract has it: what ``json.dumps(x, separators=(",", ":"), ensure_ascii=False)`` writes.

``json`` is the definition. orjson writes the same bytes ten times as fast for most of what callers pass, and other
bytes for the rest: floats that ``json`` writes with an exponent, NaN and infinities, tuples (whose insides the
canonical form does not sort), and enums, dataclasses and dates, which ``json`` refuses. A walk by exact type decides
which of the two is asked.
"""

from __future__ import annotations

import json
from gc import get_referents
from typing import Any, Final

import orjson

from ...errors import UsageError

__all__ = ["MAX_DEPTH", "agreed_json", "agrees_on", "canonical_json", "compact_json", "text_json"]

# Deeper than any request is, and shallow enough for every Python version's recursion limit from any caller's stack.
MAX_DEPTH: Final = 250

_AGREED: Final = frozenset({str, int, float, bool, type(None), dict, list})
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: object, name: str) -> bytes:
    """Return ``value`` as compact JSON, dict keys sorted by code point at every depth reached through dicts and lists.

    Args:
        name: What to call the value in an error.

    Raises:
        UsageError: It is not JSON: an unknown type, keys that cannot be sorted, a lone surrogate, too deep.
    """
    try:
        if _orjson_agrees(value, MAX_DEPTH):
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, RecursionError):
        pass  # Integers past 64 bits, what json refuses too, or hardly any call stack left.
    return _encode(value, name, sort=True)


def agreed_json(value: object) -> bytes | None:
    """Return ``canonical_json`` of what orjson and json are known to agree on, None where orjson refuses it."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None


def agrees_on(value: object) -> bool:
    """Return whether orjson writes what json writes, or refuses; False if in doubt.

    Whole levels of the value are looked at together: of long ones, in half of the time that a walk takes.
    """
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, level))
        if not kinds <= _AGREED:
            return False
        if float in kinds and not all(type(item) is not float or _orjson_agrees(item, 0) for item in level):
            return False
        # Without the keys where all of a dict's are exact str; orjson refuses others.
        level = get_referents(*level)
        if not level:
            return True
    return False


def compact_json(value: object, name: str) -> bytes:
    """Return ``value`` as compact JSON, dict keys in the caller's order. Arguments and errors as ``canonical_json``."""
    try:
        if _orjson_agrees(value, MAX_DEPTH):
            # A copy: the buffer that orjson wrote into stays as large as it was made, some kilobytes for a few bytes.
            return bytes(memoryview(orjson.dumps(value)))
    except (orjson.JSONEncodeError, RecursionError):
        pass
    return _encode(value, name, sort=False)


def text_json(text: str, name: str) -> bytes:
    """Return ``compact_json`` of a text of exactly that type, to be put into a larger one at once."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return _encode(text, name, sort=False)


def _orjson_agrees(value: object, depth: int) -> bool:
    """Return whether orjson writes what json writes, or refuses."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return True
    if kind is float:
        # json writes an exponent beyond these; orjson none below, and above another form before its version 3.11.
        return 1e-4 <= abs(value) < 1e16 or value == 0  # type: ignore[arg-type]
    if depth == 0:
        return False
    if kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or (type(item) is not str and not _orjson_agrees(item, depth - 1)):
                return False
        return True
    if kind is list:
        for item in value:  # type: ignore[attr-defined]  # noqa: SIM110 - a third faster than all()
            if type(item) is not str and not _orjson_agrees(item, depth - 1):
                return False
        return True
    return False


def _encode(value: object, name: str, *, sort: bool) -> bytes:
    try:
        return _JSON.encode(_prepared(value, MAX_DEPTH, sort)).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} has text that is not Unicode (a lone surrogate): {error}") from error
    except _TooDeepError as error:
        raise UsageError(f"{name} is nested deeper than {MAX_DEPTH} levels, or contains itself") from error
    except RecursionError as error:
        raise UsageError(f"{name} is nested too deeply for the call stack it was passed from") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is not JSON: {error}") from error


class _TooDeepError(Exception):
    pass


def _prepared(value: object, depth: int, sort: bool) -> Any:
    """Return ``value`` with the keys of its dicts sorted; a tuple stays as it is, insides and all."""
    if isinstance(value, dict | list | tuple) and depth == 0:
        raise _TooDeepError
    if isinstance(value, dict):
        # Keys of mixed types do not compare: a TypeError here is the contract's refusal.
        items = sorted(value.items()) if sort else value.items()
        prepared: dict[Any, Any] = {}
        for key, item in items:
            prepared[key] = _prepared(item, depth - 1, sort)
        return prepared
    if isinstance(value, list | tuple):
        elements: list[Any] = []
        inner_sort = sort and isinstance(value, list)
        for item in value:
            elements.append(_prepared(item, depth - 1, inner_sort))
        return elements
    return value
