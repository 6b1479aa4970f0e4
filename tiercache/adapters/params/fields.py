"""Fields: a JSON object whose fields are placed one by one, so that none is lost.

A caller takes the fields that it gives a place in the prepared params. ``rest`` has all others, and goes beside them. A
field that is null counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ...errors import UsageError

__all__ = ["Fields", "dicts_in"]

T = TypeVar("T")


class Fields:
    """The fields of a JSON object that have no place yet.

    Args:
        whole: The object.
        place: The place of the object in the request, or of the list that has it.
        number: The number of the object in that list.

    Attributes:
        whole: The object.
    """

    def __init__(self, whole: Mapping[str, Any], place: str, number: int | None = None) -> None:
        self.whole = whole
        self._place = place
        self._number = number
        self._left = {name: value for name, value in whole.items() if value is not None}
        self._inner: dict[str, Fields] = {}

    @property
    def place(self) -> str:
        """The place of the object in the request, for an error."""
        return self._place if self._number is None else f"{self._place}[{self._number}]"

    def peek(self, name: str, kind: type[T]) -> T | None:
        """Return a field of type ``kind``, or None: the field is absent, or of another type."""
        value = self._left.get(name)
        return value if isinstance(value, kind) else None

    def take(self, name: str, kind: type[T]) -> T | None:
        """Return a field of type ``kind``, which has a place from now on; or None, and the field stays."""
        value = self.peek(name, kind)
        if value is not None:
            del self._left[name]
        return value

    def take_text(self, name: str) -> str | None:
        """Do as ``take`` for a text that is not empty."""
        return self.take(name, str) if self._left.get(name) else None

    def take_value(self, name: str, *values: object) -> bool:
        """Take a field if it equals one of ``values``; return whether it does."""
        found = name in self._left and self._left[name] in values
        if found:
            del self._left[name]
        return found

    def inner(self, name: str) -> Fields | None:
        """Return the fields of an object in this one, or None if there is no object."""
        value = self.take(name, dict)
        if value is None:
            return None
        self._inner[name] = Fields(value, f"{self.place}.{name}")
        return self._inner[name]

    def rest(self) -> dict[str, Any]:
        """Return the fields that have no place."""
        if not self._inner:
            return self._left
        return {**self._left, **{name: rest for name, fields in self._inner.items() if (rest := fields.rest())}}


def dicts_in(value: object, place: str) -> list[dict[str, Any]]:
    """Return ``value``.

    Raises:
        UsageError: ``value`` is no list of dicts.
    """
    if not isinstance(value, list):
        raise UsageError(f"{place} must be a list, not {type(value).__name__}")
    for number, each in enumerate(value):
        if not isinstance(each, dict):
            raise UsageError(f"{place}[{number}] must be a mapping, not {type(each).__name__}")
    return value
