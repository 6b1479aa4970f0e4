"""Packages of adapters whose public names are imported at their first use.

So a part of a package needs its framework when it is imported, and not when the package is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["imported_at_first_use"]


def imported_at_first_use(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the function ``__getattr__`` of a package.

    Args:
        package: The name of the package.
        modules: The public names, each with the module of the package that has it.
    """

    def find(name: str) -> Any:
        module = modules.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module}"), name)

    return find
