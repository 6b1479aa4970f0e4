"""The Lua scripts that Valkey runs, each in a file of its own."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["index_script", "script", "session_script", "thread_script"]


@cache
def script(name: str) -> str:
    """Return the script ``name``, which stands by itself."""
    return _read(f"{name}.lua")


@cache
def index_script(name: str) -> str:
    """Return the script ``index_{name}``, with what those share that know of indexes in front of it."""
    return "\n".join(map(script, ("index", f"index_{name}")))


@cache
def session_script(name: str) -> str:
    """Return the script ``session_{name}``, with what the session scripts share in front of it."""
    return "\n".join(map(script, ("session", f"session_{name}")))


@cache
def thread_script(name: str) -> str:
    """Return ``session_{name}`` in a script that runs it for a whole thread."""
    body = script(f"session_{name}")
    run = f"local function run(KEYS, ARGV)\n{body}\nend"
    return "\n".join([script("index"), script("session"), run, script("thread")])


def _read(file: str) -> str:
    # Without its comments, which are for readers: a script is sent with every call.
    lines = files(__name__).joinpath(file).read_text("utf-8").splitlines()
    return "\n".join(line for line in map(str.strip, lines) if line and not line.startswith("--"))
