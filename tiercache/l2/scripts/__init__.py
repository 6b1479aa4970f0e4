"""The Lua scripts that Valkey runs, each in a file of its own."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["script", "session_script"]


@cache
def script(name: str) -> str:
    """Return the script ``name``, which stands by itself."""
    return _read(f"{name}.lua")


@cache
def session_script(name: str) -> str:
    """Return the script ``session_{name}``, with what the session scripts share in front of it."""
    shared, own = (_read(f"{file}.lua") for file in ("session", f"session_{name}"))
    return f"{shared}\n{own}"


def _read(file: str) -> str:
    # Without its comments, which are for readers: a script is sent with every call.
    lines = files(__name__).joinpath(file).read_text("utf-8").splitlines()
    return "\n".join(line for line in map(str.strip, lines) if line and not line.startswith("--"))
