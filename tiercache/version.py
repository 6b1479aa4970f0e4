"""The version of the installed distribution, ``tiercache-agents``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

__all__ = ["__version__"]


def _installed_version() -> str:
    try:
        return version("tiercache-agents")
    except PackageNotFoundError:
        return "0"  # A source tree that is not installed.


__version__: Final = _installed_version()
