"""The Lua scripts of the item stores. All share ``items.lua``, those that change items share ``changes.lua`` too."""

from __future__ import annotations

from functools import cache
from typing import Final

from ....lua import load_script

__all__ = ["items_script"]

_CHANGES: Final = ("put", "renew")


@cache
def items_script(name: str) -> str:
    """Return the script in ``items_{name}.lua`` behind the functions that it shares with others."""
    shared = ("items", "changes") if name in _CHANGES else ("items",)
    return "\n".join(load_script(__name__, part) for part in (*shared, f"items_{name}"))
