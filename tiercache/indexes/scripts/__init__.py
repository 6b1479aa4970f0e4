"""The Lua scripts of the indexes, and the Lua functions that the scripts of other packages share with them.

``members_*.lua`` change one index, and ``register_*.lua`` the register of all indexes. There are two files of shared
functions:

1. ``index.lua``: whether the indexes of a cache are complete.
2. ``session.lua``: keeping a thread's hash, which is the index of the thread's fields. The session tier sends it too.
"""

from __future__ import annotations

from functools import cache

from ...lua import load_script

__all__ = [
    "index_functions",
    "index_script",
    "members_script",
    "note_fields_script",
    "register_script",
    "session_functions",
]


def index_functions() -> str:
    """Return the Lua functions that know whether the indexes are complete."""
    return load_script(__name__, "index")


def session_functions() -> str:
    """Return the Lua functions that keep a thread's hash and the lives of its fields."""
    return load_script(__name__, "session")


@cache
def index_script(name: str) -> str:
    """Return the script in ``index_{name}.lua`` behind ``index_functions``."""
    return "\n".join([index_functions(), load_script(__name__, f"index_{name}")])


def members_script(name: str) -> str:
    """Return the script in ``members_{name}.lua``, whose only key is an index."""
    return load_script(__name__, f"members_{name}")


def register_script(name: str) -> str:
    """Return the script in ``register_{name}.lua``, whose only key is the register of indexes."""
    return load_script(__name__, f"register_{name}")


@cache
def note_fields_script() -> str:
    """Return the script that adds the fields of other software to their thread's hash, behind ``session_functions``."""
    return "\n".join([session_functions(), load_script(__name__, "session_index")])
