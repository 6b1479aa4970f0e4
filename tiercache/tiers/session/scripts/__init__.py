"""The Lua scripts of the session tier. The scripts share ``session.lua`` with the indexes."""

from __future__ import annotations

from functools import cache

from ....indexes.scripts import index_functions, session_functions
from ....lua import load_script

__all__ = ["active_script", "session_script", "thread_script"]


@cache
def session_script(name: str) -> str:
    """Return the script in ``session_{name}.lua`` behind the functions that the session scripts share."""
    return "\n".join([session_functions(), _body(name)])


@cache
def thread_script(name: str) -> str:
    """Return the script in ``thread.lua`` that runs ``session_{name}.lua`` for a whole thread."""
    run = f"local function run(KEYS, ARGV)\n{_body(name)}\nend"
    return "\n".join([index_functions(), session_functions(), run, load_script(__name__, "thread")])


def active_script() -> str:
    """Return the script in ``active.lua``."""
    return load_script(__name__, "active")


def _body(name: str) -> str:
    return load_script(__name__, f"session_{name}")
