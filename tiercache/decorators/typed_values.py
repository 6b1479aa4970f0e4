"""Typed JSON: arguments of a call as JSON that differs for values of different types.

None, a bool and a str stand as they are, and a list as a list. Every other value stands as an object with one member,
whose name is the type and whose value is the content: 1 is ``{"int": "1"}``, 1.0 is ``{"float": "0x1.0p+0"}``, and
``(1,)`` is ``{"tuple": [{"int": "1"}]}``. The name of a class that is not built in has its module and a dot, so that it
is never the name of a built-in type. The items of a set, and the members of a dict, stand in the order of their own
typed JSON. So two calls have the same typed JSON only if their arguments are of the same types and contents, and the
same call has the same typed JSON in every process.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from ..errors import UsageError

__all__ = ["typed_json", "typed_value"]

# Deeper than any argument is, and shallow enough for every Python version's recursion limit.
_MAX_DEPTH: Final = 100


def typed_json(values: Mapping[str, Any]) -> bytes:
    """Return the typed JSON of the arguments of a call, by name, in the order of their names.

    Raises:
        UsageError: An argument has, at any depth, a type whose contents are not known, text that is not Unicode, or
            more than 100 levels. The message has the name of the argument.
    """
    return _json({name: typed_value(value, name) for name, value in values.items()})


def typed_value(value: object, name: str) -> Any:
    """Return the typed form of ``value``, which consists of None, bool, str, lists and dicts.

    Args:
        name: The name of the argument in an error.

    Raises:
        UsageError: As for ``typed_json``.
    """
    try:
        return _typed(value, 0)
    except _UnknownTypeError as error:
        raise UsageError(
            f"the argument {name!r} has a value of type {error}, whose contents cannot be part of a key: leave it out "
            "with ignore=, or make the key with key="
        ) from None
    except _TooDeepError:
        raise UsageError(f"the argument {name!r} is nested more than {_MAX_DEPTH} levels deep") from None
    except orjson.JSONEncodeError as error:
        raise UsageError(f"the argument {name!r} has text that is not Unicode (a lone surrogate): {error}") from error


class _UnknownTypeError(Exception):
    """A value of a type that the typed form cannot hold. The text is the name of the type."""


class _TooDeepError(Exception):
    """A value is nested too deep, or contains itself."""


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _typed(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        # Here, and not where the whole is written, so that the error has the name of the argument.
        orjson.dumps(value)
        return value
    if depth == _MAX_DEPTH:
        raise _TooDeepError
    if kind is list:
        return [_typed(item, depth + 1) for item in value]
    built_in = _BUILT_IN.get(kind)
    if built_in is not None:
        return {kind.__name__: built_in(value, depth + 1)}
    name = f"{kind.__module__}.{kind.__qualname__}"
    contents = _contents(kind, value, depth + 1)
    if contents is None:
        raise _UnknownTypeError(name)
    return {name: contents}


def _contents(kind: type, value: Any, depth: int) -> Any:
    """Return the contents of a value of a class that is not built in, or None if they are not known."""
    if isinstance(value, Enum):
        # A combination of flags may have no name of its own.
        return [value.name, None if value.name is not None else _typed(value.value, depth)]
    known = _KNOWN.get(kind)
    if known is not None:
        return known(value, depth)
    if isinstance(value, PurePath):
        return str(value)
    fields = _fields(kind, value)
    return None if fields is None else {name: _typed(item, depth) for name, item in fields.items()}


def _fields(kind: type, value: Any) -> dict[str, Any] | None:
    """Return the fields of a record by name, or None if ``value`` is no record of a known kind.

    The records are: dataclasses, models of pydantic, named tuples, and classes of msgspec and attrs. A subclass of a
    built-in type may have contents besides its fields, and so is no record.
    """
    names: Any = None
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif isinstance(models := getattr(kind, "model_fields", None), dict) and hasattr(kind, "model_dump"):
        return {**{name: getattr(value, name) for name in models}, **(value.model_extra or {})}
    elif isinstance(value, tuple):
        names = getattr(kind, "_fields", None)
        return None if names is None or len(names) != len(value) else dict(zip(names, value, strict=True))
    elif hasattr(kind, "__struct_fields__"):
        names = kind.__struct_fields__
    elif hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    if names is None or isinstance(value, _CONTAINERS):
        return None
    # A field of a record may be unset.
    return {name: getattr(value, name) for name in names} if all(hasattr(value, name) for name in names) else None


def _of_dict(value: dict[Any, Any], depth: int) -> list[Any]:
    pairs = [[_typed(key, depth), _typed(item, depth)] for key, item in value.items()]
    return sorted(pairs, key=lambda pair: _json(pair[0]))


def _of_set(value: set[Any] | frozenset[Any], depth: int) -> list[Any]:
    return sorted((_typed(item, depth) for item in value), key=_json)


def _of_moment(value: datetime | time, depth: int) -> list[Any]:
    # The offset is in the text. The name of the zone is more than the offset: it decides on other moments.
    return [value.isoformat(), value.fold, None if value.tzinfo is None else _typed(value.tzinfo, depth)]


def _of_fixed_zone(value: tzinfo, depth: int) -> list[Any]:
    offset = value.utcoffset(None)
    return [None if offset is None else str(offset), value.tzname(None)]


_CONTAINERS: Final = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
_Contents = Callable[[Any, int], Any]
# The contents of values of exactly these types. An int stands as text, because JSON bounds numbers; a float stands as
# its exact bits, so that -0.0 differs from 0.0.
_BUILT_IN: Final[dict[type, _Contents]] = {
    int: lambda value, _: hex(value),
    float: lambda value, _: value.hex(),
    complex: lambda value, _: [value.real.hex(), value.imag.hex()],
    bytes: lambda value, _: base64.b64encode(value).decode(),
    bytearray: lambda value, _: base64.b64encode(value).decode(),
    tuple: lambda value, depth: [_typed(item, depth) for item in value],
    dict: _of_dict,
    set: _of_set,
    frozenset: _of_set,
    range: lambda value, _: [hex(value.start), hex(value.stop), hex(value.step)],
}
# The same for types of the standard library, whose names have their module.
_KNOWN: Final[dict[type, _Contents]] = {
    UUID: lambda value, _: str(value),
    Decimal: lambda value, _: str(value),
    Fraction: lambda value, _: [hex(value.numerator), hex(value.denominator)],
    date: lambda value, _: value.isoformat(),
    datetime: _of_moment,
    time: _of_moment,
    timedelta: lambda value, _: [value.days, value.seconds, value.microseconds],
    timezone: _of_fixed_zone,
    ZoneInfo: lambda value, _: value.key,
}
