"""The sizes of everything in this process that may grow with a cache: its containers, and the caches of functions."""

from __future__ import annotations

import functools
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, MutableMapping, MutableSet, Set
from types import FunctionType, MethodType
from typing import Any, Final

__all__ = ["container_sizes", "function_cache_sizes"]

_PACKAGE: Final = __name__.partition(".")[0]
# The search looks at the elements of a container only if it has no more elements: L1 has many, and they own nothing.
_MOST_ELEMENTS: Final = 256


def container_sizes(root: object) -> dict[str, int]:
    """Return the number of elements in the containers that ``root`` owns and that can grow, by class and attribute.

    The search follows the attributes of objects whose classes belong to the package, the elements of small containers,
    and the objects of bound methods, partial functions and closures. So a new container needs no entry in a list.
    """
    sizes: Counter[str] = Counter()
    # Objects, not ids alone: an object that ends during the search would free its id for another.
    seen: dict[int, object] = {}
    todo: list[object] = [root]
    while todo:
        owner = todo.pop()
        if id(owner) in seen:
            continue
        seen[id(owner)] = owner
        for name, value in _attributes(owner):
            if isinstance(value, MutableMapping | MutableSet | list | deque):
                sizes[f"{type(owner).__name__}.{name}"] += len(value)
            todo += _owned(value)
    return dict(sizes)


def function_cache_sizes() -> dict[str, int]:
    """Return the number of results that each function of the package with ``functools.cache`` keeps."""
    sizes: dict[str, int] = {}
    for module_name, module in list(sys.modules.items()):
        if module is None or not _is_ours(module_name):
            continue
        for value in list(vars(module).values()):
            if isinstance(value, functools._lru_cache_wrapper) and _is_ours(str(value.__module__)):
                sizes[f"{value.__module__}.{value.__qualname__}"] = value.cache_info().currsize
    return sizes


def _owned(value: Any) -> Iterator[object]:
    """Yield the objects of the package to which ``value`` leads."""
    if _is_ours(type(value).__module__):
        yield value
    elif isinstance(value, MethodType):
        yield from _owned(value.__self__)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _owned(part)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _owned(cell.cell_contents)
    elif _is_container(value) and len(value) <= _MOST_ELEMENTS:
        elements = [*value, *value.values()] if isinstance(value, Mapping) else list(value)
        for element in elements:
            yield from _owned(element)


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    names: list[str] = [*getattr(owner, "__dict__", ()), *getattr(owner, "__struct_fields__", ())]
    for kind in type(owner).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += (slots,) if isinstance(slots, str) else slots
    for name in dict.fromkeys(names):
        # The name of a slot with two underscores is mangled; no such slot is in the package.
        value = getattr(owner, name, None)
        if value is not None:
            yield name, value


def _is_container(value: object) -> bool:
    return isinstance(value, Mapping | Set | list | tuple | deque)


def _is_ours(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")
