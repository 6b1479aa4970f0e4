"""Exact JSON: the one definition of the values that orjson may write instead of ``json``.

1. A value has *exact types* if it consists of dict, list, tuple, str, int, float, bool and None, at every depth and in
   the keys of its dicts too. Subclasses of these types do not count: an enum that is a str, or a float of numpy, may
   equal a plain value and still stand in JSON as another.
2. A value is *exact JSON* if it has exact types, contains no tuple, and ``json`` writes none of its floats with an
   exponent. Then orjson either writes the bytes that ``json`` writes, or refuses the value: it refuses lone surrogates,
   integers past 64 bits, and keys that are not str.

orjson writes other bytes than ``json`` for floats with an exponent, NaN and infinities, and it writes enums,
dataclasses and dates, which ``json`` refuses. orjson would also sort the contents of tuples, which the wire contract
leaves as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from gc import get_referents
from typing import Any, Final

__all__ = ["MAX_DEPTH", "has_exact_types", "is_all_text", "is_exact_json"]

# Deeper than any request is, and shallow enough for every Python version's recursion limit from any caller's stack.
MAX_DEPTH: Final = 250

_JSON_CONTAINERS: Final = frozenset({dict, list})
_EXACT_CONTAINERS: Final = frozenset({dict, list, tuple})


def is_exact_json(value: object) -> bool:
    """Return whether orjson writes the same bytes as ``json`` for ``value``, or refuses it; False if in doubt."""
    kind = type(value)
    return kind is str or kind is int or _consists_of(value, _JSON_CONTAINERS, all_floats=False)


def has_exact_types(value: object) -> bool:
    """Return whether ``value`` has exact types; False also if it is nested deeper than ``MAX_DEPTH``."""
    return _consists_of(value, _EXACT_CONTAINERS, all_floats=True)


def is_all_text(keys: Iterable[object]) -> bool:
    """Return whether all of ``keys`` are of type str exactly, so that JSON writes no two of them as the same text."""
    return all(type(key) is str for key in keys)


def _consists_of(value: object, containers: frozenset[type], *, all_floats: bool) -> bool:
    """Return whether ``value`` consists of scalars and ``containers``, all of them of exact types.

    The walk goes from one level of nesting to the next, without a call stack, in half the time of a recursive walk.

    Args:
        all_floats: Whether any float may occur. Otherwise only a float that ``json`` writes without an exponent.
    """
    level: list[Any] = get_referents(value) if type(value) in containers else [value]
    for _ in range(MAX_DEPTH):
        is_last = True
        for item in level:
            kind = type(item)
            if kind is str or kind is int:
                continue
            if kind in containers:
                is_last = False
            elif kind is float:
                # json writes an exponent outside of these bounds. orjson writes none below them, and before its version
                # 3.11 it wrote exponents in another form above them. NaN is outside of all bounds.
                if not (all_floats or 1e-4 <= abs(item) < 1e16 or item == 0):
                    return False
            elif kind is not bool and item is not None:
                return False
        if is_last:
            return True
        # The values in the containers of this level. CPython adds the keys of a dict unless all of them are of type str
        # exactly (Objects/dictobject.c, ``dict_traverse``).
        level = get_referents(*level)
    return False
