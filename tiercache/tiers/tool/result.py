"""What comes out of the tool tier."""

from __future__ import annotations

import json
from typing import Any

from msgspec import UNSET
from msgspec.structs import force_setattr

from ..result import Result

__all__ = ["ToolResult"]


class ToolResult(Result, frozen=True):
    """A result of the tool tier; see ``Result`` for what it shares with the others."""

    _value: Any = UNSET

    @property
    def value(self) -> Any:
        """The value as the loader returned it, None for a miss. Decoded when first asked for.

        What JSON has no form for comes back as what it has: a tuple as a list, keys as str.
        """
        if self._value is UNSET:
            entry = self._entry
            text = self.response
            force_setattr(self, "_value", json.loads(entry.value.response) if entry and entry.value.is_json else text)
        return self._value
