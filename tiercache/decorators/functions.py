"""Functions to decorate: their names in keys, and their kinds."""

from __future__ import annotations

import inspect
import sys
from pathlib import PurePath
from typing import Any

from ..errors import UsageError
from ..text import check_name, shown

__all__ = ["check_async", "check_plain", "is_generator", "name_of"]


def check_async(function: object, otherwise: str, *, generators: bool = False) -> None:
    """Refuse a function that is not async.

    Args:
        otherwise: The decorator of plain functions, for the error.
        generators: Whether an async generator function is accepted too.

    Raises:
        UsageError: ``function`` is a plain function or a plain generator, a generator that is not accepted, or no
            function.
    """
    _check(function, generators=generators)
    if not inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
        raise UsageError(f"{shown(function)} is not async: {otherwise} decorates plain functions")


def check_plain(function: object, *, generators: bool = False) -> None:
    """Refuse a function that is async. Arguments and errors as for ``check_async``."""
    _check(function, generators=generators)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{shown(function)} is async: decorate it without cache.sync")


def is_generator(function: object) -> bool:
    """Return whether ``function`` is an async or a plain generator function."""
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)


def _check(function: object, *, generators: bool) -> None:
    if isinstance(function, classmethod | staticmethod):
        raise UsageError(f"@{type(function).__name__} must stand above this decorator, not below it")
    if not generators and is_generator(function):
        raise UsageError(f"{shown(function)} is a generator: only functions that return a value can be decorated")
    if not callable(function):
        raise UsageError(f"only a function can be decorated, not {shown(function)}")


def name_of(function: Any, name: str | None) -> str:
    """Return the name of a function in its keys: ``name``, or its module and its qualified name.

    The main module counts by the name with which it was started: a file by its stem.

    Raises:
        UsageError: ``name`` is empty, or is None and the function has no name of its own.
    """
    if name is not None:
        return check_name(name, "name")
    qualified = getattr(function, "__qualname__", None)
    if qualified is None or "<lambda>" in qualified:
        raise UsageError(f"{shown(function)} has no name of its own: give name=")
    return f"{_module_of(function.__module__)}.{qualified}"


def _module_of(module: str) -> str:
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return module if file is None else PurePath(file).stem
