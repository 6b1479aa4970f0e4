"""The Lua scripts of the checkpoints. ``common.lua`` has the functions that the other scripts share."""

from __future__ import annotations

from functools import cache

from ....lua import load_script

__all__ = ["checkpoint_script", "list_script"]


@cache
def checkpoint_script(name: str) -> str:
    """Return the script in ``checkpoint_{name}.lua``, for the keys of a thread, behind the shared functions."""
    return "\n".join([load_script(__name__, "common"), load_script(__name__, f"checkpoint_{name}")])


def list_script(name: str) -> str:
    """Return the script in ``list_{name}.lua``, whose only key is a list of threads."""
    return load_script(__name__, f"list_{name}")
