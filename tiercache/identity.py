"""Identity: a copy of a cache is the cache itself, and no cache can be pickled.

Frameworks copy their configuration deeply, clients included. A second object would share the connections of the first
one and know nothing of its writes.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

__all__ = ["KeepsIdentity"]


class KeepsIdentity:
    """An object whose shallow and deep copies are the object itself, and which cannot be pickled."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        # TypeError: the callers of pickle expect it of an object that cannot be pickled.
        raise TypeError(
            f"cannot pickle a {type(self).__name__}: a cache has connections, which belong to one process; "
            "pass its URL and name to the other process, and make a cache with AgentCache.from_url there"
        )
