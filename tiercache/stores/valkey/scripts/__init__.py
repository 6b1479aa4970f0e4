"""The Lua scripts of the Valkey store. Each stands alone; the comment in its file lists its KEYS and ARGV."""

from __future__ import annotations

from ....lua import load_script

__all__ = ["script"]


def script(name: str) -> str:
    """Return the script in ``{name}.lua``."""
    return load_script(__name__, name)
