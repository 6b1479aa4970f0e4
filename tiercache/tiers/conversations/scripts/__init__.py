"""The Lua scripts of the stores of conversations. All share ``conversations.lua``."""

from __future__ import annotations

from functools import cache

from ....lua import load_script

__all__ = ["conversations_script"]


@cache
def conversations_script(name: str) -> str:
    """Return the script in ``conversations_{name}.lua`` behind the functions that all share."""
    return "\n".join(load_script(__name__, part) for part in ("conversations", f"conversations_{name}"))
