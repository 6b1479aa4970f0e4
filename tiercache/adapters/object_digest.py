"""A digest of an object of Python, from its content alone: the same in every process, and for every order of a dict.

An object is hashed as a sequence of parts. A part is the name of its kind, the length of its bytes, and the bytes:

- a list, a tuple or a dataclass has the digests of its parts as bytes, in order;
- a dict or a set has the digests of its parts as bytes, sorted;
- the name of a class is a part of each object, so that objects of two classes with equal fields differ.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections import deque
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from pathlib import PurePath
from typing import Any, Final

from pydantic import BaseModel

from ..errors import UsageError

__all__ = ["object_digest"]

_MAX_DEPTH: Final = 100


def object_digest(value: Any, place: str) -> bytes:
    """Return the digest of ``value``: 32 bytes.

    A value may consist of None, bool, int, float, complex, str, bytes, list, tuple, deque, dict, set, enums, dates and
    times, Decimal, UUID, paths, dataclasses, and pydantic models. ``1``, ``1.0`` and ``True`` differ.

    Args:
        place: The place of the value in an error.

    Raises:
        UsageError: A part of the value is of another kind, or is nested too deeply. The message has the place.
    """
    return _of(value, place, 0)


def _of(value: Any, place: str, depth: int) -> bytes:
    if depth > _MAX_DEPTH:
        raise UsageError(f"{place[:80]}... is nested deeper than {_MAX_DEPTH} levels, or contains itself")
    if isinstance(value, Enum):
        return _digest(value, str(value.name or value.value).encode())  # A combination of flags may have no name.
    plain = _plain_bytes(value)
    if plain is not None:
        return _digest(value, plain)
    if isinstance(value, BaseModel | dict | list | tuple | set | frozenset | deque) or _is_dataclass(value):
        return _digest(value, b"".join(_parts(value, place, depth + 1)))
    raise UsageError(f"no key can be made from {place}: a {type(value).__qualname__}")


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _digest(value: object, data: bytes) -> bytes:
    kind = type(value)
    # The names of built-in classes do not depend on a module.
    name = f"{kind.__module__}.{kind.__qualname__}".encode("utf-8", "surrogatepass")
    return sha256(b"%d:%b%d:%b" % (len(name), name, len(data), data)).digest()


def _plain_bytes(value: Any) -> bytes | None:
    """Return the bytes of a value without parts, or None for a value of another kind."""
    match value:
        case None:
            return b""
        case bool():
            return b"1" if value else b"0"
        case int():
            return b"%x" % value  # Decimal digits are limited in number.
        case float():
            return struct.pack(">d", value)
        case complex():
            return struct.pack(">dd", value.real, value.imag)
        case str():
            return str.__str__(value).encode("utf-8", "surrogatepass")
        case bytes() | bytearray():
            return bytes(value)
        case datetime() | time():
            # Two zones may have one offset now, and differ tomorrow.
            return f"{value.isoformat()} {value.fold} {value.tzinfo!r}".encode()
        case date():
            return value.isoformat().encode()
        case timedelta():
            return f"{value.days} {value.seconds} {value.microseconds}".encode()
        case Decimal() | uuid.UUID() | PurePath():
            return str(value).encode("utf-8", "surrogatepass")
    return None


def _parts(value: Any, place: str, depth: int) -> Iterable[bytes]:
    """Return the digests of the parts of ``value``, in an order that equal values share."""
    if isinstance(value, dict):
        # Each key comes with its value: dicts that exchange two values differ.
        return sorted(_of(key, f"a key of {place}", depth) + _of(value[key], _at(place, key), depth) for key in value)
    if isinstance(value, set | frozenset):
        return sorted(_of(item, f"an item of {place}", depth) for item in value)
    if isinstance(value, BaseModel):
        # ``__dict__`` has cached properties too, which an equal object may not have computed yet.
        fields = {name: value.__dict__[name] for name in type(value).model_fields if name in value.__dict__}
        fields |= {**(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
        return sorted(_of(name, place, depth) + _of(part, f"{place}.{name}", depth) for name, part in fields.items())
    if isinstance(value, list | tuple | deque):
        length = value.maxlen if isinstance(value, deque) else None
        return [
            _of(length, place, depth),
            *(_of(part, _at(place, i), depth) for i, part in enumerate(value)),
        ]
    return [
        _of(field.name, place, depth) + _of(getattr(value, field.name), f"{place}.{field.name}", depth)
        for field in dataclasses.fields(value)
        if hasattr(value, field.name)
    ]


def _at(place: str, key: object) -> str:
    # The place is for an error: a key of the caller's own class is not shown.
    return f"{place}[{key!r}]" if isinstance(key, str | int) else f"{place}[...]"
