"""The types of values: of those that a loader returns, and of those that a caller stores.

A loader's value comes back with the type that the loader returns, so this type must be one that JSON keeps. A type
checker refuses a dataclass, a set or a datetime, which have no JSON form. It also refuses a tuple, which comes back as
a list, and a dict with keys that are numbers, which come back as str. A value that a caller stores has no type when it
is read, so there the checker refuses only values without a JSON form. The checker does not look at the items of lists
and mappings: a list of one type is not a list of a wider type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Json", "KvValue", "Storable", "StorableInKv"]

# A mapping, and not a dict: a TypedDict is a mapping.
Json: TypeAlias = bool | int | float | str | list[Any] | Mapping[str, Any] | None
KvValue: TypeAlias = Json | bytes

Storable: TypeAlias = Json | tuple[Any, ...] | Mapping[Any, Any]
StorableInKv: TypeAlias = Storable | bytes
