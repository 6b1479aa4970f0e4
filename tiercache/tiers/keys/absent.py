"""Absent parameters: the objects by which SDKs of model APIs mark a parameter that the caller has not given.

The SDKs of OpenAI and Anthropic, and others that the same generator has made, have the classes ``NotGiven`` and
``Omit``. They are recognised by their names, so that no SDK is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .exact_json import MAX_DEPTH

__all__ = ["is_absent", "without_absent"]

_NAMES: Final = frozenset({"NotGiven", "Omit"})
_SDKS: Final = frozenset({"openai", "anthropic"})
# The module that defines the classes in every SDK of that generator.
_MODULE: Final = "._types"


def is_absent(value: object) -> bool:
    """Return whether an SDK marks ``value`` as not given."""
    kind = type(value)
    return kind.__name__ in _NAMES and (kind.__module__ in _SDKS or kind.__module__.endswith(_MODULE))


def without_absent(value: Any) -> Any:
    """Return ``value`` without the absent parameters in it and in the dicts inside, or ``value`` itself if it has none.

    An absent value in a list stays, because without it the other elements would change their places.
    """
    return _without(value, MAX_DEPTH)


def _without(value: Any, depth: int) -> Any:
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        kept = {key: _without(item, depth - 1) for key, item in value.items() if not is_absent(item)}
        return value if len(kept) == len(value) and all(kept[key] is value[key] for key in kept) else kept
    if isinstance(value, list | tuple):
        items = [_without(item, depth - 1) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if isinstance(value, list) else tuple(items)
    return value
