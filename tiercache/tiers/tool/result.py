"""The result that the tool tier returns."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from msgspec import UNSET
from msgspec.structs import force_setattr

from ..result import Result

__all__ = ["ToolResult"]


class ToolResult(Result, frozen=True, eq=False):
    """A result of the tool tier. It also has the attributes of ``Result``."""

    _hidden: ClassVar[tuple[str, ...]] = ("value",)

    _value: Any = UNSET

    @property
    def value(self) -> Any:
        """The value that the loader returned, or None for a miss. Decoded at the first read.

        JSON changes some types: a tuple is returned as a list, and the keys of a dict are returned as str.
        """
        if self._value is UNSET:
            entry = self._entry
            text = self.response
            force_setattr(self, "_value", json.loads(entry.value.response) if entry and entry.value.is_json else text)
        return self._value
