"""The place of a defect in a value that JSON cannot hold, for an error: ``params['messages'][3]['content']``.

Only a value that was refused is searched, so that the search costs nothing where there is no error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...text import shown
from .exact_json import MAX_DEPTH

__all__ = ["colliding_keys", "defect_in"]

# Characters of a place. A value is nested 250 levels deep at most, and a key may be long.
_PLACE_COUNT: Final = 300


def defect_in(value: object, name: str, *, sort: bool) -> str | None:
    """Return the place and the reason of the first defect in ``value``, or None if there is none.

    Args:
        name: The name of the value, with which the place begins.
        sort: Whether the keys of dicts must be of types that can be sorted.
    """
    defects = _defects(value, name, sort, MAX_DEPTH)
    return next(defects, None)


def _defects(value: Any, place: str, sort: bool, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if not _is_unicode(value):
            yield f"{place} has text that is not Unicode (a lone surrogate)"
    elif isinstance(value, dict | list | tuple):
        if depth == 0:
            return
        if isinstance(value, dict):
            yield from _key_defects(value, place, sort)
            items: Any = value.items()
        else:
            items, sort = enumerate(value), sort and isinstance(value, list)
        for key, item in items:
            yield from _defects(item, _inside(place, key), sort, depth - 1)
    elif not isinstance(value, bool | int | float | None):
        yield f"{place} is not JSON: Object of type {type(value).__name__} is not JSON serializable"


def _key_defects(value: dict[Any, Any], place: str, sort: bool) -> Iterator[str]:
    for key in value:
        if not isinstance(key, str | bool | int | float | None):
            yield f"{place} is not JSON: keys must be str, int, float, bool or None, not {type(key).__name__}"
        if isinstance(key, str) and not _is_unicode(key):
            yield f"{place} has the key {shown(key)}, which is not Unicode (a lone surrogate)"
    if (collision := colliding_keys(value)) is not None:
        first, second = collision
        yield f"{place} has the keys {shown(first)} and {shown(second)}, which are one key in JSON"
    if sort:
        try:
            sorted(value)
        except TypeError:
            yield f"{place} is not JSON: its keys are of several types, and cannot be sorted"


def colliding_keys(value: Mapping[Any, Any]) -> tuple[Any, Any] | None:
    """Return two keys that JSON writes as the same text, or None. ``json`` would write both, and read the last one."""
    texts: dict[str, Any] = {}
    for key in value:
        text = _text_of(key)
        if text is None:
            continue
        if text in texts:
            return texts[text], key
        texts[text] = key
    return None


def _text_of(key: object) -> str | None:
    """Return the text that ``json`` writes for a key, or None for a key that it refuses."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int):
        # The hexadecimal digits, because Python limits the decimal digits of an int. ``1`` and "0x1" do not collide.
        return int.__repr__(key) if abs(key) < 10**100 else f"int {int.__format__(key, 'x')}"
    if isinstance(key, float):
        if math.isfinite(key):
            return float.__repr__(key)
        return "NaN" if math.isnan(key) else "Infinity" if key > 0 else "-Infinity"
    return None


def _inside(place: str, key: object) -> str:
    return place if len(place) > _PLACE_COUNT else f"{place}[{shown(key)}]"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
