"""The memory that a decoded JSON value takes."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["memory_of"]


def memory_of(value: Any) -> int:
    """Return the bytes that a value takes, with every list, dict, key and scalar in it. A shared part counts often."""
    total = 0
    left = [value]
    while left:
        item = left.pop()
        total += sys.getsizeof(item)
        if type(item) is dict:
            left += item
            left += item.values()
        elif type(item) is list:
            left += item
    return total
