"""The result that a kv tier returns."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from msgspec import UNSET
from msgspec.structs import force_setattr

from ..result import MISS, Result

__all__ = ["KvResult"]


T_co = TypeVar("T_co", covariant=True)


class KvResult(Result, Generic[T_co], frozen=True, eq=False):
    """The outcome of a load through the cache; its value has the type that the loader returns.

    It also has the attributes of ``Result``.
    """

    _value: Any = UNSET

    _shown: ClassVar[tuple[str, ...]] = (
        *("hit", "value", "key", "source", "age", "ttl", "coalesced", "degraded", "stale"),
    )

    @property
    def value(self) -> T_co:
        """The value, or ``MISS`` for a miss in mode "only_cached". A list or a dict belongs to the caller."""
        if self._value is UNSET:
            force_setattr(self, "_value", MISS if self._entry is None else self._entry.value.value())
        return self._value  # type: ignore[no-any-return]
