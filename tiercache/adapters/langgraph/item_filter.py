"""The filter of a search in a store: whether a value has the fields that the caller asks for.

A condition is a value, which a field must equal, or a dict:

- a dict with a key that begins with ``$`` has operators: ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``;
- any other dict has conditions for the fields of a dict.

A list is a condition for each item of a list of the same length. ``$gt`` and its like compare numbers, also those in a
text, and do not hold where a field is no number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from ...errors import UsageError

__all__ = ["check_filter", "matches"]

_EQUALITIES: Final[dict[str, Callable[[Any, Any], bool]]] = {"$eq": operator.eq, "$ne": operator.ne}
_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def check_filter(condition: Any) -> None:
    """Check the operators of a condition, at every depth.

    Raises:
        UsageError: An operator is unknown, or compares with a value that is no number.
    """
    if isinstance(condition, Mapping):
        if _has_operators(condition):
            for name, operand in condition.items():
                _check_operator(name, operand)
        else:
            for part in condition.values():
                check_filter(part)
    elif isinstance(condition, list | tuple):
        for part in condition:
            check_filter(part)


def _check_operator(name: object, operand: Any) -> None:
    if name in _EQUALITIES:
        return
    if name not in _COMPARISONS:
        known = ", ".join([*_EQUALITIES, *_COMPARISONS])
        raise UsageError(f"filter has the unknown operator {name!r}; the operators are {known}")
    if _number(operand) is None:
        raise UsageError(f"filter compares by {name} with a {type(operand).__name__}, which is no number")


def matches(value: Any, condition: Any) -> bool:
    """Return whether ``value`` meets ``condition``, which ``check_filter`` has checked."""
    if isinstance(condition, Mapping):
        if _has_operators(condition):
            return all(_holds(name, value, operand) for name, operand in condition.items())
        return isinstance(value, dict) and all(matches(value.get(name), part) for name, part in condition.items())
    if isinstance(condition, list | tuple):
        if not isinstance(value, list) or len(value) != len(condition):
            return False
        return all(map(matches, value, condition))
    return bool(value == condition)


def _has_operators(condition: Mapping[Any, Any]) -> bool:
    return any(isinstance(name, str) and name.startswith("$") for name in condition)


def _holds(name: str, value: Any, operand: Any) -> bool:
    if name in _EQUALITIES:
        return bool(_EQUALITIES[name](value, operand))
    number, bound = _number(value), _number(operand)
    return number is not None and bound is not None and _COMPARISONS[name](number, bound)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    # An operand of a caller's class may raise any exception.
    except Exception:
        return None
