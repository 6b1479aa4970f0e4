"""A loaded value that no store can take. Every caller that waits for the load gets it; neither level keeps it.

Such values are: text with half of a surrogate pair, values that are not JSON, and values that are nested too deeply.
"""

from __future__ import annotations

import json
import reprlib
from typing import Any

from msgspec import Struct

from ...engine.call import Loaded

__all__ = ["Unstorable", "own_copy", "unstorable"]


class Unstorable(Struct, frozen=True):
    """The value of a tool or kv loader, for the callers that wait for its load.

    Attributes:
        kept: The value. Its lists and dicts are copies, which only this object knows.
        stored_at: The time of the load, in seconds since the epoch.
        cost: Dollars that the call cost, or None if that is not known.
    """

    kept: Any
    stored_at: float
    cost: float | None = None

    @property
    def size_bytes(self) -> int:
        """0: L1 does not keep the value."""
        return 0

    @property
    def response(self) -> str:
        """The value as text: a str as it is, another value as JSON, with the text of the objects that JSON lacks.

        A value that cannot be written as JSON is shown in a few words.
        """
        if isinstance(self.kept, str):
            return str.__str__(self.kept)
        try:
            return json.dumps(self.kept, separators=(",", ":"), ensure_ascii=False, default=str)
        # Objects of the caller's may raise any exception; a value may contain itself, or have keys that are no text.
        except Exception:
            return reprlib.repr(self.kept)

    def value(self) -> Any:
        """Return the value, for one caller: its lists and dicts are new, its other objects are shared."""
        return own_copy(self.kept)


def unstorable(value: Any, error: Exception, stored_at: float, cost: float | None = None) -> Loaded:
    """Return the result of a load whose value no store takes, because of ``error``."""
    return Loaded(Unstorable(own_copy(value), stored_at, cost), b"", refusal=error)


def own_copy(value: Any) -> Any:
    """Return ``value`` with new lists and dicts at every depth. Other objects are shared, tuples included.

    A deep copy would also copy objects that must not be copied, and fails on values that are nested too deeply.
    """
    if type(value) not in (dict, list):
        return value
    copies: dict[int, Any] = {id(value): type(value)()}
    uncopied: list[Any] = [value]

    def copy_of(item: Any) -> Any:
        if type(item) not in (dict, list):
            return item
        if id(item) not in copies:
            copies[id(item)] = type(item)()
            uncopied.append(item)
        return copies[id(item)]

    while uncopied:
        source = uncopied.pop()
        if type(source) is dict:
            copies[id(source)].update((key, copy_of(item)) for key, item in source.items())
        else:
            copies[id(source)].extend(copy_of(item) for item in source)
    return copies[id(value)]
