"""The result that the tool tier returns."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from msgspec import UNSET
from msgspec.structs import force_setattr

from ..result import TextResult

__all__ = ["ToolResult"]


T_co = TypeVar("T_co", covariant=True)


class ToolResult(TextResult, Generic[T_co], frozen=True, eq=False):
    """A result of the tool tier; its value has the type that the loader returns.

    It also has the attributes of ``Result``.
    """

    _hidden: ClassVar[tuple[str, ...]] = ("value",)

    _value: Any = UNSET

    @property
    def value(self) -> T_co:
        """The value that the loader returned, or None for a miss. Decoded at the first read.

        JSON changes some types: a tuple is returned as a list, and the keys of a dict are returned as str.
        """
        if self._value is UNSET:
            force_setattr(self, "_value", None if self._entry is None else self._entry.value.value())
        return self._value  # type: ignore[no-any-return]
