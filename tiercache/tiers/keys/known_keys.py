"""Aliases: what a request was found to mean, under its exact fingerprint, so that it is not worked out again.

Two generations, each with half of the bounds. An alias that is found in the older one moves to the younger; when that
is full it becomes the older one, and what was the older one is forgotten. So what is used between two changes of
generations is never lost, and neither finding nor forgetting keeps an order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

__all__ = ["Aliases"]

T = TypeVar("T")

# The place in the dict, which grows by doubling, and the tuples of strings.
_OVERHEAD_BYTES: Final = 200
# From here on it is noted which strings are counted already; less of them is not worth the note.
_LARGE_BYTES: Final = 1024


class Aliases(Generic[T]):
    """The aliases of one tier. They are exact: nothing but memory ever calls for forgetting one.

    Args:
        max_entries: Most aliases.
        max_bytes: Most bytes that they take, with what they lead to. A large string counts once in each generation,
            however many of its aliases share it.
        size_of: Returns the bytes that what one leads to takes.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._max_entries = max_entries // 2
        self._max_bytes = max_bytes // 2
        self._size_of = size_of
        self._younger: dict[Hashable, T] = {}
        self._older: dict[Hashable, T] = {}
        self._younger_bytes = 0
        self._older_bytes = 0
        # The ids of the large strings of the younger generation, which loses none of them while it is that.
        self._counted: set[int] = set()

    def get(self, mark: Hashable) -> T | None:
        """Return what the fingerprint ``mark`` leads to, None where that is not known."""
        try:
            return self._younger[mark]
        except KeyError:
            found = self._older.pop(mark, None)
        if found is not None:
            # Its large strings stay counted while the generation lasts: others in it may share them.
            self._older_bytes -= self._size(mark, found, {})
            self.put(mark, found)
        return found

    def put(self, mark: Hashable, target: T) -> None:
        """Remember that ``mark`` leads to ``target``, unless it is too large by itself."""
        large: dict[int, int] = {}
        own = self._size(mark, target, large)
        alone = own + sum(large.values()) if large else own
        if alone > self._max_bytes or not self._max_entries or mark in self._younger:
            return
        size = own + sum(large[each] for each in large.keys() - self._counted) if large else own
        if self._younger_bytes + size > self._max_bytes or len(self._younger) >= self._max_entries:
            self._older, self._older_bytes = self._younger, self._younger_bytes
            self._younger, self._younger_bytes, self._counted = {}, 0, set()
            size = alone
        self._younger[mark] = target
        self._younger_bytes += size
        if large:
            self._counted.update(large)

    def _size(self, mark: Hashable, target: T, large: dict[int, int]) -> int:
        return _OVERHEAD_BYTES + _size_of_mark(mark, large) + self._size_of(target)

    @property
    def entry_count(self) -> int:
        """Aliases kept."""
        return len(self._younger) + len(self._older)

    @property
    def size_bytes(self) -> int:
        """Bytes accounted for."""
        return self._younger_bytes + self._older_bytes


def _size_of_mark(mark: Hashable, large: dict[int, int] | None = None) -> int:
    """Return the bytes of a fingerprint; those of large strings are put into ``large`` instead, by the string's id."""
    if type(mark) is tuple:
        size = 0
        for each in mark:
            size += _size_of_mark(each, large)
        return size
    size = sys.getsizeof(mark)
    if large is not None and size >= _LARGE_BYTES and type(mark) is str:
        large[id(mark)] = size
        return 0
    return size
